"""The front of the library: lazy names, factories, models from run folders, reconstructions, doctests."""

import doctest
import importlib
import logging
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from script_modules import load_script
from tiny_configs import ddconfig, first_stage
from tiny_run_folders import DEPTH_MAPS, LABEL_MAPS, build, save_run, transformer

import taming
import taming.api
from taming.images import from_uint8, to_uint8
from taming.models.cond_transformer import Net2NetTransformer
from taming.models.vqgan import GumbelVQ, VQModel
from taming.published import MODELS

ROOT = Path(__file__).parents[1]
FACTORIES = [name for name in taming.__all__ if name.islower() and name != "load_model"]
SMALL = {"n_embed": 12, "embed_dim": 4, "ddconfig": ddconfig()}


def small_run(folder, **changes):
    return save_run(folder, first_stage(resolution=16, n_embed=12, **changes))


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_names_are_those_of_the_api_and_found_when_asked_for():
    assert taming.__all__ == taming.api.__all__
    assert set(taming.__all__) <= set(dir(taming))
    assert all(getattr(taming, name) is getattr(taming.api, name) for name in taming.__all__)
    with pytest.raises(AttributeError, match="module 'taming' has no attribute 'vqgan'"):
        taming.vqgan  # noqa: B018


def test_importing_loads_nothing_until_a_name_is_used():
    code = (
        "import sys, taming; dir(taming); hasattr(taming, 'nothing')\n"
        "print([name for name in ('torch', 'numpy', 'omegaconf', 'PIL', 'taming.api') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", FACTORIES)
def test_factories_have_the_published_architecture(name):
    (published,) = [model for model in MODELS if name in (model.name, *model.aliases)]
    factory = getattr(taming, name)
    assert published.name == factory.__name__ and published.description in factory.__doc__
    smaller = {"transformer_config": {"params": {"n_layer": 1}}} if published.kind == "transformer" else {}
    with torch.device("meta"):
        model = factory(**smaller)
    assert isinstance(model, Net2NetTransformer if published.kind == "transformer" else VQModel) and not model.training
    stage = getattr(model, "first_stage_model", model)
    assert str(stage.quantize.n_e) in published.description or published.kind == "transformer"
    assert stage.downsampling_factor == 8 if "f8" in name else 16


def test_a_factory_is_changed_key_by_key():
    model = taming.vqgan_gumbel_f8(**SMALL, kl_weight=0.5)
    assert isinstance(model, GumbelVQ) and model.quantize.kl_weight == 0.5
    assert model.encoder.num_resolutions == 2 and model.quantize.n_embed == 12
    attention = taming.vqgan_imagenet_f16_1024(n_embed=12, ddconfig={"ch": 8, "num_res_blocks": 1})
    assert attention.encoder.num_resolutions == 5, "what is not named stays"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"n_embd": 3}, "model.params.n_embd = 3: VQModel has no such parameter; did you mean n_embed"),
        ({"ddconfig": {"ch_mlt": [1]}}, "model.params.ddconfig.ch_mlt"),
    ],
)
def test_unknown_parameters(overrides, message):
    with torch.device("meta"), pytest.raises(ValueError, match=re.escape(f"vqgan_imagenet_f16_1024(): {message}")):
        taming.vqgan_imagenet_f16_1024(**overrides)


def test_pretrained_from_a_path(tmp_path):
    run = small_run(tmp_path / "run")
    stored = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for path in (run, tmp_path / "run/checkpoints/last.ckpt"):
        model = taming.vqgan_imagenet_f16_1024(pretrained=path)
        assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())
    assert taming.vqgan_imagenet_f16_1024(run, image_key="picture").image_key == "picture"


def test_pretrained_without_a_config_has_the_published_one(tmp_path):
    """The published architecture, changed by overrides as the weights need it."""
    run = small_run(tmp_path / "run")
    (tmp_path / "run/configs/2021-project.yaml").unlink()
    assert taming.vqgan_imagenet_f16_1024(run, **SMALL).quantize.n_e == 12
    with pytest.raises(ValueError, match=r"last.ckpt: .*in the config check"):
        taming.vqgan_imagenet_f16_1024(run, ddconfig={"ch": 8})


def test_pretrained_looks_where_published_models_are_placed(tmp_path, monkeypatch):
    monkeypatch.setenv("TAMING_MODELS", str(tmp_path))
    small_run(tmp_path / "vqgan_imagenet_f16_1024")
    assert taming.vqgan_imagenet_f16_1024(pretrained=True).quantize.n_e == 12
    assert taming.load_model("vqgan_imagenet_f16_1024", device="cpu").quantize.n_e == 12
    with pytest.raises(FileNotFoundError, match="2021-04-23T18-19-01_ffhq_transformer"):
        taming.ffhq_transformer(pretrained=True)


def test_pretrained_path_that_is_not_there(tmp_path):
    for path in (tmp_path / "nothing", ""):
        with pytest.raises(FileNotFoundError):
            taming.vqgan_imagenet_f16_1024(pretrained=path)


def test_load_model_of_a_transformer(tmp_path):
    config = transformer(DEPTH_MAPS, "depth")
    model = taming.load_model(save_run(tmp_path / "run", config), device="cpu")
    expected = build(config).state_dict()
    assert not model.training and model.device == torch.device("cpu")
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_load_model_infers_a_config_and_converts(tmp_path):
    small_run(tmp_path / "run")
    (tmp_path / "run/configs/2021-project.yaml").unlink()
    model = taming.load_model(tmp_path / "run/checkpoints/last.ckpt", device="cpu", dtype=torch.bfloat16)
    types = {part: {p.dtype for p in getattr(model, part).parameters()} for part in ("encoder", "decoder", "quantize")}
    assert isinstance(model, VQModel) and types.pop("quantize") == {torch.float32}
    assert all(found == {torch.bfloat16} for found in types.values())
    assert model.tokenize(torch.zeros(1, 3, 16, 16)).shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": "no/such/run"}, FileNotFoundError, "no/such/run: no such run folder or checkpoint file"),
        ({"source": "vqgan_imagenet_f16_102"}, FileNotFoundError, "vqgan_imagenet_f16_102: no such run folder"),
        ({"source": ".", "device": "tpu"}, ValueError, "tpu: expected auto, cpu"),
        ({"source": ".", "dtype": torch.int64}, ValueError, "dtype=torch.int64: weights need a floating-point type"),
    ],
)
def test_load_model_mistakes(options, error, message):
    with pytest.raises(error, match=message):
        taming.load_model(**options)


@pytest.fixture(scope="module")
def reconstruct():
    return taming.Reconstruction(build(first_stage(resolution=16, n_embed=12)), device="cpu")


def test_reconstruction_of_a_square_image_is_that_of_the_model(reconstruct, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="taming")
    image = picture(16, 16)
    made = reconstruct(image, tmp_path / "new" / "r.png")
    with torch.no_grad():
        expected, _ = reconstruct.model(from_uint8(np.asarray(image))[None])
    assert reconstruct.image_size == 16 and torch.equal(made, expected.clamp(-1, 1))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "r.png")), to_uint8(made[0]))
    assert "VQModel: latents of shape (1, 4, 8, 8)" in caplog.text


def test_reconstructions_are_those_of_make_reconstructions(tmp_path):
    """Of images that need no scaling, which that command leaves to the data set."""
    paths = [str(tmp_path / f"{name}.png") for name in "ab"]
    picture(16, 16).save(paths[0])
    picture(16, 24, seed=1).save(paths[1])
    split = {"target": "taming.data.base.ImagePaths", "params": {"paths": paths, "size": 16}}
    data = {"target": "main.DataModuleFromConfig", "params": {"batch_size": 1, "validation": split}}
    run = save_run(tmp_path / "run", first_stage(resolution=16, n_embed=12), data=data)
    load_script("make_reconstructions").main(["-r", run, "--outdir", str(tmp_path / "out"), "--device", "cpu"])
    reconstruct = taming.Reconstruction(taming.load_model(run, device="cpu"), device="cpu")
    for index, path in enumerate(paths):
        made = np.asarray(Image.open(tmp_path / "out" / "reconstructions" / f"{index:06}.png"))
        assert np.array_equal(made, to_uint8(reconstruct(path)[0]))


def test_reconstruction_takes_paths_pictures_and_arrays_alike(reconstruct, tmp_path):
    image = picture(50, 40)
    image.save(tmp_path / "i.png")
    made = [reconstruct(source) for source in (image, np.asarray(image), tmp_path / "i.png", str(tmp_path / "i.png"))]
    assert all(torch.equal(one, made[0]) for one in made) and made[0].shape == (1, 3, 16, 16)
    grey = Image.fromarray(np.full((40, 50), 128, np.uint8))
    assert torch.equal(reconstruct(grey), reconstruct(grey.convert("RGB")))


def test_reconstruction_crops_the_middle(reconstruct):
    """The shorter side is scaled to the size of the model."""
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 20:76] = 255  # beyond the middle as far as scaling looks
    assert torch.equal(reconstruct(wide), reconstruct(np.full((16, 16, 3), 255, np.uint8)))


def test_reconstruction_by_the_first_stage_of_a_transformer():
    model = build(transformer(DEPTH_MAPS, "depth"))
    assert taming.Reconstruction(model, "cpu").model is model.first_stage_model


def test_reconstruction_mistakes(reconstruct, tmp_path):
    picture(15, 40).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no image")
    for source, error, message in (
        (tmp_path / "small.png", ValueError, "small.png: 15 x 40 pixels are too few, the shorter side needs 16"),
        (np.zeros((20, 20)), ValueError, r"uint8 \(h, w, 3\), not float64 \(20, 20\)"),
        (tmp_path / "none.png", FileNotFoundError, "none.png"),
        (tmp_path / "text.png", OSError, "cannot read image .*text.png"),
    ):
        with pytest.raises(error, match=message):
            reconstruct(source)
    for model, message in ((build(LABEL_MAPS), "reads 5 channels"), (torch.nn.Linear(1, 1), "nor has a first stage")):
        with pytest.raises(ValueError, match=message):
            taming.Reconstruction(model, "cpu")


MODULES = ["taming.api", *(f"taming.api.{module.name}" for module in pkgutil.iter_modules(taming.api.__path__))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    tests = [test for name in MODULES for test in doctest.DocTestFinder().find(importlib.import_module(name))]
    assert sum(len(test.examples) > 0 for test in tests) >= 4
