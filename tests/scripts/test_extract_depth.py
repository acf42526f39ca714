"""scripts/extract_depth.py with a network of a few lines: files, resuming, choices and mistakes."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_imagenet import RELPATHS, be_offline, place_folders

from taming.cli import run_command
from taming.data.depth_maps import depth_to_rgba, read_depth
from taming.data.imagenet import ImageNetTrain, ImageNetTrainWithDepth, ImageNetValidation
from taming.data.midas import MEAN, STD, VERSION, estimate_depth, load_midas, network_input

SCRIPT = Path(__file__).parents[2] / "scripts" / "extract_depth.py"
SPEC = importlib.util.spec_from_file_location("extract_depth", SCRIPT)
extract_depth = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(extract_depth)
CPU = torch.device("cpu")


def brightness(x):
    """In the place of MiDaS: (1, 3, h, w) -> (1, h, w)."""
    return 1000 + 100 * x.mean(dim=1)


@pytest.fixture(autouse=True)
def loaded(tmp_path, monkeypatch):
    """Both splits of 5 images of 30 x 20 pixels, an empty folder for their depth; what networks are loaded."""
    be_offline(tmp_path, monkeypatch)
    for split in (ImageNetTrain, ImageNetValidation):
        place_folders(split)
    (tmp_path / "data/imagenet_depth").mkdir(parents=True)
    loaded = []
    monkeypatch.setattr(extract_depth, "load_midas", lambda name, device: loaded.append(name) or brightness)
    return loaded


def extract(*arguments):
    """Run the command; the files there are then."""
    extract_depth.main(["--num_workers", "0", "--device", "cpu", *arguments])
    return written()


def written(out="data/imagenet_depth"):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}


def names(split, relpaths=RELPATHS):
    return [f"{split}/{path.replace('.JPEG', '.png')}" for path in relpaths]


def test_depth_of_both_splits(capsys, loaded):
    content = extract()
    assert sorted(content) == names("train") + names("val")
    assert loaded == [VERSION] and VERSION in capsys.readouterr().out
    image = ImageNetTrain()[1]["image"]
    depth = read_depth("data/imagenet_depth/train/n01/n01_9.png", "d")
    np.testing.assert_array_equal(depth, estimate_depth(brightness, image, CPU))
    assert depth.shape == (20, 30)
    item = ImageNetTrainWithDepth(random_crop=False)[1]
    assert (item["depth"].min(), item["depth"].max()) == (-1, 1)


def test_workers_write_the_same():
    content = extract("--split", "val")
    extract_depth.main(["--num_workers", "2", "--device", "cpu", "--split", "train"])
    assert [written()[name] for name in names("train")] == [content[name] for name in names("val")]


def test_interrupted_work_is_continued(monkeypatch, loaded):
    expected = extract("--split", "val")
    for name in names("val")[1:]:
        Path("data/imagenet_depth", name).unlink()
    calls = []

    def interrupted(network, image, device):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return estimate_depth(network, image, device)

    monkeypatch.setattr(extract_depth, "estimate_depth", interrupted)
    assert run_command(extract_depth.main, ["--num_workers", "0", "--device", "cpu", "--split", "val"]) == 130
    assert sorted(written()) == names("val")[:3]
    assert extract("--split", "val") == expected
    assert len(calls) == 3 + 2
    loaded.clear()
    assert extract("--split", "val") == expected
    assert not loaded and len(calls) == 5


def test_shards_share_the_work(monkeypatch):
    expected = extract("--split", "val")
    monkeypatch.chdir(Path.cwd() / "data")
    Path("parts").mkdir()
    for index, n_files in ((1, 2), (0, 5)):
        extract("--split", "val", "--out", "parts", "--shard", f"{index}/2")
        assert len(written("parts")) == n_files
    assert written("parts") == expected


def test_chosen_images():
    assert sorted(extract("--limit", "1")) == names("train")[:1] + names("val")[:1]
    Path("list.txt").write_text(f"{RELPATHS[4]}\n{RELPATHS[2]}\n")
    assert sorted(extract("--split", "train", "--list", "list.txt")) == sorted(
        names("train", [RELPATHS[0], RELPATHS[2], RELPATHS[4]]) + names("val")[:1]
    )


def test_version_is_the_users_choice(loaded):
    extract("--midas", "someone/MiDaS:v9", "--limit", "1")
    assert loaded == ["someone/MiDaS:v9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "nowhere"], "--out nowhere: no such folder; make it"),
        (["--limit", "0"], "--limit 0: must be positive"),
        (["--list", "list.txt"], "--list list.txt: n07/x.JPEG is not among the images of val and train"),
        (["--list", "none.txt"], "--list: file not found: none.txt"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--shard", "2/2"], "shard 2/2"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, loaded):
    Path("list.txt").write_text("n01/n01_9.JPEG\nn07/x.JPEG\n")
    assert run_command(extract_depth.main, arguments) == 2
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown.startswith("error: ") and message in shown
    assert not loaded and not written()


def test_a_network_that_gives_no_numbers_writes_no_file(monkeypatch):
    monkeypatch.setattr(extract_depth, "load_midas", lambda *_: lambda x: x.mean(dim=1) * math.nan)
    with pytest.raises(ValueError, match=r"n01_10\.png: depths to save must be finite"):
        extract("--split", "val")
    assert not written()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((375, 500), (288, 384)), ((500, 375), (384, 288)), ((384, 384), (384, 384)), ((10, 400), (32, 384)),
     ((20, 30), (256, 384)), ((1000, 1390), (288, 384))],
)  # fmt: skip
def test_input_of_midas(shape, expected):
    image = np.full((*shape, 3), 0.5, dtype=np.float32)
    x = network_input(image)
    assert (x.shape, x.dtype) == ((1, 3, *expected), torch.float32)
    torch.testing.assert_close(x[0, :, 7, 9], torch.from_numpy((0.75 - MEAN) / STD))


def test_prediction_is_enlarged_to_the_image():
    rows = np.broadcast_to(np.linspace(-1, 1, 96, dtype=np.float32)[:, None, None], (96, 192, 3))
    depth = estimate_depth(lambda x: x.mean(dim=1)[:, ::4, ::4], rows, CPU)
    assert (depth.shape, depth.dtype) == ((96, 192), np.float32)
    assert np.ptp(depth, axis=1).max() < 1e-5
    slope = (1 / STD).mean() / 95  # of the input per row of the image; cubic interpolation makes it swing by pairs
    np.testing.assert_allclose((depth[24:70] - depth[20:66]).mean(axis=1) / 4, slope, rtol=0.02)


def test_midas_comes_from_torch_hub_at_a_version(monkeypatch):
    called = []

    def load(*arguments, **options):
        called.append((arguments, options))
        return torch.nn.Conv2d(3, 1, 1)

    monkeypatch.setattr(torch.hub, "load", load)
    assert not load_midas(VERSION, CPU).training
    assert called == [(("intel-isl/MiDaS:v2", "MiDaS"), {"trust_repo": True})]


def test_published_coding_is_importable_from_the_script():
    assert extract_depth.depth_to_rgba is depth_to_rgba
