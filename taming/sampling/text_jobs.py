"""Images by text: samples of each prompt in a folder of its own.

A sample depends on the seed, its prompt and its index only, not on the other prompts.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice, product
from pathlib import Path

import torch
from torch import Tensor

from taming.files import atomic_path
from taming.images import to_uint8
from taming.models.cond_transformer import Net2NetTransformer
from taming.modules.misc.captions import CaptionStage
from taming.sampling.decode import Decoder, Guidance, Key, sample_uniforms
from taming.sampling.file_jobs import FileJob, continued, start
from taming.sampling.manifest import environment
from taming.sampling.options import SamplingOptions
from taming.sampling.plan import folder_name
from taming.sampling.samples import check_guidance, check_second_stage, latent_shape
from taming.sampling.writers import output
from taming.vocabulary import normalized, text_bytes

logger = logging.getLogger(__name__)

PROMPT_FILE = "prompt.txt"
SLUG = 40
"""Characters of a prompt in the name of its folder."""


@dataclass(frozen=True)
class TextJob(FileJob):
    """A job, made by `plan_text_job`: prompts, their tokens int64 (p, l), and the latent (d, h, w) of a sample."""

    prompts: tuple[str, ...]
    conditions: Tensor
    shape: tuple[int, int, int]

    def describe(self) -> str:
        """One line: how many samples of what, how many are there, and the seed."""
        return f"{len(self.prompts)} prompts x {self.options.num_samples} samples{self.progress}"

    def key(self, place: int) -> tuple[int, int]:
        """Number of the prompt, and the sample's index."""
        return divmod(place, self.options.num_samples)


def plan_text_job(
    model: Net2NetTransformer,
    root: str | Path,
    prompts: Sequence[str],
    options: SamplingOptions,
    *,
    global_step: int = 0,
    run: str | None = None,
) -> TextJob:
    """The job of options.num_samples samples per prompt below `root`; writes nothing yet.

    Files are <root>/text/<folder_name(options)>/<global_step>/<prompt>/<index>.png. Raises ValueError for a model that
    is not conditioned on captions, prompts without a word, options that do not fit, and for others than those of the
    samples that stay in the folder.
    """
    _check(model, options)
    prompts = _distinct(prompts)
    shape = latent_shape(model)
    names = [f"{prompt_name(p)}/{index:06}" for p, index in product(prompts, range(options.num_samples))]
    manifest = {
        "run": run,
        "global_step": global_step,
        **dict(zip(("dim_z", "z_height", "z_width"), shape, strict=True)),
        **_recorded(options),
        **environment(model),
    }
    folder = Path(root) / "text" / folder_name(options) / str(global_step)
    finished, manifest = continued(folder, names, manifest, options)
    facts = {"prompts": prompts, "conditions": conditions_of(model, prompts), "shape": shape}
    return TextJob(model, folder, tuple(names), options, finished, manifest, **facts)


def conditions_of(model: Net2NetTransformer, prompts: Sequence[str]) -> Tensor:
    """The conditioning tokens int64 (p, l) of prompts. Says which are too long to be read to their end."""
    stage = model.cond_stage_model
    for prompt in prompts:
        if (length := stage.n_tokens(prompt)) > stage.length:
            logger.warning("%r has %d tokens, of which the model reads the first %d", prompt, length, stage.length)
    return model.encode_to_c(torch.from_numpy(text_bytes(prompts)).to(model.device))[1]


def prompt_name(prompt: str) -> str:
    """What the folder of a prompt is called: its beginning, and a hash of all of it."""
    slug = re.sub(r"[^a-z0-9]+", "_", normalized(prompt))[:SLUG].strip("_")
    return f"{slug}_{_hash(prompt)[:8]}".lstrip("_")


def prompt_key(prompt: str) -> int:
    """What the random numbers of a prompt's samples follow."""
    return int(_hash(prompt)[:15], 16)


def _hash(prompt: str) -> str:
    return sha256(normalized(prompt).encode()).hexdigest()


def _check(model: Net2NetTransformer, options: SamplingOptions) -> None:
    check_second_stage(model)
    if not isinstance(model.cond_stage_model, CaptionStage):
        raise ValueError(
            f"this model is conditioned on {model.cond_stage_key!r}, not on captions: train one with "
            "configs/coco_captions_transformer.yaml, or sample this one with scripts/make_samples.py or sample_fast.py"
        )
    if len(options.top_ks) > 1:
        raise ValueError(f"top_k: one number of tokens is expected, not {options.top_k}")
    check_guidance(options.guidance_scale, model)


def _distinct(prompts: Sequence[str]) -> tuple[str, ...]:
    """The prompts that do not say the same."""
    for number, prompt in enumerate(prompts, start=1):
        if not normalized(prompt):
            raise ValueError(f"prompt {number} of {len(prompts)} is empty: say what to draw")
    if not prompts:
        raise ValueError("no prompt: say what to draw")
    return tuple({normalized(prompt): prompt for prompt in prompts}.values())


def _recorded(options: SamplingOptions) -> dict[str, object]:
    """Entries of the manifest."""
    numbers = {name: float(getattr(options, name)) for name in ("temperature", "top_p", "guidance_scale")}
    as_given = ("seed", "num_samples", "precision", "compile")
    return {**numbers, "top_k": options.top_ks[0], **{name: getattr(options, name) for name in as_given}}


def run_text_job(job: TextJob, *, progress: bool = True) -> Path:
    """Sample what this process is to make, in batches that may mix prompts, and write it; returns the job's folder."""
    job = start(job)
    for number, prompt in enumerate(job.prompts):
        with atomic_path(job.file(number * job.options.num_samples).with_name(PROMPT_FILE)) as temporary:
            temporary.write_text(f"{prompt}\n", encoding="utf-8", errors="replace")
    remaining = job.remaining()
    places, decoder = iter(remaining), Decoder(job.model.transformer, compile=job.options.compile)
    with output(job.folder, len(remaining), progress=progress) as (write, bar):
        while batch := list(islice(places, job.options.batch_size)):
            for place, image in zip(batch, to_uint8(_sample(job, batch, decoder)), strict=True):
                write(job.file(place), image)
            bar.update(len(batch))
    return job.folder


@torch.no_grad()
def _sample(job: TextJob, places: Sequence[int], decoder: Decoder) -> Tensor:
    """Images (b, 3, h, w) around [-1, 1]."""
    model, options, (d, h, w) = job.model, job.options, job.shape
    numbers, indices = zip(*map(job.key, places), strict=True)
    prefix = job.conditions[list(numbers)]
    scale, quantizer = options.guidance_scale, model.first_stage_model.quantize
    steps = h * w * quantizer.tokens_per_position
    keys: list[Key] = [(prompt_key(job.prompts[n]), index) for n, index in zip(numbers, indices, strict=True)]
    tokens = decoder(
        prefix,
        steps,
        uniforms=sample_uniforms(job.manifest["seed"], keys, steps),
        guidance=None if scale == 1 else Guidance(model.null_condition(prefix), scale),
        n_tokens=quantizer.re_embed,
        temperature=options.temperature,
        top_k=options.top_ks[0],
        top_p=options.top_p,
    )
    return model.decode_to_img(tokens, (len(places), d, h, w))
