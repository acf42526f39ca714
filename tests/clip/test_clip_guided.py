"""Pictures from prompts on small random models: the loss falls, a seed repeats, every first stage will do."""

import json
import re
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import register
from tiny_configs import ddconfig, first_stage
from torch import nn

from taming.clip.cutouts import AUGMENTATIONS
from taming.clip.guided import ClampWithGradient, GuidedOptions, Step, optimize
from taming.clip.latents import Codebook, latents_to_optimize
from taming.clip.output import Pictures
from taming.clip.perceptor import Perceptor, load_clip
from taming.config import instantiate_from_config
from taming.models.dvae import DVAE
from taming.models.vqgan import EMAVQ, GumbelVQ, VQModel

needs_clip = pytest.mark.skipif(
    find_spec("open_clip") is None, reason="open_clip_torch is not installed: pip install -e '.[clip]'"
)
IDENTITY = {"target": "torch.nn.Identity"}
SIZE = {"n_embed": 16, "embed_dim": 4}
QUANTIZERS = {
    "simvq": {"quantizer": "SimVQ"},
    "cosine": {"quantizer": "VectorQuantize", "use_cosine_sim": True},
    "fsq": {"quantizer": "FSQ", "levels": [3, 3, 3, 3]},
    "lfq": {"quantizer": "LFQ"},
    "residual": {"quantizer": "ResidualVQ", "num_quantizers": 2},
}
STAGES = ("vq", "ema", "gumbel", "dvae", "transformer", *QUANTIZERS)


class TinyClip(nn.Module):
    """Random projections of pixels and of tokens."""

    def __init__(self):
        super().__init__()
        self.pixels = nn.Linear(3 * 16 * 16, 6)
        self.tokens = nn.Embedding(256, 6)

    def encode_image(self, images):
        return self.pixels(images.flatten(1))

    def encode_text(self, tokens):
        return self.tokens(tokens).mean(dim=1)


@pytest.fixture
def tiny_open_clip(tmp_path):
    return register(tmp_path)


def tokenize(texts):
    return torch.tensor([[ord(letter) % 256 for letter in text.ljust(20)[:20]] for text in texts])


@pytest.fixture
def perceptor():
    torch.manual_seed(3)
    return Perceptor(TinyClip().eval(), tokenize, 16)


def build(name):
    torch.manual_seed(0)
    config = ddconfig(resolution=16)
    if name == "ema":
        return EMAVQ(config, IDENTITY, **SIZE).eval()
    if name == "gumbel":
        scheduler = {"target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler"}
        scheduler["params"] = {"warm_up_steps": 0, "max_decay_steps": 1, "lr_start": 1, "lr_max": 1, "lr_min": 1}
        return GumbelVQ(config, IDENTITY, **SIZE, temperature_scheduler_config=scheduler).eval()
    if name == "dvae":
        return DVAE(n_hid=4, n_init=6, n_blk_per_group=1, vocab_size=11).eval()
    if name in QUANTIZERS:
        pytest.importorskip("vector_quantize_pytorch", reason="pip install -e '.[quantizers]'")
        quantizer = {"target": "taming.modules.vqvae.library.LibraryQuantizer", "params": QUANTIZERS[name]}
        size = SIZE | {"n_embed": 81 if name == "fsq" else 16}
        return VQModel(config, IDENTITY, **size, quantizer_config=quantizer).eval()
    model = VQModel(config, IDENTITY, **SIZE).eval()
    nn.init.normal_(model.quantize.embedding.weight)  # the published start has hardly any contrast
    if name == "transformer":
        second = nn.Module()
        second.first_stage_model = model
        return second
    return model


def small(**more):
    return GuidedOptions(**{"prompts": "a lighthouse", "size": (40, 24), "num_cuts": 4, "iterations": 12} | more)


def losses_of(model, perceptor, options):
    """Loss of each step, and the picture."""
    steps = []
    image = optimize(model, perceptor, options, on_step=lambda step: steps.append(step.loss))
    return steps, image


@pytest.mark.parametrize("name", STAGES)
def test_the_loss_falls_on_every_first_stage(name, perceptor):
    options = small(augments=(), iterations=20, num_cuts=8)
    steps, image = losses_of(build(name), perceptor, options)
    assert np.mean(steps[-5:]) < np.mean(steps[:5])
    assert image.shape == (1, 3, 24, 40) and image.isfinite().all()


def test_the_seed_decides_everything(perceptor):
    model = build("vq")
    first, image = losses_of(model, perceptor, small(seed=5))
    torch.rand(7)  # other people's random numbers do not matter
    again, same = losses_of(model, perceptor, small(seed=5))
    other, another = losses_of(model, perceptor, small(seed=6))
    assert first == again and torch.equal(image, same)
    assert first != other and not torch.equal(image, another)


def test_models_stay_as_they_were(perceptor):
    model = build("vq")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    optimize(model, perceptor, small(iterations=2))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert trained == {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", STAGES)
def test_latents_snap_to_entries_and_stay_between_them(name):
    model = build(name)
    stage = getattr(model, "first_stage_model", model)
    codebook = Codebook(stage)
    q = stage.quantize.tokens_per_position
    codes = torch.randint(stage.quantize.re_embed, (3, 4, 5) if q == 1 else (3, 4, 5, q))
    entries = stage.quantize.embed_code(codes).detach()
    assert (entries >= codebook.lowest - 1e-5).all() and (entries <= codebook.highest + 1e-5).all()
    z = (entries + 1e-4 * torch.randn(entries.shape)).requires_grad_()
    snapped = codebook.snap(z)
    if q == 1:
        assert torch.allclose(snapped, entries, atol=1e-5)
    snapped.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    far = 100 * torch.randn(entries.shape)
    assert torch.equal(codebook.clamp_(far.clone()).clamp(codebook.lowest, codebook.highest), codebook.clamp_(far))
    assert codebook.random(2, 3, torch.Generator().manual_seed(0)).shape == (1, stage.quantize.e_dim, 2, 3)


@pytest.mark.parametrize("name", ["vq", "gumbel", "dvae"])
def test_a_start_image_is_what_the_first_stage_makes_of_it(name, perceptor):
    """Snapping the first latents gives what encoding the image does."""
    model = build(name)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(Codebook(model).snap(latents_to_optimize(model, x)), model.encode(x)[0], atol=1e-5)


def test_start_images(perceptor, image_folder):
    model = build("vq")
    image = str(image_folder / "left" / "0.png")
    starts = [{"init_noise": "pixels"}, {"init_noise": "gradient"}, {"init_image": image}, {}]
    firsts = []
    for start in starts:
        steps, image = losses_of(model, perceptor, small(iterations=1, augments=(), **start))
        assert image.shape == (1, 3, 24, 40)
        firsts.append(steps[0])
    assert len(set(firsts)) == 4


def test_init_weight_holds_on_to_the_start(perceptor):
    model = build("vq")

    def moved(**more):
        options = small(iterations=10, seed=1, learning_rate=0.2, **more)
        return (optimize(model, perceptor, options) - optimize(model, perceptor, small(iterations=1, seed=1))).abs()

    assert moved(init_weight=50.0).mean() < moved().mean()


def test_phases_of_a_story(perceptor):
    labels = []
    options = small(prompts="a|b:0.5 ^ c", noise_prompt_seeds=[7], change_prompt_every=3, iterations=8)
    optimize(build("vq"), perceptor, options, on_step=lambda step: labels.append(tuple(step.losses)))
    assert labels == [("1 a", "2 b", "3 noise 7")] * 3 + [("1 c", "2 noise 7")] * 5


def test_images_and_random_vectors_as_prompts(perceptor, image_folder):
    image = str(image_folder / "left" / "0.png")
    seen = []
    options = small(prompts="", image_prompts=f"{image}:2", noise_prompt_seeds=[1, 2], noise_prompt_weights=[1.0, -1.0])
    optimize(build("vq"), perceptor, options, on_step=lambda step: seen.append(step))
    assert list(seen[0].losses) == [f"1 {image}", "2 noise 1", "3 noise 2"]
    assert seen[0].losses["3 noise 2"] < 0 < seen[0].losses["2 noise 1"]


def test_gradients_of_clamped_pixels_lead_back_only():
    x = torch.tensor([-0.5, -0.5, 0.5, 1.5, 1.5], requires_grad=True)
    y = ClampWithGradient.apply(x)
    assert y.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    y.backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert x.grad.tolist() == [0.0, -1.0, 1.0, 1.0, 0.0], "a step goes against the gradient"


@pytest.mark.parametrize("optimiser", ["AdamW", "Adagrad", "Adamax", "RAdam", "RMSprop"])
def test_optimisers(optimiser, perceptor):
    steps, _ = losses_of(build("vq"), perceptor, small(optimiser=optimiser, iterations=2))
    assert np.isfinite(steps).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ""}, "nothing to match"),
        ({"prompts": "a^b"}, "2 phases separated by ^"),
        ({"iterations": 0}, "iterations must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
        ({"init_weight": -1.0}, "init_weight"),
        ({"size": (0, 16)}, "size: expected width and height"),
        ({"optimiser": "SGD"}, "optimiser is SGD, expected one of Adam, "),
        ({"augments": ["blur"]}, f"blur is none of {', '.join(AUGMENTATIONS)}"),
        ({"init_image": __file__, "init_noise": "pixels"}, "exclude each other"),
        ({"init_noise": "lines"}, "init_noise is lines"),
        ({"noise_prompt_seeds": [1], "noise_prompt_weights": [1.0, 2.0]}, "give one for each"),
    ],
)
def test_mistakes_in_options(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small(**changes)


def test_mistakes_about_files_and_models(perceptor):
    with pytest.raises(FileNotFoundError, match=r"gone\.png: no such image file"):
        small(image_prompts="gone.png:2")
    with pytest.raises(ValueError, match="below 2 pixels, the side of a code"):
        optimize(build("vq"), perceptor, small(size=(1, 16)))
    gray = VQModel(ddconfig(in_channels=1, out_ch=1), IDENTITY, **SIZE)
    with pytest.raises(ValueError, match="images of 1 channel"):
        optimize(gray, perceptor, small())
    nn.init.constant_(perceptor.model.pixels.weight, float("nan"))
    with pytest.raises(ValueError, match="step 1: the loss is nan"):
        optimize(build("vq"), perceptor, small())


def step(number):
    return Step(number, {"1 a": 0.5}, lambda: torch.full((1, 3, 8, 12), number / 10 - 1))


def test_pictures_know_how_they_were_made(tmp_path):
    path = tmp_path / "sea.png"
    pictures = Pictures(path, {"prompts": "das Meer, ruhig und weit, 海", "seed": 3, "size": [12, 8]}, save_every=3)
    for number in range(1, 8):
        pictures.follow(step(number))
    assert Image.open(path).text["iteration"] == "6"
    pictures.finish()
    image = Image.open(path)
    assert image.size == (12, 8) and image.text["prompts"] == "das Meer, ruhig und weit, 海"
    assert (image.text["seed"], image.text["iteration"]) == ("3", "7") and json.loads(image.text["size"]) == [12, 8]
    assert list(tmp_path.iterdir()) == [path], "stages are kept for a video only"


def test_a_video_of_the_stages(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed: pip install -e '.[clip]'")
    pictures = Pictures(tmp_path / "sea.png", {}, save_every=2, video=True)
    for number in range(1, 8):
        pictures.follow(step(number))
    pictures.finish()
    steps = sorted(path.name for path in (tmp_path / "sea_steps").iterdir())
    assert steps == ["0002.png", "0004.png", "0006.png", "0007.png"]
    video = pictures.write_video(length=2.0)
    assert video == tmp_path / "sea.mp4" and b"ftyp" in video.read_bytes()[:32]
    assert {path.name for path in tmp_path.iterdir()} == {"sea.png", "sea.mp4", "sea_steps"}


def test_output_that_cannot_be(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"sea.jpg: expected a name that ends in .png"):
        Pictures(tmp_path / "sea.jpg", {})
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Pictures(tmp_path / "gone" / "sea.png", {})
    with pytest.raises(ValueError, match="--save_every 0"):
        Pictures(tmp_path / "sea.png", {}, save_every=0)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r"taming-transformers\[app\]"):
        Pictures(tmp_path / "sea.png", {}, video=True)


def test_open_clip_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r"pip install 'taming-transformers\[clip\]'"):
        load_clip()


@needs_clip
def test_a_small_random_model_of_open_clip(tiny_open_clip, caplog):
    torch.manual_seed(0)
    clip = load_clip(tiny_open_clip, "none")
    assert clip.size == 32 and "are random" in caplog.text
    texts = clip.embed_texts(["a lighthouse", "a sea"])
    images = clip.embed_images(torch.rand(3, 3, 32, 32))
    assert texts.shape == (2, 12) and images.shape == (3, 12)
    assert torch.allclose(texts.norm(dim=1), torch.ones(2)) and torch.allclose(images.norm(dim=1), torch.ones(3))
    assert not clip.model.training
    options = small(iterations=20, num_cuts=8, augments=())
    steps, image = losses_of(build("vq"), clip, options)
    assert np.mean(steps[-5:]) < np.mean(steps[:5])
    assert torch.equal(losses_of(build("vq"), clip, options)[1], image)


@needs_clip
def test_names_that_open_clip_does_not_know(tiny_open_clip):
    with pytest.raises(ValueError, match="--clip_model ViT-B-33: open_clip has no such model; did you mean ViT-B-32"):
        load_clip("ViT-B/33")
    with pytest.raises(ValueError, match="opnai: neither a file nor weights of ViT-B-32; did you mean openai"):
        load_clip("ViT-B/32", "opnai")


def test_what_third_party_scripts_for_clip_use(tmp_path):
    """Spec: these names must work on models that are built and loaded by hand."""
    params = first_stage(resolution=16, n_embed=16)["params"]
    model = VQModel(**params)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "last.ckpt")
    model.init_from_ckpt(str(tmp_path / "last.ckpt"))
    del model.loss
    z, _, info = model.eval().encode(torch.zeros(1, 3, 16, 16))
    assert info[2].shape == (64,) and model.decode(z).shape == (1, 3, 16, 16)
    assert model.decoder.num_resolutions == 2
    assert (model.quantize.e_dim, model.quantize.n_e) == (4, 16) and model.quantize.embedding.weight.shape == (16, 4)
    gumbel = build("gumbel").quantize
    assert gumbel.n_embed == 16 and gumbel.embed.weight.shape == (16, 4)
    config = {
        "transformer_config": {
            "target": "taming.modules.transformer.mingpt.GPT",
            "params": {"vocab_size": 16, "block_size": 64, "n_layer": 1, "n_head": 1, "n_embd": 8},
        },
        "first_stage_config": {"target": "taming.models.vqgan.VQModel", "params": params},
        "cond_stage_config": "__is_unconditional__",
    }
    target = "taming.models.cond_transformer.Net2NetTransformer"
    assert isinstance(instantiate_from_config({"target": target, "params": config}).first_stage_model, VQModel)
