"""Quantizers of the package vector-quantize-pytorch behind the interface of this project's own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor

from taming.config import check_keywords
from taming.modules.processes import count_processes
from taming.modules.util import at_least_float32
from taming.modules.vqvae.base import Quantizer, to_grid

DERIVED = {
    "VectorQuantize": ("dim", "codebook_size"),
    "SimVQ": ("dim", "codebook_size"),
    "ResidualVQ": ("dim", "codebook_size"),
    "LFQ": ("dim", "codebook_size"),
    "FSQ": ("dim",),
}
"""Class of the package -> those of its parameters that follow from n_embed and embed_dim."""


class LibraryQuantizer(Quantizer):
    """A quantizer of vector-quantize-pytorch; `options` are its own parameters, under its own names.

    VectorQuantize: running means, cosine similarity (use_cosine_sim), the rotation trick (Fifty et al. 2024). SimVQ: a
    frozen codebook under a trained linear map (Zhu et al. 2024). FSQ: each dimension rounded to one of `levels`
    (Mentzer et al. 2023). LFQ: one bit per dimension (Yu et al. 2023), with spherical on the unit sphere, BSQ (Zhao et
    al. 2024). ResidualVQ: num_quantizers codebooks, each for what the one before leaves over (Lee et al. 2022).

    A residual quantizer has several tokens per position, coarse to fine, one position after the other. Each level has
    its own share of the n_embed codes; a code of another level counts by its place in that level.
    """

    def __init__(self, quantizer: str, n_embed: int, embed_dim: int, **options) -> None:
        super().__init__()
        if quantizer not in DERIVED:
            raise ValueError(f"quantizer is '{quantizer}'; there are {', '.join(DERIVED)}")
        self.tokens_per_position = options.get("num_quantizers", 1)
        if n_embed % self.tokens_per_position:
            raise ValueError(f"{n_embed} codes cannot be shared out to {self.tokens_per_position} residual levels")
        derived = {"dim": embed_dim, "codebook_size": n_embed // self.tokens_per_position}
        options |= {name: derived[name] for name in DERIVED[quantizer]}
        constructor = getattr(_package(), quantizer)
        check_keywords(constructor, options)
        try:
            self.codes = constructor(**options)
        except AssertionError as error:
            raise ValueError(f"{quantizer}: {error}") from error
        self.e_dim = embed_dim
        self.n_e = self.codes.codebook_size * self.tokens_per_position if quantizer == "FSQ" else n_embed
        self._init_remap(self.n_e, None, "random")

    def forward(self, z: Tensor):
        """Latents (b, d, h, w) -> (z_q, loss (), (None, None, indices int64 (b*h*w*tokens_per_position,)))."""
        if self.training and count_processes() > 1:
            self._follow_all_processes()
        with torch.autocast(z.device.type, enabled=False):
            vectors = rearrange(at_least_float32(z), "b d h w -> b (h w) d")
            z_q, indices, *losses = self.codes(vectors)
            loss = sum((loss.sum() for loss in losses), z_q.new_zeros(()))
        z_q = rearrange(z_q, "b (h w) d -> b d h w", h=z.shape[2])
        if self.tokens_per_position > 1:
            indices = indices + self._codes_per_level() * torch.arange(self.tokens_per_position, device=z.device)
        return z_q.to(z.dtype), loss, (None, None, indices.reshape(-1).long())

    def _follow_all_processes(self) -> None:
        """Let running codebooks follow the vectors of all processes that train together.

        The package decides this when a codebook is built, and these processes find each other only afterwards.
        """
        sample = _package().vector_quantize_pytorch.sample_vectors_distributed
        for codebook in self.codes.modules():
            if getattr(codebook, "use_ddp", True):  # it does already, or is no such codebook
                continue
            codebook.use_ddp = True
            codebook.all_reduce_fn = codebook.kmeans_all_reduce_fn = dist.all_reduce
            codebook.sample_fn = codebook.replace_sample_fn = sample

    def _codes_per_level(self) -> int:
        return self.n_e // self.tokens_per_position

    @contextmanager
    def frozen(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        self._check_range(indices)
        codes = indices.reshape(1, -1)
        if self.tokens_per_position > 1:
            codes = rearrange(codes % self._codes_per_level(), "1 (n q) -> 1 n q", q=self.tokens_per_position)
        entries = self._look_up(codes)[0]  # (n, d)
        if shape is not None:
            return to_grid(entries, shape)
        return entries if self.tokens_per_position > 1 else entries.reshape(*indices.shape, -1)

    def _look_up(self, codes: Tensor) -> Tensor:
        """Codes (1, n), or (1, n, levels) -> entries (1, n, d)."""
        if hasattr(self.codes, "indices_to_codes"):
            return self.codes.indices_to_codes(codes)
        return self.codes.get_output_from_indices(codes)


def _package() -> ModuleType:
    try:
        import vector_quantize_pytorch
    except ImportError as error:
        raise ImportError(
            "this quantizer needs a package: pip install 'taming-transformers[quantizers]' (vector-quantize-pytorch)"
        ) from error
    return vector_quantize_pytorch
