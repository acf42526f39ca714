"""Many samples of unconditional and class-conditional transformers."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from taming.api.conditional import check_name
from taming.cli import select_device
from taming.images import to_uint8
from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.classes import class_labels as labels_of
from taming.sampling.decode import Key
from taming.sampling.manifest import agree, environment, settle
from taming.sampling.options import SamplingOptions, TopK
from taming.sampling.plan import class_folder
from taming.sampling.samples import check_second_stage, latent_shape, sample_batches
from taming.sampling.writers import output, remove_leftovers
from taming.shards import WHOLE


class FastSampler:
    """Samples a transformer that is given nothing or a class, to PNG files: those of scripts/sample_fast.py.

    num_samples are made of each of `class_labels` (None: of all classes of the model), or in all if it is
    unconditional. steps must be the number of tokens of an image (None: whatever it is); update_every is accepted and
    does nothing. root: folder of the files, by default "image". A sample depends on the seed, its class and its index
    only; seed=None draws a seed, or takes that of earlier files of the same name.

    Raises ValueError for options out of range, and for a model with other conditioning.

    >>> import taming
    >>> small = {"ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "resolution": 8}
    >>> model = taming.ffhq_transformer(
    ...     transformer_config={"params": {"n_layer": 1, "n_embd": 32, "block_size": 16}},
    ...     first_stage_config={"params": {"ddconfig": small}},
    ... )
    >>> sampler = taming.FastSampler(model, num_samples=2, steps=16, seed=1, root="faces", device="cpu", progress=False)
    >>> [path.name for path in sampler(dim_z=256, h=4, w=4, name="face")]
    ['face_000000.png', 'face_000001.png']
    """

    def __init__(
        self,
        model: Net2NetTransformer,
        batch_size: int = 25,
        temperature: float = 1.0,
        top_k: TopK = 250,
        top_p: float | None = 1.0,
        num_samples: int = 50000,
        class_labels: str | Sequence[int] | None = None,
        steps: int | None = 256,
        update_every: int = 50,
        root: str | os.PathLike | None = None,
        seed: int | None = None,
        device: str | torch.device = "auto",
        *,
        progress: bool = True,
    ) -> None:
        check_second_stage(model)
        self.labels = labels_of(model, class_labels)
        self.options = SamplingOptions(
            num_samples=num_samples,
            batch_size=batch_size,
            temperature=temperature,
            top_k=top_k,
            top_p=1.0 if top_p is None else top_p,
            seed=seed,
        )
        self.model = model.to(select_device(str(device))).eval()
        self.steps, self.progress = steps, progress
        self.folder = Path("image" if root is None else root) / (
            "unconditional" if model.be_unconditional else "class_label"
        )

    def __call__(
        self, dim_z: int | None = 256, h: int | None = 16, w: int | None = 16, name: str | None = None
    ) -> list[Path]:
        """Make the files that are missing; the paths of all, class by class.

        They are <root>/unconditional/<name>_<index>.png or <root>/class_label/<label>/<name>_<index>.png, `name` being
        by default the time. (dim_z, h, w) is the latent of the first stage, where None is the model's own.

        Raises ValueError for a latent that is not the model's or does not fill `steps` tokens, and if earlier files of
        that name were made with other options.
        """
        shape = latent_shape(self.model, steps=self.steps, z_height=h, z_width=w, dim_z=dim_z)
        name = check_name(name)
        files = {
            (label, index): class_folder(self.folder, label) / f"{name}_{index:06}.png"
            for label in self.labels
            for index in range(self.options.num_samples)
        }
        missing = [key for key, file in files.items() if not file.is_file()]
        self._sample(missing, files, self._settled_seed(name, shape), shape)
        return list(files.values())

    def _settled_seed(self, name: str, shape: tuple[int, int, int]) -> int:
        """The seed that goes with earlier files of this name; what they are all made with is noted beside them."""
        options, path = self.options, self.folder / f"{name}_sampling.json"
        has_samples = any(self.folder.rglob(f"{glob.escape(name)}_{'[0-9]' * 6}.png"))
        manifest = {
            "classes": None if self.model.be_unconditional else list(self.labels),
            **dict(zip(("dim_z", "z_height", "z_width"), shape, strict=True)),
            "seed": options.seed,
            "num_samples": options.num_samples,
            "temperature": float(options.temperature),
            "top_k": list(options.top_ks),
            "top_p": float(options.top_p),
            **environment(self.model),
        }
        manifest = settle(path, manifest, WHOLE, redo=not has_samples, has_samples=has_samples)
        for label in self.labels:
            class_folder(self.folder, label).mkdir(parents=True, exist_ok=True)
        return agree(path, manifest, WHOLE)["seed"]

    def _sample(self, missing: Sequence[Key], files: dict[Key, Path], seed: int, shape: tuple[int, int, int]) -> None:
        options = self.options
        remove_leftovers(self.folder, files.values())
        draw = {"batch_size": options.batch_size, "top_ks": options.top_ks}
        filters = {"temperature": options.temperature, "top_p": options.top_p}
        with output(self.folder, len(missing), progress=self.progress) as (write, bar):
            for keys, images, _ in sample_batches(
                self.model, lambda: iter(missing), seed=seed, shape=shape, **draw, **filters
            ):
                for key, image in zip(keys, to_uint8(images), strict=True):
                    write(files[key], image)
                bar.update(len(keys))
