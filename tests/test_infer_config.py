"""Configs inferred from weights: they build the same weights again, or it is said what the weights do not tell."""

import json

import numpy as np
import parity
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tiny_configs import ddconfig, first_stage

from taming.checkpoint import CheckpointError, infer_config, load_weights
from taming.config import instantiate_from_config

FIRST_STAGES = ["coco_cond_stage", "imagenetdepth_vqgan", "ldm_vq_f8", "sflckr_cond_stage", "vqgan_gumbel_f8_8192"]
FIRST_STAGES += ["vqgan_imagenet_f16_1024", "vqgan_imagenet_f16_16384"]
TRANSFORMERS = ["cin_transformer", "drin_transformer", "ffhq_transformer"]
TEMPERATURE = {"target": "torch.nn.Identity"}

LATENT_DIFFUSION = {
    "vq-f4": (3, 8192, [1, 2, 4], []),
    "vq-f8": (4, 16384, [1, 2, 2, 4], [32]),
    "vq-f8-n256": (4, 256, [1, 2, 2, 4], [32]),
    "vq-f16": (8, 16384, [1, 1, 2, 2, 4], [16]),
}
"""Name -> (embed_dim and z_channels, n_embed, ch_mult, attn_resolutions)."""


def manifest(name):
    return json.loads((parity.FOLDER / "manifests" / f"{name}.json").read_text())


def build(config):
    with torch.device("meta"):
        return instantiate_from_config(config)


def shapes(weights):
    return {key: parity.describe(value) for key, value in weights.items()}


def published_weights(name):
    weights = {}
    for key, text in manifest(name)["state_dict"].items():
        dtype, _, shape = text.partition("[")
        weights[key] = torch.empty(json.loads(f"[{shape}"), dtype=getattr(torch, dtype), device="meta")
    return weights


def agree(config, published):
    """Whether the two configs say the same of the weights."""
    ours, theirs = config["params"], published["params"]
    for key in ("ddconfig", "n_embed", "embed_dim", "n_labels"):
        assert ours.get(key) == theirs.get(key)
    assert config["target"] == published["target"]
    assert ours["lossconfig"]["target"] == theirs["lossconfig"]["target"]
    settings = ours["lossconfig"].get("params", {})
    for key, value in theirs["lossconfig"].get("params", {}).items():
        assert settings.get(key, value) == value or key == "disc_start"


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_published_first_stages(name):
    weights = published_weights(name)
    config = infer_config(weights)
    agree(config, manifest(name)["config"])
    dumped = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(config)))
    assert shapes(build(dumped).state_dict()) == shapes(weights)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_stages_of_published_transformers(name):
    weights, params = published_weights(name), manifest(name)["config"]["params"]
    agree(infer_config(weights, part="first_stage_model"), params["first_stage_config"])
    if name == "drin_transformer":
        agree(infer_config({"state_dict": weights}, part="cond_stage_model"), params["cond_stage_config"])


def latent_diffusion_config(name):
    """The config of a first stage as latent diffusion publishes it."""
    width, n_embed, ch_mult, attn_resolutions = LATENT_DIFFUSION[name]
    sizes = {"ch": 128, "z_channels": width, "ch_mult": ch_mult, "num_res_blocks": 2, "resolution": 256}
    return {
        "target": "ldm.models.autoencoder.VQModelInterface",
        "params": {
            "embed_dim": width,
            "n_embed": n_embed,
            "ddconfig": ddconfig(**sizes, attn_resolutions=attn_resolutions),
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    }


def with_running_means(weights):
    """The weights and the copies of them that a file of latent diffusion may hold."""
    copies = {f"model_ema.{key.replace('.', '')}": value for key, value in weights.items()}
    return weights | copies | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}


@pytest.mark.parametrize("name", LATENT_DIFFUSION)
def test_first_stages_of_latent_diffusion(name, caplog):
    caplog.set_level("INFO", logger="taming")
    config = latent_diffusion_config(name)
    model = build(config)
    weights = with_running_means(model.state_dict())
    keys = load_weights(model, weights, source="vq.ckpt", strict=True)
    assert not keys.missing_keys and len(keys.unexpected_keys) == len(weights) - len(model.state_dict())
    assert "vq.ckpt: missing none; unexpected model_ema." in caplog.messages[-1]
    inferred = infer_config(weights)
    assert inferred["params"]["ddconfig"] == config["params"]["ddconfig"]
    assert inferred["target"] == "taming.models.vqgan.VQModel"
    assert shapes(build(inferred).state_dict()) == shapes(model.state_dict())
    whole = {f"first_stage_model.{key}": value for key, value in weights.items()}
    assert (
        infer_config(whole | {"model.diffusion_model.out.weight": torch.ones(1)}, part="first_stage_model") == inferred
    )
    trained = build({**config, "params": {**config["params"], "lossconfig": LDM_LOSS}})
    assert infer_config(trained.state_dict())["params"]["lossconfig"]["params"]["disc_num_layers"] == 2


LDM_LOSS = {
    "target": "ldm.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
    "params": {"disc_start": 1, "disc_num_layers": 2, "disc_weight": 0.6, "disc_in_channels": 3},
}


@st.composite
def first_stages(draw):
    """Config of a small model of any kind, and its resolution."""
    channels = st.integers(1, 4)
    levels = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    resolution = draw(st.sampled_from([8, 12, 16]))
    at_levels = st.sets(st.integers(0, len(levels) - 1))
    sizes = {
        "resolution": resolution,
        "ch": draw(st.sampled_from([4, 8])),
        "ch_mult": levels,
        "num_res_blocks": draw(st.integers(1, 2)),
        "z_channels": draw(st.integers(1, 6)),
        "in_channels": draw(channels),
        "out_ch": draw(channels),
        "attn_resolutions": [resolution // 2**level for level in sorted(draw(at_levels))],
    }
    if len(levels) > 1 and draw(st.booleans()):
        sizes["resamp_with_conv"] = False
    params = {"ddconfig": ddconfig(**sizes), "n_embed": draw(st.integers(2, 9)), "embed_dim": draw(st.integers(1, 5))}
    kind = draw(st.sampled_from(["VQModel", "EMAVQ", "GumbelVQ", "VQSegmentationModel"]))
    params["lossconfig"] = {"target": "taming.modules.losses.DummyLoss"}
    if kind == "GumbelVQ":
        params["temperature_scheduler_config"] = TEMPERATURE
    if kind == "VQSegmentationModel":
        params["n_labels"] = sizes["in_channels"]
    elif draw(st.booleans()):
        discriminator = {
            "disc_num_layers": draw(st.integers(1, 3)),
            "disc_ndf": draw(st.sampled_from([4, 8])),
            "disc_in_channels": sizes["out_ch"],
            "use_actnorm": draw(st.booleans()),
            "disc_start": 5,
        }
        target = "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"
        params["lossconfig"] = {"target": target, "params": discriminator}
    if kind != "VQSegmentationModel" and draw(st.booleans()):
        params["colorize_nlabels"] = 7
        if params["lossconfig"]["target"].endswith("DummyLoss") and kind == "VQModel":
            kind = "VQSegmentationModel"
            params["n_labels"] = params.pop("colorize_nlabels")
    return {"target": f"taming.models.vqgan.{kind}", "params": params}


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(first_stages())
def test_any_first_stage(config):
    model = build(config)
    inferred = infer_config(model.state_dict(), resolution=config["params"]["ddconfig"]["resolution"])
    assert inferred["target"] == config["target"]
    assert inferred["params"]["ddconfig"] == config["params"]["ddconfig"]
    again = build(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(inferred))))
    assert shapes(again.state_dict()) == shapes(model.state_dict())


def test_losses_without_a_discriminator():
    loss = {"target": "taming.modules.losses.vqperceptual.VQLPIPS"}
    config = first_stage(resolution=8, n_embed=4, lossconfig=loss)
    inferred = infer_config(build(config).state_dict())
    assert (inferred["target"], inferred["params"]["lossconfig"]) == ("taming.models.vqgan.VQNoDiscModel", loss)


def test_a_start_of_the_discriminator_that_validation_decides():
    loss = {
        "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
        "params": {"disc_start": "auto", "disc_ndf": 4},
    }
    weights = build(first_stage(resolution=8, n_embed=4, lossconfig=loss)).state_dict()
    assert infer_config(weights)["params"]["lossconfig"]["params"]["disc_start"] == "auto"


def test_many_channels_without_colours_are_a_label_map():
    config = first_stage(resolution=8, n_embed=4, ddconfig=ddconfig(in_channels=9, out_ch=9))
    inferred = infer_config(build(config).state_dict())
    assert inferred["target"].endswith("VQSegmentationModel")
    assert (inferred["params"]["n_labels"], inferred["params"]["image_key"]) == (9, "segmentation")


def test_a_file(tmp_path):
    model = instantiate_from_config(first_stage(resolution=16, n_embed=4))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.ckpt")
    assert infer_config(tmp_path / "a.ckpt") == infer_config(model.state_dict())
    again = instantiate_from_config(infer_config(tmp_path / "a.ckpt", resolution=16))
    assert load_weights(again, model.state_dict(), strict=True) == ([], [])


@pytest.mark.parametrize("target", ["VQModel", "GumbelVQ", "EMAVQ"])
def test_a_codebook_of_which_some_codes_are_kept(tmp_path, target):
    np.save(tmp_path / "used.npy", np.array([0, 2, 3]))
    config = first_stage(resolution=8, n_embed=4, remap=str(tmp_path / "used.npy"))
    config["target"] = f"taming.models.vqgan.{target}"
    if target == "GumbelVQ":
        config["params"]["temperature_scheduler_config"] = TEMPERATURE
    weights = instantiate_from_config(config).state_dict()
    with pytest.raises(CheckpointError, match=r"^state dict: quantize.used keeps 3 of 4 codes.*numpy.save.*as remap$"):
        infer_config(weights)
    inferred = infer_config(weights, remap=tmp_path / "used.npy")
    assert shapes(instantiate_from_config(inferred).state_dict()) == shapes(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"blocks.0.attn.weight": w["quant_conv.weight"]}, r"holds no first stage, but blocks\.0$"),
        (lambda w: {}, "holds no first stage, but none"),
        (
            lambda w: {f"first_stage_model.{key}": value for key, value in w.items()},
            "holds no first stage, but first_stage_model.*give part=first_stage_model",
        ),
        (lambda w: without(w, "quantize."), "has no codebook"),
        (
            lambda w: without(w, "decoder.conv_out", "encoder.down.0.block"),
            "no weights of encoder.down, decoder.conv_out",
        ),
        (
            lambda w: without(w, "quantize.") | {"quantize.codes.x": torch.ones(1)},
            r"a quantizer that the weights do not tell enough about \(quantize.codes\)",
        ),
    ],
)
def test_what_cannot_be_inferred(change, message):
    weights = build(first_stage(resolution=8, n_embed=4)).state_dict()
    with pytest.raises(CheckpointError, match=f"^state dict: .*{message}") as error:
        infer_config(change(weights))
    assert "\n" not in str(error.value)


def without(weights, *prefixes):
    return {key: value for key, value in weights.items() if not key.startswith(prefixes)}


def test_a_missing_part_and_a_resolution_that_is_too_small():
    weights = build(first_stage(resolution=8, n_embed=4)).state_dict()
    with pytest.raises(CheckpointError, match="part cond_stage_model holds no first stage"):
        infer_config(weights, part="cond_stage_model")
    with pytest.raises(ValueError, match="resolution=1: this model makes images 2 times smaller"):
        infer_config(weights, resolution=1)
