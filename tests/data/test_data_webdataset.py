"""Images out of tar files: what is in them, in which order, and what is wrong with them."""

import io
import random
import tarfile
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from taming.data.base import ImagePaths
from taming.data.datamodule import DataModuleFromConfig
from taming.data.streams import Part, StreamLoader

pytest.importorskip("webdataset")

from taming.data.webdataset import WebImages

SIZE = 8
N_TARS, PER_TAR = 3, 8


def picture(number, width=14):
    image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (10, width, 3), dtype=np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def tars(tmp_path):
    """Three tar files of eight samples, `a/<number>.png`, `.cls` and `.txt`; the folder of them."""
    for tar in range(N_TARS):
        numbers = range(tar * PER_TAR, (tar + 1) * PER_TAR)
        members = [
            member
            for number in numbers
            for member in (
                (f"a/{number:02}.png", picture(number)),
                (f"a/{number:02}.cls", str(number).encode()),
                (f"a/{number:02}.txt", f"number {number}".encode()),
            )
        ]
        write_tar(tmp_path / f"{tar:02}.tar", members)
    return tmp_path


def urls(folder):
    return f"{folder}/{{00..{N_TARS - 1:02}}}.tar"


def numbers(items):
    return [int(item["file_path_"][-2:]) for item in items]


def test_items_have_what_the_files_have(tars, tmp_path):
    items = list(WebImages(urls(tars), SIZE, shuffle=0, labels={"class_label": "cls", "caption": "txt"}))
    assert numbers(items) == list(range(24))
    assert list(items[9]) == ["image", "class_label", "caption", "file_path_"]
    assert (items[9]["class_label"], items[9]["caption"]) == (9, "number 9")
    assert items[9]["file_path_"] == f"{tars}/01.tar:a/09"
    (tmp_path / "9.png").write_bytes(picture(9))
    np.testing.assert_array_equal(items[9]["image"], ImagePaths([tmp_path / "9.png"], size=SIZE)[0]["image"])
    whole = next(iter(WebImages([f"{tars}/00.tar"])))["image"]
    assert whole.shape == (10, 14, 3) and whole.dtype == np.float32


@pytest.mark.parametrize("n_streams", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shuffle", [0, 5])
def test_all_streams_together_are_all_samples_once(tars, n_streams, shuffle):
    dataset = WebImages(urls(tars), SIZE, shuffle=shuffle)
    streams = [numbers(dataset.items(Part(0, stream, n_streams, 0, None))) for stream in range(n_streams)]
    assert sorted(chain.from_iterable(streams)) == list(range(24))


def test_orders_follow_from_seed_and_epoch(tars):
    def order(epoch, **options):
        dataset = WebImages(urls(tars), SIZE, random_crop=True, flip=True, **options)
        dataset.start(epoch)
        items = list(dataset)
        return numbers(items), np.stack([item["image"] for item in items])

    random.seed(0)
    first, again = order(1, seed=3), order(1, seed=3)
    assert first[0] == again[0] and np.array_equal(first[1], again[1])
    orders = {tuple(order(epoch, seed=seed)[0]) for epoch, seed in ((0, 3), (1, 3), (1, 4))}
    assert len(orders) == 3 and tuple(range(24)) not in orders


def test_crops_and_flips_vary_between_samples_and_epochs(tmp_path):
    content = picture(0, width=400)
    write_tar(tmp_path / "x.tar", [(f"{number}.png", content) for number in range(30)])
    dataset = WebImages(tmp_path / "x.tar", 10, random_crop=True, flip=True)
    crops = []
    for epoch in range(2):
        dataset.start(epoch)
        crops += [item["image"].tobytes() for item in dataset]
    assert len(set(crops)) > 50


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_epoch_goes_on_with_the_same_images(tars, workers):
    def loader():
        dataset = WebImages(urls(tars), SIZE, random_crop=True, shuffle=4, epoch_size=30)
        return StreamLoader(dataset, batch_size=4, num_workers=workers)

    whole = [batch["image"].numpy() for batch in loader()]
    assert sum(map(len, whole)) == 30
    interrupted = loader()
    batches = iter(interrupted)
    for _ in range(3):
        next(batches)
    resumed = loader()
    resumed.load_state_dict(interrupted.state_dict())
    rest = [batch["image"].numpy() for batch in resumed]
    assert len(rest) == 5
    for ours, expected in zip(rest, whole[3:], strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_by_config(tars):
    params = {"urls": urls(tars), "size": SIZE, "epoch_size": 20, "labels": {"class_label": "cls"}}
    config = {"target": "taming.data.webdataset.WebImages", "params": params}
    data = DataModuleFromConfig(batch_size=8, train=config, num_workers=0)
    data.setup()
    batches = list(data.train_dataloader())
    assert [len(batch["image"]) for batch in batches] == [8, 8, 4]
    assert batches[0]["class_label"].tolist() == [int(path[-2:]) for path in batches[0]["file_path_"]]


BAD = [
    ("a.png", picture(1)[:50]),
    ("b.txt", b"no image"),
    ("c.png", picture(2)),
    ("c.cls", b"seven"),
    ("d.png", picture(3)),
    ("e.png", picture(4)),
    ("e.cls", b"4"),
]


def test_faulty_samples_are_named_or_skipped(tmp_path, caplog):
    tar = write_tar(tmp_path / "bad.tar", BAD)
    dataset = WebImages(tar, SIZE, labels={"class_label": "cls"})
    with pytest.raises(OSError, match=r"WebImages: cannot read image .*bad\.tar:a\.png: ") as error:
        list(WebImages(tar, SIZE, shuffle=0))
    assert "\n" not in str(error.value)
    assert [problem.split(f"{tar}:")[1] for problem in dataset.problems()][1:] == [
        "b has no image; looked for jpg, jpeg, png, webp",
        "c.cls cannot be read: invalid literal for int() with base 10: 'seven'",
        "d has no member cls, which labels ask for",
    ]
    skipping = StreamLoader(WebImages(tar, SIZE, labels={"class_label": "cls"}, on_error="skip"), batch_size=1)
    assert [batch["class_label"].item() for batch in skipping] == [4]
    assert "4 faults were skipped in this epoch" in caplog.text


def test_faulty_tar_files(tars, tmp_path):
    whole = (tars / "00.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "end.tar").write_bytes(whole.rstrip(b"\0"))
    (tmp_path / "text.tar").write_text("<html>" * 200)
    names = [str(tmp_path / name) for name in ("cut.tar", "end.tar", "text.tar", "missing.tar", "02.tar")]
    for name in names[:-1]:
        kind = FileNotFoundError if "missing" in name else OSError
        with pytest.raises(kind, match=f"taming.data.webdataset.WebImages: cannot read tar file {name}: ") as error:
            list(WebImages(name, SIZE))
        assert "\n" not in str(error.value)
    assert [name for name in names if any(name in problem for problem in WebImages(names).problems())] == names[:-1]
    found = numbers(WebImages(names, SIZE, shuffle=0, on_error="skip"))
    assert found[-PER_TAR:] == list(range(16, 24)) and 0 < len(found) - PER_TAR < 2 * PER_TAR


def test_nothing_is_written_whatever_members_are_called(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    tar = write_tar(folder / "evil.tar", [("../../x.png", picture(1)), ("/y.png", picture(2)), ("../z/q.png", b"?")])
    before = sorted(tmp_path.rglob("*"))
    assert len(list(WebImages(tar, SIZE, on_error="skip"))) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_streams_without_samples_end(tmp_path):
    empty = write_tar(tmp_path / "empty.tar", [])
    assert list(WebImages(empty, SIZE)) == []
    with pytest.raises(ValueError, match=r"there are no samples for worker 0 in .*empty\.tar"):
        list(WebImages(empty, SIZE, epoch_size=5))
    broken = write_tar(tmp_path / "broken.tar", [("a.png", b"?")])
    with pytest.raises(ValueError, match="100 samples in a row cannot be read"):
        list(WebImages(broken, SIZE, epoch_size=5, on_error="skip"))


def test_mistakes(tars, monkeypatch):
    with pytest.raises(ValueError, match="urls is empty"):
        WebImages([])
    with pytest.raises(ValueError, match="random_crop and draft need a size"):
        WebImages(urls(tars), random_crop=True)
    monkeypatch.setitem(__import__("sys").modules, "webdataset", None)
    with pytest.raises(ImportError, match=r"pip install 'taming-transformers\[webdataset\]'"):
        WebImages(urls(tars), SIZE)
