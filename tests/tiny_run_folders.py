"""Run folders of small models with random weights, as training leaves them, and configs to fill them with."""

import torch
from omegaconf import OmegaConf
from tiny_configs import ddconfig, first_stage

from taming.config import instantiate_from_config

N_LABELS = 5
LABEL_MAPS = {
    "target": "taming.models.vqgan.VQSegmentationModel",
    "params": {
        "ddconfig": ddconfig(in_channels=N_LABELS, out_ch=N_LABELS),
        "lossconfig": {"target": "taming.modules.losses.DummyLoss"},
        "n_embed": 8,
        "embed_dim": 4,
        "n_labels": N_LABELS,
        "image_key": "segmentation",
    },
}
DEPTH_MAPS = first_stage(resolution=16, n_embed=8, ddconfig=ddconfig(in_channels=1, out_ch=1))


def transformer(cond_stage, cond_key, *, block_size=31):
    """Target config of a transformer over 12 codes, with windows of 4 x 4 beside as many conditioning tokens."""
    sizes = {"vocab_size": 16, "block_size": block_size, "n_layer": 1, "n_head": 2, "n_embd": 16}
    return {
        "target": "taming.models.cond_transformer.Net2NetTransformer",
        "params": {
            "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": sizes},
            "first_stage_config": first_stage(resolution=16, n_embed=12),
            "cond_stage_config": cond_stage,
            "cond_stage_key": cond_key,
        },
    }


def build(config):
    """A model whose codes and tokens are far from uniform."""
    torch.manual_seed(0)
    model = instantiate_from_config(OmegaConf.create(config))
    for name, parameter in model.named_parameters():
        if name.startswith("transformer") and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def save_run(logdir, config, *, step=42, **sections):
    """A run folder with the weights of `build(config)`; `sections` are added to its config. Its path as a string."""
    (logdir / "configs").mkdir(parents=True)
    (logdir / "checkpoints").mkdir()
    OmegaConf.save({"model": config, **sections}, logdir / "configs" / "2021-project.yaml")
    state_dict = build(config).state_dict()
    torch.save({"state_dict": state_dict, "global_step": step}, logdir / "checkpoints" / "last.ckpt")
    return str(logdir)
