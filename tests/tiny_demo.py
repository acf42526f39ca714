"""Runs of every kind of conditioning, on small scenes, that sample 16 tokens in a moment."""

import torch
from omegaconf import OmegaConf
from tiny_configs import ddconfig, first_stage

from taming.config import instantiate_from_config
from taming.vocabulary import Vocabulary

SIDE, FACTOR = 16, 4
TOKENS = (SIDE // FACTOR) ** 2
N_CODES, N_LABELS, N_CLASSES, LAYOUT_TOKENS, VOCABULARY = 20, 9, 4, 64, 280
STEP = 1234


def stage(channels=3, **params):
    """A first stage of 4 x 4 codes for 16 x 16 pixels."""
    config = ddconfig(resolution=SIDE, ch_mult=[1, 1, 2], in_channels=channels, out_ch=channels)
    return first_stage(resolution=SIDE, n_embed=N_CODES, ddconfig=config, **params)


LABELS = stage(N_LABELS, n_labels=N_LABELS, image_key="segmentation")
LABELS["target"] = "taming.models.vqgan.VQSegmentationModel"
STAGES = {
    "segmentation": LABELS,
    "depth": stage(1, image_key="depth"),
    "class_label": {"target": "taming.modules.util.Labelator", "params": {"n_classes": N_CLASSES}},
    "coord": {"target": "taming.modules.misc.coord.CoordStage", "params": {"n_embed": N_CODES, "down_factor": FACTOR}},
    "objects_bbox": {
        "target": "taming.models.dummy_cond_stage.DummyCondStage",
        "params": {"conditional_key": "objects_bbox"},
    },
    "objects_center_points": {
        "target": "taming.models.dummy_cond_stage.DummyCondStage",
        "params": {"conditional_key": "objects_center_points"},
    },
    "caption_bytes": {
        "target": "taming.modules.misc.captions.CaptionStage",
        "params": {"length": 8, "vocab_size": VOCABULARY},
    },
    "image": "__is_first_stage__",
    "unconditional": "__is_unconditional__",
}
LENGTHS = {"class_label": 1, "unconditional": 1, "objects_bbox": 9, "objects_center_points": 6, "caption_bytes": 8}
"""Conditioning tokens, where they are not as many as those of the image."""
DATA_KEYS = {
    "unconditional": [],
    "image": [],
    "class_label": ["class_label", "human_label"],
    "caption_bytes": ["caption"],
}
LAYOUT = {"objects": [{"class": "ball", "box": [0.1, 0.5, 0.3, 0.4]}, {"class": "tree", "box": [0.5, 0.1, 0.4, 0.8]}]}


def config_of(kind, splits=("validation",), length=3):
    """The config of a run with such conditioning; splits of different lengths."""
    is_layout = kind.startswith("objects_")
    is_caption = kind == "caption_bytes"
    gpt = {
        "vocab_size": LAYOUT_TOKENS if is_layout else VOCABULARY if is_caption else N_CODES + 1,
        "block_size": LENGTHS.get(kind, TOKENS) + TOKENS - 1,
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 16,
    }
    keys = ["image", *DATA_KEYS.get(kind, [kind]), *(["annotations"] if is_layout else [])]
    scenes = {"size": SIDE, "keys": keys, "no_tokens": LAYOUT_TOKENS, "max_objects": 3}
    if kind == "coord":
        scenes |= {"size": 24, "crop_size": SIDE}
    return {
        "model": {
            "target": "taming.models.cond_transformer.Net2NetTransformer",
            "params": {
                "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": gpt},
                "first_stage_config": stage(ckpt_path="long/gone.ckpt"),
                "cond_stage_config": STAGES[kind],
                "cond_stage_key": "image" if kind == "unconditional" else kind,
            },
        },
        "data": {
            "target": "main.DataModuleFromConfig",
            "params": {
                "batch_size": 1,
                **{
                    split: {
                        "target": f"taming.data.{'captions.Captioned' if is_caption else 'scenes.'}ScenesValidation",
                        "params": {**scenes, "length": length - place},
                    }
                    for place, split in enumerate(splits)
                },
            },
        },
    }


def tiny_model(kind):
    """The model with weights for which tokens are far from uniform."""
    config = OmegaConf.create(config_of(kind)["model"])
    config.params.first_stage_config.params.ckpt_path = None
    torch.manual_seed(0)
    model = instantiate_from_config(config)
    for parameter in model.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    for module in (model.first_stage_model, model.cond_stage_model):
        if hasattr(module, "quantize"):
            torch.nn.init.normal_(module.quantize.embedding.weight)
    if kind == "caption_bytes":  # a checkpoint brings the vocabulary
        pairs = Vocabulary.train(["a heath with a car and two trees"] * 2, VOCABULARY).pairs()
        model.cond_stage_model.merges[: len(pairs)] = torch.tensor(pairs)
    return model.eval()


def save_run(logdir, kind, **options):
    """A run folder as training leaves it; its name."""
    (logdir / "configs").mkdir(parents=True)
    (logdir / "checkpoints").mkdir()
    OmegaConf.save(config_of(kind, **options), logdir / "configs" / "2021-project.yaml")
    content = {"state_dict": tiny_model(kind).state_dict(), "global_step": STEP}
    torch.save(content, logdir / "checkpoints" / "last.ckpt")
    return str(logdir)
