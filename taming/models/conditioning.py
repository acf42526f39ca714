"""The stages of a second stage: which of their tokens the transformer can read, how conditioning is shown in logs.

b batch, l conditioning tokens, (h, w) image size. A stage is a module or a plain object with `encode`.
"""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import Dataset

from taming.models.autoencoder import VQAutoencoder
from taming.modules.util import Labelator

LAYOUTS = ("objects_bbox", "objects_center_points")
"""Conditioning keys whose tokens are scene layouts, which the data set's `conditional_builders` draw."""


def disabled_train(self, mode: bool = True):
    """Takes the place of `train` on a frozen stage, which stays in eval mode for ever."""
    return self


def for_encoder(x: Tensor, stage) -> Tensor:
    """Images in the memory format that a stage's convolutions read fastest: on a CPU 1.1 to 1.2 times, same codes."""
    convolutional = isinstance(stage, VQAutoencoder) and x.ndim == 4 and x.device.type == "cpu"
    return x.to(memory_format=torch.channels_last) if convolutional else x


def n_codes(stage) -> int | None:
    """How many codes a stage with a codebook has; None for the others."""
    return getattr(getattr(stage, "quantize", None), "re_embed", None)


def check_codebook(stage, vocab_size: int, section: str) -> None:
    """Raise ValueError if a stage has codes that the transformer cannot read; `section` is its place in the config."""
    codes = n_codes(stage)
    if codes is not None and codes > vocab_size:
        raise ValueError(
            f"{section} has a codebook of {codes} codes, the transformer reads {vocab_size}: "
            f"set transformer_config.params.vocab_size to {codes} or more"
        )


def check_condition(tokens: Tensor, stage, vocab_size: int) -> None:
    """Raise ValueError for conditioning tokens (b, l) that are no label of the stage or not in the vocabulary.

    Codes of a codebook are in range by nature and are not looked at, which on a GPU would wait for them.
    """
    if n_codes(stage) is not None:
        check_codebook(stage, vocab_size, "cond_stage_config")
        return
    if tokens.numel() == 0 or tokens.device.type == "meta":
        return
    lowest, highest = torch.stack(tokens.aminmax()).tolist()
    wrong = lowest if lowest < 0 else highest
    if isinstance(stage, Labelator) and not 0 <= wrong < stage.n_classes:
        raise ValueError(
            f"class label {wrong} is out of range: cond_stage_config.params.n_classes={stage.n_classes} "
            f"allows 0 to {stage.n_classes - 1}; set it to the number of classes of the data"
        )
    if not 0 <= wrong < vocab_size:
        raise ValueError(
            f"conditioning token {wrong} is outside the transformer's vocabulary, 0 to {vocab_size - 1}: raise "
            "transformer_config.params.vocab_size, or check cond_stage_config and the data set"
        )


def check_dropping(drop_prob: float, null_token: int | None, stage, vocab_size: int, *, unconditional: bool) -> None:
    """Raise ValueError unless conditioning can be dropped with this probability and `null_token` can stand for it."""
    if not 0.0 <= drop_prob <= 1.0:
        raise ValueError(f"cond_drop_prob={drop_prob} is no probability: it must lie in [0, 1]")
    if drop_prob > 0 and unconditional:
        raise ValueError(f"cond_drop_prob={drop_prob}: the model is unconditional, there is nothing to drop")
    if null_token is None:
        if drop_prob > 0:
            raise ValueError(
                f"cond_drop_prob={drop_prob} needs null_token, the token from 0 to {vocab_size - 1} that stands for "
                "no conditioning"
            )
        return
    if not 0 <= null_token < vocab_size:
        raise ValueError(
            f"null_token={null_token} is outside the transformer's vocabulary, 0 to {vocab_size - 1}: "
            "set transformer_config.params.vocab_size to one more than is in use, and null_token to the last"
        )
    if isinstance(stage, Labelator) and null_token < stage.n_classes:
        raise ValueError(
            f"null_token={null_token} is the label of a class: take one from {stage.n_classes} (n_classes) on"
        )


def show_condition(stage, key: str, c: Tensor | None, quant_c: Tensor) -> dict[str, Tensor]:
    """`conditioning_rec`, what the stage decodes, and `conditioning`, what it was given, as images (b, 3 or 1, h, w).

    Nothing for conditioning that is the image itself or cannot be decoded to images (labels, the start token), and only
    the former where c is None. Label maps (key "segmentation", (b, n_labels, h, w)) get the stage's colours; captions
    are written as the transformer reads them.
    """
    if key == "image" or not hasattr(stage, "decode"):
        return {}
    shown = {"conditioning_rec": stage.decode(quant_c)}
    if shown["conditioning_rec"].ndim != 4:
        return {}
    if c is not None:
        shown["conditioning"] = c if c.ndim == 4 else shown["conditioning_rec"]
    if key == "segmentation":
        n_labels = shown["conditioning_rec"].shape[1]
        shown = {name: _colour_labels(stage, scores, n_labels) for name, scores in shown.items()}
    return shown


def _colour_labels(stage: nn.Module, scores: Tensor, n_labels: int) -> Tensor:
    """Scores or one-hot labels (b, k, h, w) -> the most likely label's colour (b, 3, h, w) in [-1, 1]."""
    one_hot = F.one_hot(scores.argmax(dim=1), n_labels)
    return stage.to_rgb(rearrange(one_hot, "b h w k -> b k h w").float())


def show_layouts(module: pl.LightningModule, key: str, tokens: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Scene layouts (b, l) drawn by the data set of the run, `size` = (width, height); nothing without such a data set.

    The input and its reconstruction are the same.
    """
    dataset = _data_set_with_layouts(module, key)
    if dataset is None:
        return {}
    plot, label_of = dataset.conditional_builders[key].plot, dataset.get_textual_label_for_category_no
    plots = torch.stack([plot(row, label_of, size) for row in tokens.cpu()]).to(tokens.device)
    return {"conditioning_rec": plots, "conditioning": plots}


def _data_set_with_layouts(module: pl.LightningModule, key: str) -> Dataset | None:
    """The validation data set if it can draw `key`, else another one of the run that can."""
    from taming.data.datamodule import WrappedDataset  # here: importing a model must not import tqdm

    trainer = module._trainer  # the property raises where there is none
    datasets: Mapping[str, Dataset] = getattr(getattr(trainer, "datamodule", None), "datasets", {})
    for split in sorted(datasets, key=lambda name: name != "validation"):
        dataset = datasets[split]
        while isinstance(dataset, WrappedDataset):
            dataset = dataset.data
        if key in getattr(dataset, "conditional_builders", ()):
            return dataset
    return None
