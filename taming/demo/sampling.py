"""A sample of a prepared example: what of the image is kept, the library's sampler, and how far it is.

(h, w) latent grid.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from taming.demo.examples import Prepared
from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.dataset_jobs import DatasetOptions
from taming.sampling.decode import sample_uniforms
from taming.sampling.window_engines import WindowStep
from taming.sampling.windowed import sample_windowed

Shape = tuple[int, int]


@dataclass(frozen=True)
class Rectangle:
    """A part of an image by its edges, percentages of height and width. Raises ValueError if it is empty."""

    top: int
    left: int
    bottom: int
    right: int

    def __post_init__(self) -> None:
        if not (0 <= self.top < self.bottom <= 100 and 0 <= self.left < self.right <= 100):
            raise ValueError(
                f"the rectangle is empty: top {self.top} % must be less than bottom {self.bottom} %, "
                f"left {self.left} % less than right {self.right} %"
            )

    def cells(self, shape: Shape) -> Tensor:
        """Which cells have their centre in it, bool (h, w)."""
        rows, columns = (100 * (torch.arange(length) + 0.5) / length for length in shape)
        in_rows = (self.top <= rows) & (rows < self.bottom)
        return in_rows[:, None] & (self.left <= columns) & (columns < self.right)


def first_half(shape: Shape) -> Tensor:
    """The first half of the cells in raster order, bool (h, w)."""
    n_cells = shape[0] * shape[1]
    return (torch.arange(n_cells) < n_cells // 2).view(shape)


@dataclass(frozen=True)
class Start:
    """The grid int64 (1, h, w) that sampling begins with, and which of its cells stay: bool (h, w), None for no cell.

    Both are in the permuter's order. from_condition: the tokens are the conditioning's, to look at only.
    """

    grid: Tensor
    kept: Tensor | None
    from_condition: bool


def start_of(model: Net2NetTransformer, prepared: Prepared, kept: Tensor | None) -> Start:
    """Where sampling begins: with the image's own tokens in the cells `kept`, bool (h, w), else zeros.

    If nothing is to be kept, the tokens of the conditioning stand in the grid, if that is of the same shape.
    """
    tokens, condition = prepared.encoded.tokens, prepared.encoded.condition
    if kept is not None:
        kept = model.permuter(kept.reshape(1, -1).to(tokens.device)).view(kept.shape)
        return Start(torch.where(kept, tokens, 0), kept, from_condition=False)
    if condition.shape != tokens.shape:
        return Start(torch.zeros_like(tokens), None, from_condition=False)
    n_codes = model.first_stage_model.quantize.re_embed
    return Start(condition.clamp(max=n_codes - 1), None, from_condition=True)


def drawn_seed(seed: int) -> int:
    """The seed, or a random one for a negative number."""
    return secrets.randbits(32) if seed < 0 else seed


def sample(
    model: Net2NetTransformer,
    prepared: Prepared,
    start: Start,
    options: DatasetOptions,
    callback: Callable[[WindowStep], None],
) -> Tensor:
    """The grid int64 (1, h, w), the same as the commands make of this example with this seed.

    Raises ValueError for what does not fit the model, and for logits that allow no token.
    """
    shape = tuple(start.grid.shape[1:])
    uniforms = sample_uniforms(options.seed, [prepared.key], shape[0] * shape[1]).view(1, *shape)
    return sample_windowed(
        model,
        shape=shape,
        **prepared.conditioning(options.seed),
        z_init=start.grid,
        mask=start.kept,
        temperature=options.temperature,
        top_k=options.top_ks[0],
        top_p=options.top_p,
        sample=not options.greedy,
        uniforms=uniforms,
        callback=callback,
    )


class Progress:
    """How long sampling has taken and may still take, by a clock in seconds; and when it is time to say so again."""

    def __init__(self, *, every: float = 0.1, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._every = clock, every
        self._begin, self._last = clock(), float("-inf")

    @property
    def seconds(self) -> float:
        return self._clock() - self._begin

    def is_due(self) -> bool:
        """Whether `every` seconds have passed since this was last true."""
        now = self._clock()
        if now - self._last < self._every:
            return False
        self._last = now
        return True

    def text(self, n_done: int, n_total: int) -> str:
        """ "120 of 256 tokens, 12 s left"."""
        left = self.seconds / n_done * (n_total - n_done)
        return f"{n_done} of {n_total} tokens, {_duration(left)} left"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def step_text(step: WindowStep) -> str:
    """The place of a cell, in its window, and the window."""
    r0, r1, c0, c1 = step.crop
    cell, local = (f"({place[0]},{place[1]})" for place in (step.cell, step.local))
    return f"Step: {cell} | Local: {local} | Crop: ({r0}:{r1},{c0}:{c1})"
