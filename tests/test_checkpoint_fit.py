"""Weights and models: what does not fit is said, with the key of the config that is wrong."""

import logging
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf
from tiny_configs import ddconfig, first_stage
from torch import nn

from taming.checkpoint import CheckpointError, load_weights
from taming.checkpoint_fit import explain_misfit, summary
from taming.config import instantiate_from_config

pytestmark = pytest.mark.filterwarnings("ignore:.*is a no-op")  # models without memory take names and shapes only

WEIGHTS = {"weight": torch.arange(3.0)}


class Tokenizer(nn.Module):
    """The names and shapes of a VQModel's weights, in small."""

    def __init__(self, ch=4, n_embed=8, in_channels=3):
        super().__init__()
        self.encoder = nn.ModuleDict({"conv_in": nn.Conv2d(in_channels, ch, 3), "mid": nn.Conv2d(ch, ch, 1)})
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(n_embed, 2)})
        self.loss = nn.Linear(1, 1)


class Stages(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.first_stage_model = Tokenizer(**options)
        self.transformer = nn.ModuleDict({"head": nn.Linear(2, 8, bias=False)})


def test_weights_are_loaded_and_differences_reported(caplog):
    caplog.set_level(logging.INFO, logger="taming")
    source, target = Tokenizer(), Tokenizer()
    state = source.state_dict()
    del state["loss.bias"]
    result = load_weights(target, state | {"colorize": torch.zeros(1)}, source="a.ckpt", strict=True)
    assert torch.equal(target.encoder["mid"].weight, source.encoder["mid"].weight)
    assert (result.missing_keys, result.unexpected_keys) == (["loss.bias"], ["colorize"])
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "a.ckpt: missing loss.bias; unexpected colorize")
    ]


def test_a_complete_fit_is_silent(caplog):
    caplog.set_level(logging.INFO, logger="taming")
    assert load_weights(Tokenizer(), Tokenizer().state_dict(), strict=True) == ([], [])
    assert not caplog.records


def test_strict_loading_fails_for_keys_that_matter(caplog):
    state = Stages().state_dict()
    lacking = {key: value for key, value in state.items() if not key.startswith("first_stage_model.encoder")}
    with pytest.raises(CheckpointError) as error:
        load_weights(Stages(), lacking, source="a.ckpt", strict=True)
    assert str(error.value) == "a.ckpt: does not fit the config, missing first_stage_model.encoder (4)"
    deeper = state | {"transformer.blocks.0.ln1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"unexpected transformer\.blocks"):
        load_weights(Stages(), deeper, strict=True)
    load_weights(Stages(), state | {"model_ema.decay": torch.zeros(1)}, strict=True)
    assert load_weights(Stages(), lacking).missing_keys == [key for key in state if key not in lacking]
    assert caplog.records[-1].levelname == "WARNING"


def test_strict_loading_tolerates_what_inference_does_without():
    lacking = Stages().state_dict()
    del lacking["first_stage_model.loss.weight"]
    extra = [
        "first_stage_model.colorize",
        "first_stage_model.loss.discriminator.bias",
        "transformer.blocks.0.attn.mask",
    ]
    result = load_weights(Stages(), lacking | dict.fromkeys(extra, torch.zeros(1)), strict=True)
    assert result == (["first_stage_model.loss.weight"], extra)


def test_ignored_prefixes_may_overlap():
    result = load_weights(Tokenizer(), Tokenizer().state_dict(), ignore_keys=["loss", "loss.weight", "quantize"])
    assert result.missing_keys == ["quantize.embedding.weight", "loss.weight", "loss.bias"]


@pytest.mark.parametrize(
    ("options", "stages", "message"),
    [
        (
            {"n_embed": 16},
            False,
            "quantize.embedding.weight is (8, 2) in the file, (16, 2) in the model; "
            "in the config check n_embed (the file has 8)",
        ),
        (
            {"n_embed": 16},
            True,
            "first_stage_model.quantize.embedding.weight is (8, 2) in the file, (16, 2) in the model; "
            "in the config check first_stage_config.params.n_embed (the file has 8)",
        ),
        (
            {"in_channels": 1},
            False,
            "encoder.conv_in.weight is (4, 3, 3, 3) in the file, (4, 1, 3, 3) in the model; "
            "in the config check ddconfig.in_channels (the file has 3)",
        ),
        (
            {"ch": 8},
            False,
            "encoder.conv_in.weight is (4, 3, 3, 3) in the file, (8, 3, 3, 3) in the model (and 3 more); "
            "in the config check ddconfig.ch (the file has 4)",
        ),
    ],
)
def test_weights_of_another_shape_point_to_the_config_key(options, stages, message):
    build = Stages if stages else Tokenizer
    with pytest.raises(CheckpointError) as error:
        load_weights(build(**options), build().state_dict(), source="a.ckpt")
    assert str(error.value) == f"a.ckpt: {message}"


def test_a_checkpoint_of_something_else():
    with pytest.raises(CheckpointError, match=r"holds nothing for Tokenizer, but first_stage_model.*extract_submodel"):
        load_weights(Tokenizer(), Stages().state_dict())


def test_modules_without_weights_take_any_checkpoint():
    assert load_weights(nn.Identity(), WEIGHTS).unexpected_keys == ["weight"]


def test_summary_counts_keys_by_part():
    assert summary([]) == "none"
    assert summary(["a.b.c", "a.b.d", "colorize"]) == "a.b (2), colorize"
    assert summary([f"part{i}.x.y" for i in range(9)]).endswith("part5.x, and 3 more parts")


def test_weights_of_another_program():
    vit = {f"{name}.weight": torch.ones(1) for name in ("patch_embed.proj", "blocks.0.attn.qkv", "norm", "head")}
    with pytest.raises(CheckpointError) as error:
        load_weights(Stages(), vit, source="vit.pth")
    assert str(error.value) == (
        "vit.pth: holds nothing for Stages, but patch_embed.proj, blocks.0, norm.weight, head.weight; "
        "it is of another kind of model, or of another program"
    )


def test_weights_of_a_part():
    with pytest.raises(CheckpointError, match=r"it fits the part first_stage_model of the model only$"):
        load_weights(Stages(), Tokenizer().state_dict())
    whole = {f"model.{key}": value for key, value in Stages().state_dict().items()}
    with pytest.raises(CheckpointError, match=r"its part model.first_stage_model fits: .*IN OUT model"):
        load_weights(Tokenizer(), whole)


def test_running_means_of_weights_are_tolerated_in_a_stage():
    extra = {"first_stage_model.model_ema.decay": torch.ones(()), "model_ema.num_updates": torch.ones(())}
    result = load_weights(Stages(), Stages().state_dict() | extra, strict=True)
    assert (result.missing_keys, set(result.unexpected_keys)) == ([], set(extra))


GAN_LOSS = {
    "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
    "params": {"disc_start": 0, "disc_ndf": 4, "disc_num_layers": 2},
}
VQMODEL = first_stage(
    resolution=16,
    n_embed=8,
    lossconfig=GAN_LOSS,
    colorize_nlabels=5,
    ddconfig=ddconfig(ch_mult=[1, 2, 2], attn_resolutions=[8]),
)
TRANSFORMER = {
    "target": "taming.models.cond_transformer.Net2NetTransformer",
    "params": {
        "transformer_config": {
            "target": "taming.modules.transformer.mingpt.GPT",
            "params": {"vocab_size": 8, "block_size": 16, "n_layer": 2, "n_head": 1, "n_embd": 8},
        },
        "first_stage_config": first_stage(resolution=16, n_embed=8),
        "cond_stage_config": first_stage(resolution=16, n_embed=6),
    },
}
CHANGES = {
    "ddconfig.ch": 4,
    "ddconfig.ch_mult": [1, 2],
    "ddconfig.num_res_blocks": 2,
    "ddconfig.attn_resolutions": [4],
    "ddconfig.resolution": 32,
    "ddconfig.in_channels": 1,
    "ddconfig.out_ch": 1,
    "ddconfig.z_channels": 8,
    "ddconfig.double_z": True,
    "ddconfig.resamp_with_conv": False,
    "n_embed": 9,
    "embed_dim": 5,
    "colorize_nlabels": 6,
    "lossconfig.params.disc_num_layers": 3,
    "lossconfig.params.disc_ndf": 8,
    "lossconfig.params.disc_in_channels": 1,
    "lossconfig.params.use_actnorm": True,
}
TRANSFORMER_CHANGES = {
    "transformer_config.params.vocab_size": 9,
    "transformer_config.params.block_size": 17,
    "transformer_config.params.n_layer": 1,
    "transformer_config.params.n_embd": 16,
    "first_stage_config.params.n_embed": 9,
    "first_stage_config.params.embed_dim": 3,
    "first_stage_config.params.ddconfig.ch_mult": [1, 2, 2],
    "first_stage_config.params.ddconfig.num_res_blocks": 2,
    "first_stage_config.params.ddconfig.attn_resolutions": [8],
    "first_stage_config.target": "taming.models.vqgan.EMAVQ",
    "cond_stage_config.params.n_embed": 8,
    "cond_stage_config.params.ddconfig.in_channels": 5,
    "cond_stage_config.target": "taming.models.vqgan.EMAVQ",
    "cond_stage_config": {"target": "taming.modules.util.Labelator", "params": {"n_classes": 8}},
}


@cache
def unchanged(target):
    """The model of VQMODEL or TRANSFORMER; loading leaves it as it is, for it has no memory."""
    return build(VQMODEL if target == VQMODEL["target"] else TRANSFORMER)


def build(config, **changes):
    changed = OmegaConf.create({"params": {}} | config)
    for key, value in changes.items():
        replaces = key == "cond_stage_config"
        OmegaConf.update(changed, key if key == "target" else f"params.{key}", value, merge=not replaces)
    with torch.device("meta"):
        return instantiate_from_config(changed)


def report_of(model, weights, caplog):
    """What is said when the weights are loaded: the error, or the report if they are taken all the same."""
    caplog.clear()
    try:
        load_weights(model, weights, source="a.ckpt", strict=True)
    except CheckpointError as error:
        assert "\n" not in str(error)
        return str(error)
    (message,) = caplog.messages
    return message


def check_both_ways(config, key, value, caplog):
    """The model of either config is told the weights of the other."""
    caplog.set_level(logging.INFO, logger="taming")
    here, there = unchanged(config["target"]), build(config, **{key: value})
    for model, other in ((here, there), (there, here)):
        report = report_of(model, other.state_dict(), caplog)
        assert report.startswith("a.ckpt: ")
        assert f"; in the config check {key} " in report.replace("n_labels or colorize", "colorize"), report


@pytest.mark.parametrize("key", CHANGES)
def test_the_key_by_which_a_first_stage_differs_is_named(key, caplog):
    value = CHANGES[key]
    if key == "ddconfig.resolution":
        here, there = unchanged(VQMODEL["target"]), build(VQMODEL, **{key: value})
        report = report_of(here, there.state_dict(), caplog)
        assert "ddconfig.attn_resolutions or resolution (the file has attention at resolution / 4)" in report
    else:
        check_both_ways(VQMODEL, key, value, caplog)


@pytest.mark.parametrize("key", TRANSFORMER_CHANGES)
def test_the_key_by_which_a_transformer_differs_is_named(key, caplog):
    check_both_ways(TRANSFORMER, key, TRANSFORMER_CHANGES[key], caplog)


def test_quantizers_of_another_class(caplog, tmp_path):
    classes = {
        "VQModel": {},
        "EMAVQ": {},
        "GumbelVQ": {"temperature_scheduler_config": {"target": "torch.nn.Identity"}},
    }
    models = {name: build(VQMODEL, target=f"taming.models.vqgan.{name}", **more) for name, more in classes.items()}
    for here, model in models.items():
        for there, other in models.items():
            if here != there:
                report = report_of(model, other.state_dict(), caplog)
                assert f"; in the config check target (the file has taming.models.vqgan.{there})" in report
                assert "quantize" in report.split(";")[0]


def test_codes_that_are_kept(caplog):
    weights = build(VQMODEL).state_dict()
    report = report_of(build(VQMODEL), weights | {"quantize.used": torch.arange(3)}, caplog)
    assert report == (
        "a.ckpt: does not fit the config, unexpected quantize.used; in the config check remap (the file has 3)"
    )


def test_orders_of_tokens(caplog):
    weights = build(TRANSFORMER).state_dict() | {"permuter.forward_shuffle_idx": torch.arange(16)}
    report = report_of(build(TRANSFORMER), weights, caplog)
    assert report.endswith(
        "unexpected permuter.forward_shuffle_idx; in the config check permuter_config (the file has 16)"
    )


def test_a_transformer_by_itself(caplog):
    config = TRANSFORMER["params"]["transformer_config"]
    report = report_of(build(config, n_layer=3), build(config).state_dict(), caplog)
    assert report == (
        "a.ckpt: does not fit the config, missing blocks.2 (16); in the config check n_layer (the file has 2)"
    )


def test_losses(caplog):
    caplog.set_level(logging.INFO, logger="taming")
    with_loss, without = build(VQMODEL), build(VQMODEL, lossconfig={"target": "torch.nn.Identity", "params": {}})
    report = report_of(with_loss, without.state_dict(), caplog)
    assert report.endswith("; in the config check lossconfig.target (the file has no weights of a loss)")
    report = report_of(without, with_loss.state_dict(), caplog)
    assert "unexpected loss.perceptual_loss (33), loss.discriminator (" in report and "in the config" not in report


def test_several_keys_at_once(caplog):
    other = build(VQMODEL, **{key: CHANGES[key] for key in list(CHANGES) if key != "ddconfig.resolution"})
    report = report_of(build(VQMODEL), other.state_dict(), caplog)
    assert "; in the config check ddconfig.ch (the file has 4), ddconfig.in_channels (the file has 1), " in report
    assert report.endswith(" more")


def test_what_a_strict_loading_by_torch_would_say():
    model = Stages()
    state = model.state_dict()
    masks = {"transformer.blocks.0.attn.mask": torch.ones(1), "first_stage_model.colorize": torch.ones(1)}
    assert explain_misfit(model, state | masks) is None
    del state["first_stage_model.loss.bias"]
    assert explain_misfit(model, state) == "does not fit the config, missing first_stage_model.loss"
    assert "(8, 2) in the file" in explain_misfit(Stages(n_embed=9), state)
