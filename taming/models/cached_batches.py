"""Batches of pre-computed codes: whose codes they are, and what a second stage reads in them.

b batch, l image tokens, m conditioning tokens, (d, h, w) latent of the first stage. `model` is a Net2NetTransformer.
"""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from taming.checkpoint_fit import TOLERATED
from taming.data.token_files import EXTRACTION, TokenMetadata, read_metadata
from taming.data.tokens import CachedTokens

logger = logging.getLogger(__name__)

SHOWN_DIGITS = 12
"""Of a hash, in messages."""


class CachedExamples(NamedTuple):
    """What there is to show of a batch of codes.

    z_indices (b, l) in the permuter's order, c_indices (b, m), zshape (b, d, h, w); quant_c is the quantized
    conditioning as its stage decodes it, None if it cannot.
    """

    z_indices: Tensor
    c_indices: Tensor
    zshape: tuple[int, ...]
    quant_c: Tensor | None


def is_cached(batch: Any) -> bool:
    """Whether a batch holds codes instead of images."""
    return isinstance(batch, Mapping) and "image_codes" in batch


def cached_codes(model: nn.Module, batch: Mapping, n: int | None = None) -> tuple[Tensor, Tensor]:
    """Image codes (b, l) in row-major order and conditioning codes (b, m) of the first n examples.

    Raises ValueError if the folder that they come from, `token_cache`, does not fit the model.
    """
    for folder in set(batch.get("token_cache", ())):
        fitting_metadata(model, folder)
    return batch["image_codes"][:n], batch["cond_codes"][:n]


def cached_examples(model: nn.Module, batch: Mapping, n: int = 4) -> CachedExamples:
    """The first n examples of a batch of `CachedTokens`."""
    image_codes, cond_codes = cached_codes(model, batch, n)
    metadata = fitting_metadata(model, batch["token_cache"][0])
    zshape = (image_codes.shape[0], *metadata.latent_shape)
    quant_c = _quantized(model.cond_stage_model, cond_codes, metadata.cond_shape)
    return CachedExamples(model.permuter(image_codes), cond_codes, zshape, quant_c)


def _quantized(stage: Any, codes: Tensor, shape: list[int]) -> Tensor | None:
    if not hasattr(stage, "decode"):
        return None
    if hasattr(stage, "quantize"):
        d, h, w = shape
        return stage.quantize.get_codebook_entry(codes.reshape(-1), shape=(codes.shape[0], h, w, d))
    return codes.reshape(-1, *shape)


def check_caches(model: nn.Module) -> None:
    """Raise ValueError if one of the data sets of the model's trainer holds codes that do not fit the model."""
    datasets = getattr(getattr(model.trainer, "datamodule", None), "datasets", {})
    for dataset in datasets.values():
        dataset = getattr(dataset, "data", dataset)  # out of a WrappedDataset
        if isinstance(dataset, CachedTokens):
            fitting_metadata(model, dataset.cache.folder)


def fitting_metadata(model: nn.Module, folder: str) -> TokenMetadata:
    """The metadata of a folder whose codes fit the model; checked once for each. Raises ValueError if they do not."""
    checked = model.__dict__.setdefault("_token_caches", {})
    if folder not in checked:
        metadata = read_metadata(folder)
        _check_size(model, folder, metadata)
        _check_tokenizer(model, folder, metadata)
        checked[folder] = metadata
    return checked[folder]


def _check_size(model: nn.Module, folder: str, metadata: TokenMetadata) -> None:
    vocabulary, block_size = model.transformer.config.vocab_size, model.transformer.block_size
    _, h, w = metadata.latent_shape
    image_tokens, cond_tokens = metadata.image_tokens, metadata.cond_tokens
    if metadata.vocabulary > vocabulary:
        raise ValueError(
            f"{folder}: codes of a vocabulary of {metadata.vocabulary}, but the transformer has vocab_size "
            f"{vocabulary}; make vocab_size as large, or extract codes with this transformer's config"
        )
    if cond_tokens + image_tokens - 1 > block_size:
        raise ValueError(
            f"{folder}: {cond_tokens} conditioning and {image_tokens} image tokens ({h} x {w} latents) do not fit into "
            f"block_size {block_size}; make block_size {cond_tokens + image_tokens - 1}, or extract smaller images"
        )
    order = getattr(model.permuter, "forward_shuffle_idx", None)
    if order is not None and len(order) != image_tokens:
        raise ValueError(
            f"{folder}: {image_tokens} image tokens ({h} x {w} latents), but the permuter orders {len(order)}; "
            "change H and W of permuter_config, or extract images of its size"
        )


def _check_tokenizer(model: nn.Module, folder: str, metadata: TokenMetadata) -> None:
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.first_stage_model.parameters()):
        logger.warning("%s: not compared with the first stage, whose weights are cast to half precision", folder)
        return
    own = tokenizer_hash(model)
    if metadata.tokenizer != own:
        theirs, ours = metadata.tokenizer[:SHOWN_DIGITS], own[:SHOWN_DIGITS]
        raise ValueError(
            f"{folder}: codes of the tokenizer {theirs}, but this model has {ours} "
            f"(other weights, or other settings of the conditioning); make codes that fit with: {EXTRACTION} "
            f"--base <configs of this run> --outdir <another folder> --views {metadata.views}"
        )


def tokenizer_hash(model: nn.Module) -> str:
    """SHA-256 of what decides on the codes of an image: names, types, shapes and bytes of the weights of both stages.

    Of a stage without weights its class and its settings count. The loss, which no code depends on, does not.
    """
    digest = hashlib.sha256()
    stages = {"first_stage_model": model.first_stage_model}
    if model.cond_stage_model is not model.first_stage_model:
        stages["cond_stage_model"] = model.cond_stage_model
    for name, stage in stages.items():
        state = stage.state_dict() if isinstance(stage, nn.Module) else {}
        weights = {key: state[key] for key in sorted(state) if not TOLERATED.search(key)}
        for key, value in weights.items():
            digest.update(f"{name}.{key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        if not weights:
            digest.update(f"{name} {type(stage).__name__} {_settings(stage)}\n".encode())
    keys = ("first_stage_key", "cond_stage_key", "downsample_cond_size", "downsample_cond_factor")
    digest.update(str({key: getattr(model, key) for key in keys}).encode())
    return digest.hexdigest()


def _settings(stage: Any) -> dict[str, Any]:
    """The numbers and names that a stage was built with."""
    plain = {key: value for key, value in vars(stage).items() if isinstance(value, bool | int | float | str)}
    return {key: plain[key] for key in sorted(plain) if not key.startswith("_") and key != "training"}
