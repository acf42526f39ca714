"""FID and the like: the same figures as torch-fidelity's own command, what is kept of a reference, and mistakes."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from taming.evaluation.fidelity import FidelityOptions, compare, evaluate
from taming.evaluation.image_sets import find_images, find_reference

FEATURES = "tiny_features.TinyFeatures"
NAMES = ("frechet_inception_distance", "inception_score_mean", "kernel_inception_distance_mean", "precision", "recall")
needs_package = pytest.mark.skipif(
    find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed: pip install -e '.[eval]'"
)


def write_images(folder, count, *, seed, size=(16, 16), tint=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        coarse = rng.integers(0, 200, (4, 4, 3), dtype=np.uint8) + np.array([tint, 0, 0], dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{index:06}.png")
    return folder


@pytest.fixture
def folders(tmp_path):
    """Samples in two folders of classes, and a reference."""
    write_images(tmp_path / "samples" / "0", 30, seed=0, tint=40)
    write_images(tmp_path / "samples" / "1", 10, seed=1)
    write_images(tmp_path / "reference", 50, seed=2)
    return tmp_path / "samples", tmp_path / "reference"


def options(tmp_path, *metrics, **more):
    given = {"features": FEATURES, "cache_root": tmp_path / "cache", "save_cpu_ram": True, "kid_subset_size": 20}
    return FidelityOptions(metrics=metrics or ("fid",), **given | more)


def own_command(samples, reference, monkeypatch, capsys):
    """What torch-fidelity's command prints for two folders."""
    from torch_fidelity.fidelity import main

    command = ["fidelity", "--input1", str(samples), "--input2", str(reference), "--fid", "--isc", "--kid", "--prc"]
    command += ["--kid-subset-size", "20", "--feature-extractor", FEATURES, "--samples-find-deep", "--save-cpu-ram"]
    monkeypatch.setattr(sys, "argv", [*command, "--cpu", "--no-cache", "--silent", "--json"])
    capsys.readouterr()
    main()
    return json.loads(capsys.readouterr().out)


@needs_package
def test_the_figures_are_those_of_torch_fidelitys_own_command(folders, tmp_path, monkeypatch, capsys):
    images = [find_images(folder, recursive=True) for folder in folders]
    figures = compare(*images, options(tmp_path, "fid", "isc", "kid", "prc"), progress=False)
    theirs = own_command(*folders, monkeypatch, capsys)
    assert figures.keys() == theirs.keys() and set(NAMES) <= figures.keys()
    assert figures == pytest.approx(theirs, rel=1e-6)
    assert figures[NAMES[0]] > 0.01
    alone = compare(*images, options(tmp_path, cache_root=tmp_path / "other"), progress=False)
    assert alone == pytest.approx({NAMES[0]: theirs[NAMES[0]]}, rel=1e-6)


@needs_package
def test_precision_is_about_the_samples_and_recall_about_the_reference(tmp_path):
    reference = write_images(tmp_path / "reference", 40, seed=2)
    samples = tmp_path / "samples"
    samples.mkdir()
    for index in range(8):  # real images, but few of them
        shutil.copy(reference / f"{index:06}.png", samples)
    figures = compare(find_images(samples), find_images(reference), options(tmp_path, "prc"), progress=False)
    assert figures["precision"] == 1.0 and figures["recall"] < 1.0


@needs_package
def test_a_reference_is_looked_at_once_and_again_when_a_byte_changes(folders, tmp_path):
    from tiny_features import TinyFeatures

    samples, reference = folders
    seen = []
    figures = []
    for turn in range(3):
        if turn == 2:
            shutil.copy(reference / "000001.png", reference / "000000.png")
        before = TinyFeatures.images
        report = evaluate(samples, reference, options(tmp_path), recursive=True, progress=False)
        seen.append(TinyFeatures.images - before)
        figures.append(report["metrics"][NAMES[0]])
    assert seen == [90, 40, 90]
    assert figures[0] == figures[1] != figures[2]


@needs_package
def test_a_name_stands_for_a_reference_that_is_gone(folders, tmp_path):
    samples, reference = folders
    first = evaluate(samples, reference, options(tmp_path), recursive=True, name="faces-256", progress=False)
    shutil.rmtree(reference)
    again = evaluate(samples, "faces-256", options(tmp_path), recursive=True, progress=False)
    assert again["metrics"] == first["metrics"]
    assert again["input2"]["images"] == 50 and again["input2"]["sha256"] == first["input2"]["sha256"]
    other = options(tmp_path, features="tiny_features.NoExtractor")
    with pytest.raises(ValueError, match="no subclass of torch_fidelity"):
        evaluate(samples, "faces-256", other, recursive=True, progress=False)
    (tmp_path / "cache" / "faces-256.json").write_text("{}")
    with pytest.raises(ValueError, match=r"faces-256.json: damaged"):
        find_reference("faces-256", tmp_path / "cache")


@needs_package
def test_what_was_not_kept_is_asked_for(folders, tmp_path):
    samples, reference = folders
    evaluate(samples, reference, options(tmp_path), recursive=True, name="known", progress=False)
    for kept in (tmp_path / "cache").glob("*.pt"):
        kept.unlink()
    with pytest.raises(ValueError, match="known: nothing was kept of this reference"):
        evaluate(samples, "known", options(tmp_path), recursive=True, progress=False)


@needs_package
def test_a_report_holds_all_that_produced_the_figures(folders, tmp_path, caplog):
    samples, reference = folders
    (samples / "sampling.json").write_text('{"seed": 3, "top_k": 100}')
    Image.new("RGB", (16, 16)).save(samples / "0" / "photo.jpg")
    report = evaluate(samples, reference, options(tmp_path), recursive=True, progress=False)
    assert report["sampling"] == {"seed": 3, "top_k": 100}
    assert evaluate(samples / "1", reference, options(tmp_path), progress=False)["sampling"]["seed"] == 3
    assert (report["input1"]["images"], report["input2"]["images"]) == (41, 50)
    assert report["input1"]["size"] == "16x16" and len(report["input1"]["sha256"]) == 64
    assert report["options"]["batch_size"] == 64 and report["options"]["recursive"]
    assert report["torch_fidelity"][FEATURES]["rng_seed"] is not None
    assert {"torch", "torch-fidelity", "pillow", "python"} <= report["versions"].keys()
    assert len(report["warnings"]) == 3 and "has JPEG files" in caplog.text
    assert json.loads(json.dumps(report, default=str))["metrics"] == report["metrics"]


def test_sizes_that_differ_are_noted(tmp_path, caplog):
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed: pip install -e '.[eval]'")
    write_images(tmp_path / "a", 3, seed=0)
    write_images(tmp_path / "b", 3, seed=1, size=(20, 16))
    evaluate(tmp_path / "a", tmp_path / "b", options(tmp_path), progress=False)
    assert "input1 has images of 16x16, input2 of 20x16" in caplog.text


@needs_package
@pytest.mark.parametrize(
    ("metrics", "more", "message"),
    [
        (["kid"], {"kid_subset_size": 1000}, "--kid_subset_size 1000: there are only 10 images"),
        (["fid"], {"features": "vgg61"}, "--features vgg61: torch-fidelity has no such network; did you mean vgg16"),
        (["fid"], {"features": "tiny_features.Nothing"}, "Nothing"),
    ],
)
def test_mistakes_in_comparing(tmp_path, metrics, more, message):
    images = [find_images(write_images(tmp_path / name, 10, seed=0)) for name in "ab"]
    with pytest.raises(ValueError, match=message):
        compare(*images, options(tmp_path, *metrics, **more), progress=False)


@needs_package
@pytest.mark.parametrize(("metric", "count"), [("fid", 1), ("isc", 9), ("prc", 3)])
def test_too_few_images(tmp_path, metric, count):
    images = [find_images(write_images(tmp_path / name, count, seed=0)) for name in "ab"]
    with pytest.raises(ValueError, match=r"at least|more than"):
        compare(*images, options(tmp_path, metric), progress=False)


def test_mistakes_in_options(tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save({"weight": torch.ones(2)}, weights)
    assert FidelityOptions(weights=weights).weights == weights
    torch.save({"weight": Path(tmp_path)}, tmp_path / "more.pth")
    for wrong, message in (
        ({"metrics": ("fdi",)}, "fdi"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"metrics": ("fid", "prc"), "weights": weights}, "--weights are those of one network"),
        ({"weights": tmp_path / "more.pth"}, "damaged, or it holds more than weights"),
    ):
        with pytest.raises(ValueError, match=message):
            FidelityOptions(**wrong)
    with pytest.raises(FileNotFoundError, match=r"--weights gone\.pth"):
        FidelityOptions(weights=Path("gone.pth"))


def test_mistakes_in_folders(tmp_path, image_folder):
    with pytest.raises(FileNotFoundError, match="no such folder of images"):
        find_images(tmp_path / "gone")
    with pytest.raises(ValueError, match="no images in this folder; those of its subfolders are read with --recursive"):
        find_images(image_folder)
    assert len(find_images(image_folder, recursive=True)) == 12
    Image.new("RGB", (8, 8)).save(image_folder / "left" / "small.png")
    with pytest.raises(ValueError, match=r"several sizes, left.0.png has 80x72 and left.small.png has 8x8"):
        find_images(image_folder, recursive=True)
    (image_folder / "left" / "broken.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"broken.png: cannot be read as an image"):
        find_images(image_folder, recursive=True)
    with pytest.raises(FileNotFoundError, match="imagenet: neither a folder nor a name"):
        find_reference("imagenet", tmp_path / "cache")
    with pytest.raises(ValueError, match="--name a/b"):
        evaluate(image_folder, image_folder, FidelityOptions(), name="a/b")


def test_a_truncated_file_is_named(image_folder):
    path = image_folder / "left" / "0.png"
    path.write_bytes(path.read_bytes()[:-300])
    images = find_images(image_folder / "left")
    with pytest.raises(OSError, match=r"0.png: cannot be read as an image"):
        images[0]


def test_a_missing_package_is_told_with_its_extra(image_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    images = find_images(image_folder, recursive=True)
    with pytest.raises(ImportError, match=r"pip install 'taming-transformers\[eval\]'"):
        compare(images, images, FidelityOptions())
