"""Images of any size from label maps, depth maps and other spatial conditioning, window by window."""

import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.api.inputs import MapSource, colour_labels, read_condition, read_picture
from taming.cli import select_device
from taming.images import save_png, to_uint8
from taming.models.cond_transformer import Net2NetTransformer
from taming.models.first_stage import dtype_of
from taming.modules.util import Labelator
from taming.sampling.dataset_jobs import DatasetOptions
from taming.sampling.decode import sample_uniforms
from taming.sampling.encoding import EncodedBatch, check_windowed_model, encode_batch, has_pictures
from taming.sampling.window_engines import WindowStep
from taming.sampling.windowed import sample_windowed
from taming.video import video_writer

logger = logging.getLogger(__name__)

TIME_FORMAT = "%Y-%m-%dT%H-%M-%S"
Frame = Callable[[np.ndarray], None]
"""Appends a frame, uint8 (h, w, 3)."""
Show = Callable[[str, Tensor], Tensor]
"""Decodes a grid of tokens (1, h, w), writes the picture to <name>_<what>.png and returns it, (1, 3, H, W)."""


class ConditionalSampler:
    """Samples a transformer given label maps, depth maps, coordinates or other images, and writes pictures of it all.

    temperature, top_k, top_p (None is off) and sample=False (the most likely tokens) choose tokens; kernel_size is the
    side of the window in tokens, None the largest that the model can read (`kernal_size` is the same). scale_factor
    scales the conditioning, and an image, bicubically; image_size is the square that depth maps are cut to. A seed
    makes calls repeatable, None draws a new one for each. root: folder of the files, by default called after the
    conditioning. update_every: steps between two pictures of the progress (0: only the last); animate: these as a
    video of `fps` pictures per second. segmentation_save: label maps are shown in fixed colours instead of the model's.

    Raises ValueError for options out of range and for a model that is not conditioned on something spatial.

    >>> import taming, torch
    >>> small = {"ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "resolution": 16}
    >>> model = taming.drin_transformer(
    ...     transformer_config={"params": {"n_layer": 1, "n_embd": 32, "block_size": 31}},
    ...     first_stage_config={"params": {"ddconfig": small}},
    ...     cond_stage_config={"params": {"ddconfig": small}},
    ... )
    >>> sampler = taming.ConditionalSampler(model, kernel_size=4, update_every=40, seed=1, root="samples", device="cpu")
    >>> sampler(torch.linspace(-1, 1, 12 * 16).view(12, 16), name="ramp").shape
    torch.Size([1, 3, 12, 16])
    >>> import os
    >>> sorted(os.listdir("samples"))
    ['ramp_depth.png', 'ramp_first_sample.png', 'ramp_sample_0.png', 'ramp_sample_40.png', 'ramp_sample_47.png']
    """

    def __init__(
        self,
        model: Net2NetTransformer,
        temperature: float = 1.0,
        top_k: int | None = 100,
        update_every: int | None = 50,
        scale_factor: float = 1.0,
        image_size: int = 256,
        animate: bool = False,
        root: str | os.PathLike | None = None,
        seed: int | None = None,
        kernel_size: int | None = 16,
        fps: float = 15,
        segmentation_save: bool = True,
        top_p: float | None = None,
        sample: bool = True,
        device: str | torch.device = "auto",
        *,
        kernal_size: int | None = None,
    ) -> None:
        check_windowed_model(model)
        if model.be_unconditional or isinstance(model.cond_stage_model, Labelator):
            raise ValueError("this model has no spatial conditioning: sample it with taming.FastSampler")
        window = kernel_size if kernal_size is None else kernal_size
        block_size = model.transformer.block_size
        if window is not None and window**2 > block_size:  # beside at least one token of conditioning
            raise ValueError(f"kernel_size={window}: {window**2} tokens do not fit into the block_size {block_size}")
        self.options = DatasetOptions(
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=1.0 if top_p is None else top_p,
            window=window,
            greedy=not sample,
            scale_factor=scale_factor,
        )
        self.model = model.to(select_device(str(device))).eval()
        self.image_size, self.update_every = image_size, update_every or 0
        self.animate, self.fps, self.segmentation_save = animate, fps, segmentation_save
        self.root = Path(model.cond_stage_key if root is None else root)

    @torch.no_grad()
    def __call__(self, c: MapSource, x: MapSource | None = None, name: str | None = None, *, index: int = 0) -> Tensor:
        """The image (1, 3, H, W) in [-1, 1], sampled given the conditioning `c`.

        c and x are paths or tensors, see `taming.api.inputs.read_condition`. An image `x` is reconstructed as well, and
        its size is that of the result; without it the conditioning's is. Files in `root` begin with `name`, by default
        the time. `index` tells samples of one seed apart: it is the number of the example for scripts/make_samples.py.

        Raises OSError for files that cannot be read, ValueError for those that do not fit the model or each other.
        """
        name = check_name(name)
        seed = secrets.randbits(32) if self.options.seed is None else self.options.seed
        conditioning = read_condition(self.model, c, size=self.image_size)
        batch = self._encoded(conditioning, x)
        shape = tuple(batch.tokens.shape[1:])
        uniforms = sample_uniforms(seed, [(None, index)], shape[0] * shape[1]).view(1, *shape)
        start = (uniforms * self.model.first_stage_model.quantize.re_embed).long()  # a picture to start from, no more
        self.root.mkdir(parents=True, exist_ok=True)
        self._save_given(batch, conditioning, name, reconstruct=x is not None)
        logger.info("sampling %d x %d tokens, seed %d, to %s", *shape, seed, self.root / name)
        with self._video(name) as add_frame:
            show = self._shower(name, batch.zshape, add_frame)
            show("first_sample", start)
            grid = sample_windowed(
                self.model,
                batch.condition,
                shape,
                z_init=start,
                window=self.options.window,
                temperature=self.options.temperature,
                top_k=self.options.top_ks[0],
                top_p=self.options.top_p,
                sample=not self.options.greedy,
                uniforms=uniforms,
                callback=self._watcher(show) if self.update_every > 0 else None,
            )
            return show(f"sample_{grid.numel() - 1}", grid)

    sample_segmentation = sample_depth = __call__

    def _encoded(self, conditioning: Tensor, x: MapSource | None) -> EncodedBatch:
        """Without an image a grey one of the conditioning's size takes its place: only its grid is of interest."""
        model = self.model
        if x is None:
            image = torch.zeros(1, model.first_stage_model.encoder.in_channels, *conditioning.shape[2:])
        else:
            image = read_picture(model, x, size=self.image_size)
        image = image.to(dtype_of(model.first_stage_model))
        conditioning = conditioning.to(dtype_of(model.cond_stage_model))
        batch = {model.first_stage_key: image.movedim(1, -1), model.cond_stage_key: conditioning.movedim(1, -1)}
        pictures = has_pictures(model) and not self._in_fixed_colours
        return encode_batch(model, batch, scale_factor=self.options.scale_factor, pictures=pictures)

    @property
    def _in_fixed_colours(self) -> bool:
        return self.segmentation_save and self.model.cond_stage_key == "segmentation"

    def _save_given(self, batch: EncodedBatch, conditioning: Tensor, name: str, *, reconstruct: bool) -> None:
        kind = self.model.cond_stage_key
        if self._in_fixed_colours:
            labels = conditioning[0].argmax(dim=0).cpu().numpy()
            height, width = batch.images.shape[2:]
            colours = Image.fromarray(colour_labels(labels, conditioning.shape[1]))
            self._save(f"{name}_{kind}", np.asarray(colours.resize((width, height), Image.Resampling.NEAREST)))
        elif batch.pictures is not None:
            self._save(f"{name}_{kind}", to_uint8(batch.pictures[0]))
        if reconstruct:
            reconstruction = self.model.decode_to_img(batch.tokens, batch.zshape)
            self._save(f"{name}_reconstruction", to_uint8(reconstruction[0]))

    def _save(self, stem: str, picture: np.ndarray) -> None:
        save_png(self.root / f"{stem}.png", picture)

    def _video(self, name: str) -> AbstractContextManager[Frame]:
        """The context of the video, whose value appends a frame; of nothing without animation."""
        if not self.animate:
            return nullcontext(lambda frame: None)
        return video_writer(self.root / f"{name}_sampling.mp4", fps=self.fps)

    def _shower(self, name: str, zshape: tuple[int, int, int, int], add_frame: Frame) -> Show:
        def show(what: str, grid: Tensor) -> Tensor:
            image = self.model.decode_to_img(grid.to(self.model.device), zshape).clamp(-1, 1)
            picture = to_uint8(image[0])
            self._save(f"{name}_{what}", picture)
            add_frame(picture)
            return image

        return show

    def _watcher(self, show: Show) -> Callable[[WindowStep], None]:
        """What shows every so many steps; the last one is shown anyway. Cells may come in another order than rows."""

        def watch(step: WindowStep) -> None:
            number = step.n_done - 1
            if number % self.update_every == 0 and step.n_done < step.n_total:
                show(f"sample_{number}", step.grid)

        return watch


def check_name(name: str | None) -> str:
    """The beginning of files' names, by default the time. Raises ValueError for one that would lead elsewhere."""
    name = time.strftime(TIME_FORMAT) if name is None else name
    if not name or Path(name).name != name:
        raise ValueError(f"name={name!r} begins the names of files: it cannot be empty or name a folder")
    return name
