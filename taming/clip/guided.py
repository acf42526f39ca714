"""Pictures from prompts: the latents of a first stage are optimised until CLIP finds that the picture matches.

b = 1 picture, (d, h, w) latents, (H, W) picture.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from taming.cli import PRECISIONS, autocast
from taming.clip.cutouts import AUGMENTATIONS, Cutouts
from taming.clip.latents import Codebook, latents_to_optimize
from taming.clip.perceptor import Perceptor
from taming.clip.prompts import Prompt, parse_prompts, prompt_loss
from taming.data._io import read_rgb
from taming.images import from_uint8
from taming.models.first_stage import image_stage_of

OPTIMISERS = ("Adam", "AdamW", "Adagrad", "Adamax", "RAdam", "RMSprop")
PIXELS, GRADIENT = "pixels", "gradient"
NAME = "clip_guided"


@dataclass(frozen=True, kw_only=True)
class GuidedOptions:
    """What to match, where to begin and how to go on; see README and `scripts/clip_guided.py -h`.

    prompts and image_prompts have the syntax of `parse_prompts`; a change to the next phase comes every
    change_prompt_every steps. size is (width, height). Raises ValueError for values out of range.
    """

    prompts: str = ""
    image_prompts: str = ""
    noise_prompt_seeds: Sequence[int] = ()
    noise_prompt_weights: Sequence[float] = ()
    init_image: str | None = None
    init_noise: str | None = None
    init_weight: float = 0.0
    iterations: int = 500
    learning_rate: float = 0.1
    optimiser: str = "Adam"
    num_cuts: int = 32
    cut_power: float = 1.0
    augments: Sequence[str] = AUGMENTATIONS
    size: Sequence[int] = (512, 512)
    seed: int = 0
    change_prompt_every: int = 0
    precision: str = "32"

    def __post_init__(self) -> None:
        for name in ("iterations", "num_cuts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("learning_rate", "cut_power"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number, not {getattr(self, name)}")
        if not 0 <= self.init_weight < math.inf:
            raise ValueError(f"init_weight must be a number from 0 on, not {self.init_weight}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size: expected width and height in pixels, not {self.size}")
        choices = {"optimiser": OPTIMISERS, "init_noise": (None, PIXELS, GRADIENT), "precision": PRECISIONS}
        for name, valid in choices.items():
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} is {getattr(self, name)}, expected one of {', '.join(map(str, valid))}")
        for name in self.augments:
            if name not in AUGMENTATIONS:
                raise ValueError(f"augments: {name} is none of {', '.join(AUGMENTATIONS)}")
        if self.init_image is not None and self.init_noise is not None:
            raise ValueError("init_image and init_noise exclude each other, a picture begins with one of them")
        self._check_prompts()

    def _check_prompts(self) -> None:
        phases = max(len(parse_prompts(text)) for text in (self.prompts, self.image_prompts))
        if phases == 0 and not self.noise_prompt_seeds:
            raise ValueError("nothing to match: give prompts, image_prompts or noise_prompt_seeds")
        if self.change_prompt_every < 0 or (phases > 1 and self.change_prompt_every == 0):
            raise ValueError(
                f"change_prompt_every is {self.change_prompt_every}, but the prompts have {phases} phases separated "
                "by ^; say after how many steps the next one comes"
            )
        files = [prompt.content for phase in parse_prompts(self.image_prompts) for prompt in phase]
        for file in (*files, *filter(None, [self.init_image])):
            if not Path(file).is_file():
                raise FileNotFoundError(f"{file}: no such image file")
        if self.noise_prompt_weights and len(self.noise_prompt_weights) != len(self.noise_prompt_seeds):
            raise ValueError("noise_prompt_weights: give one for each of noise_prompt_seeds, or none at all")


@dataclass(frozen=True)
class Step:
    """The state after `iteration` steps, counted from 1; losses are those that the step made smaller."""

    iteration: int
    losses: dict[str, float]
    _render: Callable[[], Tensor]

    @property
    def loss(self) -> float:
        return sum(self.losses.values())

    def image(self) -> Tensor:
        """The picture (1, 3, H, W) around [-1, 1] of the latents as they are now."""
        return self._render()


@dataclass(frozen=True)
class Target:
    """Embeddings (m, d) to match, and what is said of them in the losses."""

    label: str
    embeddings: Tensor
    weight: float
    stop: float = -math.inf


class ClampWithGradient(torch.autograd.Function):
    """[0, 1], with the gradient of what is inside or would come back there."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (grad * (x - x.clamp(0, 1)) >= 0)


def optimize(
    model: nn.Module, perceptor: Perceptor, options: GuidedOptions, *, on_step: Callable[[Step], None] | None = None
) -> Tensor:
    """The picture (1, 3, H, W) around [-1, 1] that a first stage, or that of a transformer, makes of the prompts.

    H and W are rounded down to what the first stage can make. `on_step` is called after each step. The result depends
    on the options and, for its random numbers, on the device. Raises ValueError for a model of other things than
    colour images, a size below a single code, and a loss that is not finite.
    """
    stage = image_stage_of(model)
    if stage.encoder.in_channels != 3:
        raise ValueError(f"this first stage has images of {stage.encoder.in_channels} channel; CLIP sees colours")
    generator = torch.Generator(perceptor.device).manual_seed(options.seed)
    cutouts = Cutouts(perceptor.size, options.num_cuts, options.cut_power, options.augments)
    with _frozen(stage, perceptor.model):
        codebook = Codebook(stage)
        z = _start(stage, codebook, options, generator).requires_grad_()
        start = z.detach().clone()
        phases = _targets(perceptor, options, generator)
        optimizer = getattr(torch.optim, options.optimiser)([z], lr=options.learning_rate)

        def picture() -> Tensor:
            with autocast(z.device, options.precision):
                return stage.decode(codebook.snap(z)).float()

        for iteration in range(1, options.iterations + 1):
            crops = cutouts(ClampWithGradient.apply((picture() + 1) / 2), generator)
            targets = _phase(phases, iteration, options.change_prompt_every)
            losses = _prompt_losses(perceptor, crops, targets, options.precision)
            if options.init_weight:
                losses["start"] = options.init_weight * F.mse_loss(z, start) / 2
            _descend(optimizer, z, losses, iteration)
            codebook.clamp_(z)
            if on_step is not None:
                on_step(Step(iteration, {name: loss.item() for name, loss in losses.items()}, torch.no_grad()(picture)))
        with torch.no_grad():
            return picture()


def _prompt_losses(perceptor: Perceptor, crops: Tensor, targets: Sequence[Target], precision: str) -> dict[str, Tensor]:
    with autocast(crops.device, precision):
        embeddings = perceptor.embed_images(crops)
    return {target.label: prompt_loss(embeddings, target.embeddings, target.weight, target.stop) for target in targets}


def _descend(optimizer: torch.optim.Optimizer, z: Tensor, losses: dict[str, Tensor], iteration: int) -> None:
    loss = sum(losses.values())
    if not loss.isfinite():
        raise ValueError(f"step {iteration}: the loss is {loss.item()}; try --precision 32 or a smaller learning_rate")
    (z.grad,) = torch.autograd.grad(loss, z)
    optimizer.step()


def _phase(phases: Sequence[list[Target]], iteration: int, every: int) -> list[Target]:
    """The targets of a step, counted from 1; the last phase stays."""
    number = (iteration - 1) // every if every else 0
    return phases[min(number, len(phases) - 1)]


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    """No gradients are kept for parameters."""
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()


def _start(stage: nn.Module, codebook: Codebook, options: GuidedOptions, generator: torch.Generator) -> Tensor:
    """The first latents: those of an image, or random entries."""
    factor = stage.downsampling_factor
    columns, rows = (side // factor for side in options.size)
    if min(columns, rows) < 1:
        raise ValueError(f"size: {options.size} is below {factor} pixels, the side of a code of this first stage")
    width, height = columns * factor, rows * factor
    if options.init_image is not None:
        image = _read(options.init_image, (width, height))
    elif options.init_noise == PIXELS:
        image = 2 * torch.rand(1, 3, height, width, generator=generator, device=generator.device) - 1
    elif options.init_noise == GRADIENT:
        image = _gradient(height, width, generator)
    else:
        return codebook.random(rows, columns, generator)
    return latents_to_optimize(stage, image.to(codebook.device))


def _read(path: str, size: tuple[int, int]) -> Tensor:
    """An image file (1, 3, H, W) in [-1, 1], resized to `size` (W, H)."""
    image = Image.fromarray(read_rgb(path, NAME)).resize(size, Image.Resampling.LANCZOS)
    return from_uint8(np.array(image))[None]


def _gradient(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A smooth picture (1, 3, H, W) in [-1, 1]: the colours of the four corners, mixed in between."""
    corners = torch.rand(1, 3, 2, 2, generator=generator, device=generator.device)
    return 2 * F.interpolate(corners, size=(height, width), mode="bilinear", align_corners=True) - 1


def _targets(perceptor: Perceptor, options: GuidedOptions, generator: torch.Generator) -> list[list[Target]]:
    """What each phase of the story is to match; a kind of prompts that has fewer phases stays at its last."""
    texts, images = parse_prompts(options.prompts), parse_prompts(options.image_prompts)
    embed_image = partial(_embed_image, perceptor=perceptor, options=options, generator=generator)
    stories = [
        [[(prompt, perceptor.embed_texts([prompt.content])) for prompt in phase] for phase in texts],
        [[(prompt, embed_image(prompt.content)) for prompt in phase] for phase in images],
        [_noise_prompts(perceptor, options)],
    ]
    phases = []
    for number in range(max(map(len, stories))):
        current = [pair for story in stories if story for pair in story[min(number, len(story) - 1)]]
        phases.append(
            [
                Target(f"{place} {prompt.content}", embeddings, prompt.weight, prompt.stop)
                for place, (prompt, embeddings) in enumerate(current, start=1)
            ]
        )
    return phases


def _noise_prompts(perceptor: Perceptor, options: GuidedOptions) -> list[tuple[Prompt, Tensor]]:
    """Random unit vectors, which depend on their seed only."""
    weights = options.noise_prompt_weights or [1.0] * len(options.noise_prompt_seeds)
    pairs = []
    for seed, weight in zip(options.noise_prompt_seeds, weights, strict=True):
        dimension = perceptor.embed_texts([""]).shape[1]
        noise = torch.randn(1, dimension, generator=torch.Generator().manual_seed(seed))
        pairs.append((Prompt(f"noise {seed}", weight), F.normalize(noise, dim=-1).to(perceptor.device)))
    return pairs


@torch.no_grad()
def _embed_image(path: str, perceptor: Perceptor, options: GuidedOptions, generator: torch.Generator) -> Tensor:
    """Embeddings (m, d) of crops of an image file, shrunk to the size of the picture if it is larger."""
    image = Image.fromarray(read_rgb(path, NAME))
    image.thumbnail(tuple(options.size), Image.Resampling.LANCZOS)
    pixels = (from_uint8(np.array(image))[None].to(perceptor.device) + 1) / 2
    crops = Cutouts(perceptor.size, options.num_cuts, options.cut_power)(pixels, generator)
    return perceptor.embed_images(crops)
