"""Collation keeps what the default collation does, except for lists of annotations; crops, archives, downloads."""

import io
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from taming.data.helper_types import Annotation
from taming.data.utils import (
    custom_collate,
    download_urls,
    get_root,
    is_prepared,
    mark_prepared,
    prompt_download,
    quadratic_crop,
    reporthook,
    unpack,
)

ANNOTATION = Annotation(area=1.0, image_id="i", bbox=(0.0, 0.0, 1.0, 1.0), category_no=3, category_id="c")
Point = namedtuple("Point", "x name")

LEAVES = st.one_of(st.integers(-9, 9), st.booleans(), st.floats(-1, 1), st.text(max_size=3), st.binary(max_size=3))
SAMPLES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.tuples(inner, inner),
        st.builds(Point, inner, inner),
        st.dictionaries(st.text(max_size=2), inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


def same(a, b):
    """Equality of nested batches, types and dtypes included; whether positions form a list or a tuple is no matter."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b)) and hasattr(a, "_fields") == hasattr(b, "_fields")
    return type(a) is type(b) and a == b


@settings(max_examples=100, deadline=None)
@given(sample=SAMPLES, copies=st.integers(1, 3))
def test_agrees_with_the_default_collation_where_there_are_no_annotations(sample, copies):
    batch = [sample] * copies
    assert same(custom_collate(batch), default_collate(batch))


def test_values_of_every_kind():
    batch = custom_collate(
        [
            {
                "tensor": torch.full((2,), float(i)),
                "array": np.full((2, 3), i, dtype=np.float64),
                "number": i,
                "flag": i > 0,
                "fraction": 0.5 * i,
                "scalar": np.float32(i),
                "text": np.str_(f"s{i}"),
                "caption": [f"caption {i}"],
                "point": Point(i, f"p{i}"),
                "pair": (i, f"q{i}"),
            }
            for i in range(2)
        ]
    )
    assert same(batch["tensor"], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert (batch["array"].dtype, batch["array"].shape) == (torch.float64, (2, 2, 3))
    assert same(batch["number"], torch.tensor([0, 1]))
    assert same(batch["flag"], torch.tensor([False, True]))
    assert same(batch["fraction"], torch.tensor([0.0, 0.5], dtype=torch.float64))
    assert same(batch["scalar"], torch.tensor([0.0, 1.0]))
    assert batch["text"] == ["s0", "s1"]
    assert batch["caption"] == [("caption 0", "caption 1")]
    assert isinstance(batch["point"], Point)
    assert same(batch["point"].x, torch.tensor([0, 1]))
    assert same(batch["pair"][0], torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "lists",
    [[[ANNOTATION], [ANNOTATION] * 2], [[], [ANNOTATION]], [[ANNOTATION], []], [[], []]],
    ids=["unequal", "first empty", "last empty", "all empty"],
)
def test_annotation_lists_stay_lists(lists):
    batch = custom_collate([{"annotations": annotations} for annotations in lists])
    assert batch == {"annotations": lists}
    assert type(batch["annotations"]) is list


@pytest.mark.parametrize(
    ("values", "error", "parts"),
    [
        ([None, None], TypeError, ["NoneType"]),
        ([1, None], TypeError, ["NoneType"]),
        ([torch.zeros(2), None], TypeError, ["NoneType"]),
        ([np.array([None])] * 2, TypeError, ["ndarray", "object"]),
        ([object(), object()], TypeError, ["object"]),
        ([[1], [1, 2]], RuntimeError, ["unequal length [1, 2]"]),
        ([[], [1]], RuntimeError, ["unequal length [0, 1]"]),
        ([torch.zeros(2), torch.zeros(3)], RuntimeError, ["equal size"]),
        ([np.zeros(2), np.zeros(3)], RuntimeError, ["equal size"]),
    ],
)
def test_what_cannot_be_collated_is_named_with_its_place(values, error, parts):
    with pytest.raises(error) as raised:
        custom_collate([{"outer": [0, {"inner": value}]} for value in values])
    for part in ["batch['outer'][1]['inner']", *parts]:
        assert part in str(raised.value)


def test_collates_in_workers():
    samples = [{"image": np.zeros((2, 2)), "annotations": [ANNOTATION] * i} for i in range(4)]
    batches = list(DataLoader(samples, batch_size=2, num_workers=2, collate_fn=custom_collate))
    assert [len(annotations) for batch in batches for annotations in batch["annotations"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((2, 3, 6, 5), [2, 3, 4, 5], [2, 3, 4, 5]),
        ((8, 8, 10, 10), [8, 9], [8, 9]),
        ((7, 0, 99, 4), [0, 1, 2, 3], [6, 7, 8, 9]),
        ((0, 4, 1, 8), [4, 5, 6, 7], [2, 1, 0, 1]),
        ((5, 5, 5, 5), [4, 5], [4, 5]),
    ],
    ids=["inside", "corner", "clipped", "reflected", "point"],
)
def test_quadratic_crop(box, rows, columns):
    image = np.arange(200).reshape(10, 10, 2)
    np.testing.assert_array_equal(quadratic_crop(image, box), image[np.ix_(rows, columns)])


def test_quadratic_crop_scales_and_copies():
    image = np.zeros((20, 20))
    crop = quadratic_crop(image, (8, 8, 12, 12), alpha=1.5)
    assert crop.shape == (6, 6)
    crop += 1
    assert not image.any()


def add_tar_member(path, name):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 2
        archive.addfile(member, io.BytesIO(b"ok"))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "zip"])
def test_unpacks_beside_the_archive(tmp_path, suffix):
    path = tmp_path / f"archive.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/file.txt", "ok")
    else:
        add_tar_member(path, "folder/file.txt")
    unpack(path)
    assert (tmp_path / "folder" / "file.txt").read_text() == "ok"


def test_unpack_keeps_members_inside_and_refuses_other_archives(tmp_path):
    (tmp_path / "inner").mkdir()
    add_tar_member(tmp_path / "inner" / "evil.tar", "../evil.txt")
    with pytest.raises(ValueError, match=r"evil\.tar: nothing more is extracted, it has an unsafe member"):
        unpack(str(tmp_path / "inner" / "evil.tar"))
    assert not (tmp_path / "evil.txt").exists()
    with pytest.raises(NotImplementedError, match=r"\.rar"):
        unpack(tmp_path / "x.rar")


def test_report_hook_sets_total_and_advances():
    with tqdm(disable=False, file=io.StringIO()) as bar:
        hook = reporthook(bar)
        hook(2, 10, 45)
        assert (bar.n, bar.total) == (20, 45)
        hook(3, 10)
        assert (bar.n, bar.total) == (30, 45)


def test_roots_and_their_marker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = get_root("set")
    assert Path(root) == Path("data/set")
    assert Path(root).is_dir()
    assert not is_prepared(root)
    mark_prepared(root)
    assert is_prepared(root)
    assert (tmp_path / "data/set/.ready").exists()


def test_prompt_returns_at_once_where_file_or_content_is_present(tmp_path):
    (tmp_path / "content").mkdir()
    assert prompt_download("x.zip", "somewhere", tmp_path, "content") == str(tmp_path / "x.zip")


def test_prompt_without_a_terminal_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        prompt_download("x.zip", "https://example.org/x", tmp_path, "content")
    for part in ("https://example.org/x", str(tmp_path / "x.zip"), str(tmp_path / "content")):
        assert part in str(error.value)


def test_prompt_asks_until_the_file_is_there(tmp_path, monkeypatch):
    questions = []

    def answer(question):
        questions.append(question)
        if len(questions) == 2:
            (tmp_path / "x.zip").touch()

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    prompt_download("x.zip", "somewhere", tmp_path)
    assert len(questions) == 2


def test_downloads_several_files_under_their_names(tmp_path, monkeypatch):
    fetched = {}
    monkeypatch.setattr("taming.util.download", lambda url, path: fetched.update({str(path): url}))
    paths = download_urls({"a.txt": "https://example.org/1", "b.txt": "https://example.org/2"}, tmp_path)
    assert paths == {name: str(tmp_path / name) for name in ("a.txt", "b.txt")}
    assert list(fetched.items()) == [
        (paths["a.txt"], "https://example.org/1"),
        (paths["b.txt"], "https://example.org/2"),
    ]
