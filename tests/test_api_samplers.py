"""ConditionalSampler and FastSampler: their files, and that the pixels are those of the scripts."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from script_modules import load_script
from tiny_run_folders import DEPTH_MAPS, LABEL_MAPS, N_LABELS, build, save_run, transformer
from tiny_transformers import LABELS, close, tiny_model

import taming
from taming.api.inputs import colour_labels, read_condition
from taming.data.depth_maps import save_depth
from taming.data.imagenet import DRINExamples
from taming.data.sflckr import SegmentationBase
from taming.images import to_uint8
from taming.models.first_stage import convert_weights

SEGMENTATION = transformer(LABEL_MAPS, "segmentation")
DEPTH = transformer(DEPTH_MAPS, "depth")
COORDINATES = transformer(
    {"target": "taming.modules.misc.coord.CoordStage", "params": {"n_embed": 16, "down_factor": 2}}, "coord"
)
OPTIONS = {"kernel_size": 4, "top_k": 6, "seed": 3, "update_every": 0, "device": "cpu"}


def labels(height=12, width=16):
    rows, columns = np.mgrid[:height, :width]
    return ((rows + columns) // 4 % N_LABELS).astype(np.uint8)


def photo(height=12, width=16):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels(path):
    return np.asarray(Image.open(path))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Two images with label maps, listed for the data set of scripts/make_samples.py, below the current folder."""
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "maps"):
        Path(folder).mkdir()
    for index in range(2):
        Image.fromarray(np.roll(labels(), index, axis=1)).save(f"maps/{index}.png")
        Image.fromarray(photo()).save(f"images/{index}.jpg")
    Path("list.txt").write_text("0.jpg\n1.jpg\n")
    return tmp_path


def test_the_pixels_are_those_of_make_samples(example):
    target = f"{SegmentationBase.__module__}.{SegmentationBase.__name__}"
    params = {"data_csv": "list.txt", "data_root": "images", "segmentation_root": "maps", "n_labels": N_LABELS}
    split = {"target": target, "params": params}
    data = {"target": "main.DataModuleFromConfig", "params": {"batch_size": 1, "validation": split}}
    run = save_run(example / "run", SEGMENTATION, data=data)
    load_script("make_samples").main(["-r", run, "--outdir", "out", "--top_k", "6", "--seed", "3", "--device", "cpu"])
    model = taming.load_model(run, device="cpu")
    for index in range(2):
        for update_every in (0, 7):  # by the decoder or window by window
            sampler = taming.ConditionalSampler(model, **OPTIONS | {"update_every": update_every, "root": "api"})
            made = sampler(f"maps/{index}.png", f"images/{index}.jpg", name="a", index=index)
            assert np.array_equal(to_uint8(made[0]), pixels(f"out/000042_6_1.0/samples/00000{index}.png"))
            reconstruction = pixels(f"out/000042_6_1.0/reconstructions/00000{index}.png")
            assert np.array_equal(pixels("api/a_reconstruction.png"), reconstruction)
    assert not np.array_equal(pixels("api/a_sample_47.png"), pixels("out/000042_6_1.0/samples/000000.png"))


def test_files_of_a_label_map_with_an_image(example):
    sampler = taming.ConditionalSampler(build(SEGMENTATION), **OPTIONS | {"update_every": 20})
    made = sampler.sample_segmentation("maps/0.png", "images/0.jpg", "hill")
    kinds = ("segmentation", "reconstruction", "first_sample", "sample_0", "sample_20", "sample_40", "sample_47")
    assert names(Path("segmentation")) == sorted(f"hill_{kind}.png" for kind in kinds)
    assert np.array_equal(pixels("segmentation/hill_segmentation.png"), colour_labels(labels(), N_LABELS))
    assert np.array_equal(pixels("segmentation/hill_sample_47.png"), to_uint8(made[0])) and made.shape == (1, 3, 12, 16)
    shown = [pixels(f"segmentation/hill_{kind}.png") for kind in kinds[2:]]
    assert len({picture.tobytes() for picture in shown}) >= 4, "one token more may be the one that was there by chance"


def test_the_colours_of_labels_never_change():
    """The published table: seed 1, columns divided by their sums."""
    table = np.random.RandomState(1).randn(182, 3)
    expected = ((table / table.sum(axis=0) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    assert np.array_equal(colour_labels(np.arange(182)[None], 182), expected[None])


def test_the_colours_of_the_model(example):
    sampler = taming.ConditionalSampler(build(SEGMENTATION), **OPTIONS, segmentation_save=False, scale_factor=2)
    sampler("maps/0.png", name="a")
    colours = pixels("segmentation/a_segmentation.png")
    assert colours.shape == (24, 32, 3) and not np.array_equal(colours[::2, ::2], colour_labels(labels(), N_LABELS))


def test_seeds(example):
    model = build(SEGMENTATION)
    sampler = taming.ConditionalSampler(model, **OPTIONS)
    first = sampler("maps/0.png", name="a")
    assert torch.equal(sampler("maps/0.png", name="b"), first), "repeatable call by call"
    assert not torch.equal(sampler("maps/0.png", name="c", index=1), first)
    unseeded = taming.ConditionalSampler(model, **OPTIONS | {"seed": None})
    assert not torch.equal(unseeded("maps/0.png", name="d"), unseeded("maps/0.png", name="e"))
    greedy = taming.ConditionalSampler(model, **OPTIONS | {"seed": None}, sample=False)
    assert torch.equal(greedy("maps/0.png", name="f"), greedy("maps/0.png", name="g"))


def test_conditioning_as_tensors(example):
    sampler = taming.ConditionalSampler(build(SEGMENTATION), **OPTIONS)
    expected = sampler("maps/0.png", name="a")
    ids = torch.from_numpy(labels().astype(np.int64))
    one_hot = torch.nn.functional.one_hot(ids, N_LABELS).movedim(-1, 0).float()
    for c in (ids, ids[None], one_hot, one_hot[None]):
        assert torch.equal(sampler(c, name="b"), expected)


def test_depth_is_cut_as_the_data_set_does_it(tmp_path, monkeypatch):
    """Decision Q6.6, for the map and the image that belongs to it; `sample_segmentation` is the same method."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data/drin_images", "data/drin_depth"):
        Path(folder).mkdir(parents=True)
    depth = np.random.default_rng(2).random((300, 400), dtype=np.float32) * 50
    save_depth("data/drin_depth/a.png", depth)
    Image.fromarray(photo(300, 400)).save("data/drin_images/a.JPEG")
    Path("data/drin_examples.txt").write_text("a.JPEG\n")
    item = DRINExamples()[0]
    model = build(DEPTH)
    assert np.array_equal(read_condition(model, "data/drin_depth/a.png")[0, 0].numpy(), item["depth"])
    sampler = taming.ConditionalSampler(model, **OPTIONS | {"kernel_size": 2}, image_size=32)
    made = sampler.sample_segmentation("data/drin_depth/a.png", "data/drin_images/a.JPEG", "x")
    assert made.shape == (1, 3, 32, 32)
    kinds = ("depth", "first_sample", "reconstruction", "sample_255")
    assert names(Path("depth")) == [f"x_{kind}.png" for kind in kinds]
    shown = pixels("depth/x_depth.png")
    assert shown.shape == (32, 32, 3) and (shown == shown[..., :1]).all()
    assert torch.equal(sampler.sample_depth("data/drin_depth/a.png", name="y"), made), "an image decides the size only"


def test_coordinates(tmp_path):
    sampler = taming.ConditionalSampler(build(COORDINATES), **OPTIONS, root=tmp_path / "deep" / "root")
    ramp = np.linspace(0, 0.9, 12 * 16).reshape(12, 16)
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(tmp_path / "ramp.png")
    from_file = sampler(tmp_path / "ramp.png", name="a")
    assert torch.equal(sampler(torch.from_numpy(ramp), name="b"), from_file) and from_file.shape == (1, 3, 12, 16)
    assert "a_coord.png" in names(tmp_path / "deep" / "root")


def test_a_grid_smaller_than_the_window(tmp_path):
    sampler = taming.ConditionalSampler(build(SEGMENTATION), **OPTIONS | {"kernel_size": None, "root": tmp_path})
    assert sampler(torch.zeros(6, 4, dtype=torch.int64), name="a").shape == (1, 3, 6, 4)


def test_bfloat16(tmp_path):
    model = convert_weights(build(SEGMENTATION), torch.bfloat16)
    sampler = taming.ConditionalSampler(model, **OPTIONS, root=tmp_path, scale_factor=1.5)
    assert sampler(torch.from_numpy(labels().astype(np.int64)), name="a").shape == (1, 3, 18, 24)


def test_animation(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    sampler = taming.ConditionalSampler(
        build(SEGMENTATION), **OPTIONS | {"update_every": 16, "root": tmp_path}, animate=True, fps=4
    )
    sampler(torch.from_numpy(labels().astype(np.int64)), name="a")
    n_frames, seconds = ffmpeg.count_frames_and_secs(str(tmp_path / "a_sampling.mp4"))
    assert (n_frames, seconds) == (5, pytest.approx(1.25, abs=0.3)), "the start, tokens 0, 16 and 32, and the end"
    assert not list(tmp_path.glob(".*"))


def test_names(tmp_path):
    sampler = taming.ConditionalSampler(build(SEGMENTATION), **OPTIONS, root=tmp_path)
    sampler(torch.zeros(8, 8, dtype=torch.int64))
    assert list(tmp_path.glob("2*-*-*T*-*-*_sample_15.png"))
    for name in ("", "a/b", ".", "/a"):
        with pytest.raises(ValueError, match="begins the names of files"):
            sampler(torch.zeros(8, 8, dtype=torch.int64), name=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 16}, "kernel_size=16: 256 tokens do not fit into the block_size 31"),
        ({"kernal_size": 6}, "kernel_size=6: 36 tokens do not fit"),
        ({"kernel_size": 0}, "window must be positive"),
        ({"temperature": 0}, "temperature must be positive"),
        ({"top_p": 2}, "top_p must lie in"),
        ({"scale_factor": 0}, "scale_factor must be positive"),
        ({"seed": -1}, "seed must lie between"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        taming.ConditionalSampler(build(SEGMENTATION), **OPTIONS | options)


def test_a_window_that_fits_without_its_conditioning_only(tmp_path):
    sampler = taming.ConditionalSampler(build(SEGMENTATION), **OPTIONS | {"kernel_size": 5, "root": tmp_path})
    with pytest.raises(ValueError, match="do not fit into block_size 31; choose a smaller window"):
        sampler(torch.zeros(16, 16, dtype=torch.int64), name="a")


def test_models_that_it_does_not_sample():
    for model, message in (
        (tiny_model(LABELS), "FastSampler"),
        (tiny_model("__is_unconditional__"), "FastSampler"),
        (build(LABEL_MAPS), "no transformer to sample from"),
    ):
        with pytest.raises(ValueError, match=message):
            taming.ConditionalSampler(model, device="cpu")


def test_conditioning_that_does_not_fit(example):
    sampler = taming.ConditionalSampler(build(SEGMENTATION), **OPTIONS)
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save("other.png")
    for c, error, message in (
        ("none.png", FileNotFoundError, "none.png"),
        ("other.png", ValueError, "other.png has labels 77 where n_labels=5"),
        ("images/0.jpg", ValueError, "mode RGB"),
        (torch.zeros(2, N_LABELS, 8, 8), ValueError, r"segmentation as a tensor is one of floats"),
        (torch.zeros(2, 8, 8, dtype=torch.int64), ValueError, r"labels as a tensor are integers \(h, w\)"),
        (torch.full((8, 8), -1), ValueError, "from 0 on"),
        (torch.zeros(3, 8, 8), ValueError, r"this model reads \(b, 5, h, w\)"),
    ):
        with pytest.raises(error, match=message):
            sampler(c, name="a")
    with pytest.raises(ValueError, match="image as a tensor is one of floats"):
        sampler("maps/0.png", torch.zeros(3, 12, 16, dtype=torch.uint8))


FAST = {"num_samples": 3, "batch_size": 2, "top_k": 6, "steps": None, "seed": 5, "device": "cpu", "progress": False}
OWN = {"dim_z": None, "h": None, "w": None}


@pytest.mark.parametrize("stage", [LABELS, "__is_unconditional__"])
def test_the_pixels_are_those_of_sample_fast(tmp_path, stage):
    config = transformer(stage, "class_label", block_size=64)
    run = save_run(tmp_path / "run", config)
    classes = ["--classes", "1,3"] if stage == LABELS else []
    arguments = ["-r", run, "-n", "3", "-k", "6", "--seed", "5", "--batch_size", "2", "--device", "cpu"]
    load_script("sample_fast").main([*arguments, *classes])
    theirs = sorted((tmp_path / "run" / "samples").rglob("*.png"))
    labels = [1, 3] if stage == LABELS else None
    sampler = taming.FastSampler(taming.load_model(run, device="cpu"), **FAST, class_labels=labels, root=tmp_path / "i")
    ours = sampler(**OWN, name="a")
    folders = ["class_label/1", "class_label/3"] if stage == LABELS else ["unconditional"]
    expected = [tmp_path / "i" / folder / f"a_00000{index}.png" for folder in folders for index in range(3)]
    assert ours == expected and len(theirs) == len(ours)
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def classes():
    return tiny_model(LABELS)


def test_what_is_there_is_not_made_again(classes, tmp_path):
    sampler = taming.FastSampler(classes, **FAST | {"seed": None}, class_labels=[0, 2], root=tmp_path)
    files = sampler(**OWN, name="a")
    contents = {file: file.read_bytes() for file in files}
    recorded = json.loads((tmp_path / "class_label" / "a_sampling.json").read_text())
    assert recorded["seed"] is not None and (recorded["top_k"], recorded["classes"]) == ([6], [0, 2])
    files[4].unlink()
    files[0].write_bytes(b"kept")
    assert sampler(**OWN, name="a") == files
    assert files[0].read_bytes() == b"kept"
    assert close(files[4], np.asarray(Image.open(io.BytesIO(contents[files[4]]))))
    other = sampler(**OWN, name="b")
    assert all(file.read_bytes() != contents[old] for file, old in zip(other, files, strict=True)), "another seed"
    hotter = taming.FastSampler(classes, **FAST | {"temperature": 2.0}, class_labels=[0, 2], root=tmp_path)
    with pytest.raises(ValueError, match=r"a_sampling.json: the samples there were made with "):
        hotter(**OWN, name="a")


def test_all_classes_by_default_and_names_by_the_time(classes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = taming.FastSampler(classes, **FAST | {"num_samples": 1})(**OWN)
    assert [file.parent for file in files] == [Path("image/class_label") / str(label) for label in range(4)]
    assert all(file.is_file() and len(file.stem) == len("2021-04-03T19-39-50_000000") for file in files)


def test_the_defaults_are_those_of_the_published_models(classes, tmp_path):
    sampler = taming.FastSampler(classes, **FAST | {"steps": 256}, root=tmp_path)
    with pytest.raises(ValueError, match="steps=256 does not fill a latent grid of 4 x 4"):
        sampler(dim_z=4, h=4, w=4)
    sampler = taming.FastSampler(classes, **FAST | {"steps": 16}, root=tmp_path)
    with pytest.raises(ValueError, match="dim_z=256"):
        sampler(h=4, w=4)
    with pytest.raises(ValueError, match="16 x 16"):
        sampler()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_labels": [4]}, "4 is out of range"),
        ({"num_samples": 0}, "num_samples must be positive"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"top_p": 0}, "top_p must lie in"),
    ],
)
def test_fast_options_out_of_range(classes, options, message):
    with pytest.raises(ValueError, match=message):
        taming.FastSampler(classes, **FAST | options)


def test_spatial_models_go_elsewhere():
    with pytest.raises(ValueError, match="conditioned on 'segmentation', which is neither a class nor nothing"):
        taming.FastSampler(build(SEGMENTATION), device="cpu")
