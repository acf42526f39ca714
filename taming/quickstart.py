"""The whole job on a small scale: train a VQGAN, train its transformer, sample, measure, and make pictures.

Every part is the one that the commands use: `training.train` (main.py), ordinary configs, `sampling.jobs`
(sample_fast.py).
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning import LightningDataModule, seed_everything
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from taming import figures
from taming.cli import select_device
from taming.evaluation import measures
from taming.files import atomic_path
from taming.images import from_uint8, labelled_grid, save_png
from taming.models.cond_transformer import Net2NetTransformer
from taming.runs import LoadedModel, load_model, resolve_run
from taming.sampling.jobs import sample_to_folder
from taming.training import TrainingResult, train

logger = logging.getLogger(__name__)

EMBEDDED = ("digits", "photos")
MINUTES = {"digits": 5, "photos": 10, "folder": 10}
"""What the steps of the configs take for the whole job on two CPU cores."""
SAMPLES_PER_CLASS = 50
SHOWN = 8
COMPLETIONS = 4
TILE = 96
"""Pixels of an image in a picture, at least."""
LOSSES = {
    "vqgan": {"train/rec_loss_step": "train reconstruction", "val/rec_loss_epoch": "held-out reconstruction"},
    "transformer": {"train/loss_step": "train", "val/loss_epoch": "held-out"},
}


@dataclass(frozen=True)
class QuickStart:
    """One quick start: its options and where everything is."""

    data: str  # "digits", "photos" or the path of a folder of images
    outdir: Path
    configs: Path  # the folder that holds <data>_vqgan.yaml and <data>_transformer.yaml
    seed: int = 23
    minutes: float | None = None
    baseline: bool = False

    @property
    def is_embedded(self) -> bool:
        return self.data in EMBEDDED

    @property
    def recipe(self) -> str:
        return self.data if self.is_embedded else "folder"


def run(job: QuickStart) -> dict:
    """Run all of a quick start, or what is left of it; returns the metrics, which `metrics.json` holds as well."""
    vqgan = train_stage(job, "vqgan")
    baseline = train_stage(job, "published") if job.baseline else None
    checkpoint = override(
        "model.params.first_stage_config.params.ckpt_path", vqgan.logdir / "checkpoints" / "last.ckpt"
    )
    transformer = train_stage(job, "transformer", checkpoint, *class_overrides(vqgan))
    seed_everything(job.seed, workers=True)
    device = select_device("auto")
    data = transformer.datamodule
    loaded = load_model(resolve_run(transformer.logdir), device=device)
    model = loaded.model
    real = measures.encode(model.first_stage_model, data.val_dataloader())
    samples = sample_classes(job, loaded)
    metrics = measure(model, data, real, samples)
    if baseline is not None:
        metrics |= measure_baseline(baseline, data, device)
    draw(job, model, data, real, samples)
    with atomic_path(job.outdir / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def train_stage(job: QuickStart, stage: str, *overrides: str) -> TrainingResult:
    """Train one stage through main.py's code, or go on with the run that an earlier start left."""
    begun = sorted((job.outdir / "logs").glob(f"*_{stage}/checkpoints/*.ckpt"))
    if begun:
        run_folder = begun[-1].parent.parent
        logger.info("continuing %s", run_folder)
        return train(["--resume", str(run_folder), "--train", "True", "--seed", str(job.seed)])
    base = job.configs / f"{job.recipe}_{stage}.yaml"
    arguments = ["--base", str(base), "--train", "True", "--name", stage, "--logdir", str(job.outdir / "logs")]
    return train([*arguments, "--seed", str(job.seed), *budget(job, base), *data_overrides(job), *overrides])


def budget(job: QuickStart, base: Path) -> list[str]:
    """Overrides that fit the steps of a config to `minutes`, with time as the last word."""
    if job.minutes is None:
        return []
    steps = max(1, round(OmegaConf.load(base).lightning.trainer.max_steps * job.minutes / MINUTES[job.recipe]))
    seconds = max(1, round(0.42 * 60 * job.minutes))  # two stages, and the rest for samples and pictures
    return [
        f"lightning.trainer.max_steps={steps}",
        f"lightning.trainer.max_time={{seconds: {seconds}}}",
        f"model.params.scheduler_config.params.max_decay_steps={steps}",
    ]


def data_overrides(job: QuickStart) -> list[str]:
    if job.is_embedded:
        return []
    return [override(f"data.params.{split}.params.root", Path(job.data)) for split in ("train", "validation")]


def override(key: str, path: Path) -> str:
    """A config override that names a path, whatever characters it has and wherever the run is resumed from."""
    return f"{key}={json.dumps(str(path.resolve()))}"


def class_overrides(vqgan: TrainingResult) -> list[str]:
    """The conditioning of the transformer: the classes of the data, or none."""
    n_classes = vqgan.datamodule.datasets["train"].n_classes
    if n_classes == 1:
        return ["model.params.unconditional=true"]
    return [f"model.params.cond_stage_config.params.n_classes={n_classes}"]


def sample_classes(job: QuickStart, loaded: LoadedModel) -> dict[int | None, Tensor]:
    """Samples (n, 3, h, w) by class, None for an unconditional model, read back from the files of sample_fast."""
    model = loaded.model
    folder = sample_to_folder(
        model,
        job.outdir,
        num_samples=SAMPLES_PER_CLASS,
        seed=job.seed,
        batch_size=100,
        top_k=None,
        global_step=loaded.global_step,
    )
    if model.be_unconditional:
        return {None: read_images(folder)}
    return {label: read_images(folder / str(label)) for label in range(model.cond_stage_model.n_classes)}


def read_images(folder: Path) -> Tensor:
    """All PNGs of a folder in the order of their names, (n, 3, h, w) in [-1, 1]."""
    return from_uint8(np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]))


def measure(
    model: Net2NetTransformer, data: LightningDataModule, real: measures.Encoded, samples: Mapping[int | None, Tensor]
) -> dict:
    """What was learned, in numbers; see README for their meaning."""
    first_stage = model.first_stage_model
    metrics = {
        "psnr_db": measures.psnr(real.images, real.reconstructions).mean().item(),
        "codebook_usage": measures.codebook_usage(real.tokens, first_stage.quantize.n_e),
        "codebook_perplexity": measures.perplexity(real.tokens),
        "unigram_entropy": measures.entropy(real.tokens),
        "nll": measures.token_nll(model, data.val_dataloader()),
    }
    metrics["nll_over_unigram_entropy"] = metrics["nll"] / metrics["unigram_entropy"]
    if not model.be_unconditional:
        metrics["class_unigram_entropy"] = measures.class_entropy(real.tokens, real.labels)
        classifier = measures.train_classifier(data.datasets["train"], len(samples), device=model.device)
        labels = torch.tensor([label for label, images in samples.items() for _ in images])
        metrics["classifier_on_real"] = measures.accuracy(classifier, real.images, real.labels)
        metrics["classifier_on_samples"] = measures.accuracy(classifier, torch.cat(list(samples.values())), labels)
    return metrics


def measure_baseline(baseline: TrainingResult, data: LightningDataModule, device: torch.device) -> dict:
    """The published recipe on the same data and steps: codebook trained by its loss, no k-means, no revival."""
    model = load_model(resolve_run(baseline.logdir), device=device).model
    real = measures.encode(model, data.val_dataloader())
    return {
        "published_recipe_psnr_db": measures.psnr(real.images, real.reconstructions).mean().item(),
        "published_recipe_codebook_usage": measures.codebook_usage(real.tokens, model.quantize.n_e),
    }


def draw(
    job: QuickStart,
    model: Net2NetTransformer,
    data: LightningDataModule,
    real: measures.Encoded,
    samples: Mapping[int | None, Tensor],
) -> None:
    """The four pictures of a quick start."""
    names = data.datasets["train"].class_names
    rows = {"samples" if label is None else names[label]: images[:SHOWN] for label, images in samples.items()}
    save_png(job.outdir / "samples.png", labelled_grid(rows, min_tile=TILE))
    draw_reconstructions(job, real)
    draw_completions(job, model, data.datasets["validation"])
    draw_losses(job)


def draw_reconstructions(job: QuickStart, real: measures.Encoded) -> None:
    rows = {}
    for number, chosen in enumerate(evenly_spaced(len(real.images), 2 * SHOWN).split(SHOWN), start=1):
        rows[f"held-out ({number})"] = real.images[chosen]
        rows[f"reconstructed ({number})"] = real.reconstructions[chosen]
    save_png(job.outdir / "reconstructions.png", labelled_grid(rows, min_tile=TILE))


def draw_completions(job: QuickStart, model: Net2NetTransformer, dataset: Dataset) -> None:
    chosen = evenly_spaced(len(dataset), SHOWN)
    batch = default_collate([dataset[int(index)] for index in chosen])
    given, completions = measures.complete_halves(model, batch, count=COMPLETIONS, seed=job.seed)
    images = torch.cat((batch["image"].permute(0, 3, 1, 2)[None], given[None], completions))  # (2 + count, b, 3, h, w)
    labels = [f"{name} (no. {index})" for name, index in zip(batch["human_label"], chosen.tolist(), strict=True)]
    rows = dict(zip(labels, images.transpose(0, 1), strict=True))
    columns = ["original", "given", *["completed"] * COMPLETIONS]
    save_png(job.outdir / "completions.png", labelled_grid(rows, columns=columns, min_tile=TILE))


def evenly_spaced(length: int, count: int) -> Tensor:
    """At most `count` indices from all over a sequence, in order, each once."""
    return ((torch.arange(count) + 0.5) * length / count).long().unique()


def draw_losses(job: QuickStart) -> None:
    panels = {}
    for stage, tags in LOSSES.items():
        run_folder = sorted((job.outdir / "logs").glob(f"*_{stage}"))[-1]
        panels[stage] = {tags[tag]: curve for tag, curve in figures.read_curves(run_folder, list(tags)).items()}
    figures.save_loss_curves(job.outdir / "losses.png", panels)
