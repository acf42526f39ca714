"""Samples of an unconditional or class-conditional transformer, as PNG files.

    python scripts/sample_fast.py -r logs/<run> -n 50 -k 600 -p 0.92 --classes 3,5-9

writes <run>/samples/top_k_600_temp_1.00_top_p_0.92/<global step>/<class>/000000.png and so on. The same command goes on
where an earlier one stopped, with its seed. Several processes share the work, and the files are those of one:

    torchrun --nproc_per_node 4 scripts/sample_fast.py -r logs/<run> ...

Config overrides `section.key=value` may be added.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, run_command, split_dotlist  # noqa: E402
from taming.runs import build_model, load_run_config, resolve_run  # noqa: E402
from taming.sampling.classes import check_classes  # noqa: E402
from taming.sampling.commands import add_weights_option, carry_out, run_name  # noqa: E402
from taming.sampling.jobs import check_npz, run_job, save_npz  # noqa: E402
from taming.sampling.options import SamplingOptions, add_filter_options, add_job_options  # noqa: E402
from taming.sampling.plan import SamplingJob, plan_job  # noqa: E402
from taming.sampling.samples import latent_shape  # noqa: E402
from taming.sampling.scores import RESNET101, load_score  # noqa: E402
from taming.shards import find_shard, own_device  # noqa: E402

CHOICES = ("num_samples", "batch_size", "top_k", "temperature", "top_p", "seed", "overwrite", "precision",
           "guidance_scale", "acceptance_rate", "compile")  # fmt: skip
SIZES = ("steps", "z_height", "z_width", "dim_z")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Sample an unconditional or class-conditional transformer to PNG files.",
        epilog="Config overrides such as model.params.sos_token=0 may be added.",
    )
    add = parser.add_argument
    add("-r", "--resume", required=True, metavar="RUN", help="run folder, or checkpoint file in one")
    add("-o", "--outdir", default="", help="folder that gets samples/, instead of the run folder")
    add("-b", "--base", nargs="*", default=[], metavar="YAML", help="more configs, after those of the run")
    add_weights_option(parser)
    text = "per class, or in all if unconditional"
    add("-n", "--num_samples", type=int, default=50000, help=f"{text} (default: %(default)s)")
    add_filter_options(parser, top_k=250, fast=True)
    add("--classes", default="imagenet", help="labels and ranges such as 3,5-9; imagenet or all are all (the default)")
    add("--steps", type=int, help="number of tokens, must be z_height x z_width")
    add("--z_height", type=int, help="rows of the latent grid (default: the first stage's)")
    add("--z_width", type=int, help="columns of the latent grid (default: the first stage's)")
    add("--dim_z", type=int, help="dimension of codebook entries (default: the first stage's)")
    text = "classifier-free guidance, for models trained with cond_drop_prob"
    add("--guidance_scale", type=float, default=1.0, help=f"{text} (default: 1.0, off)")
    text = "keep this share of the candidates, those of the highest scores"
    add("--acceptance_rate", type=float, default=1.0, help=f"{text} (default: 1.0, all)")
    text = "what scores them, or the dotted name of a function (images, labels) -> scores"
    add("--classifier", default=RESNET101, help=f"{text} (default: %(default)s)")
    add("--npz", type=Path, metavar="FILE", help="gather the images in this .npz as well, for FID tools")
    add("--compile", action="store_true", help="pass the decoding step through torch.compile")
    add_job_options(parser, batch_size=25)
    add_device_options(parser)
    return parser


def plan(options: argparse.Namespace, overrides: Sequence[str]) -> SamplingJob:
    """What is wrong with the options is found before the model is loaded, as far as possible."""
    shard = find_shard(options.shard)
    choices = SamplingOptions(shard=shard, **{name: getattr(options, name) for name in CHOICES})
    if options.npz:
        check_npz(options.npz)
    run, device = resolve_run(options.resume), own_device(options.device)
    config = load_run_config(run, bases=options.base, overrides=overrides)
    check_classes(config, options.classes)
    loaded = build_model(config, run.checkpoint, device=device, trained_weights=options.trained_weights)
    if options.outdir and shard.index == 0:
        print(f"samples go to {options.outdir} instead of {run.logdir}")
    return plan_job(
        loaded.model,
        options.outdir or run.logdir,
        choices,
        classes=options.classes,
        shape=latent_shape(loaded.model, **{name: getattr(options, name) for name in SIZES}),
        global_step=loaded.global_step,
        run=run_name(run, options),
        score=load_score(options.classifier, loaded.model) if options.acceptance_rate < 1 else None,
    )


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_dotlist(get_parser(), argv)
    job = plan(options, overrides)
    carry_out(job, run_job, options, n_images=job.n_remaining)
    if options.npz and save_npz(job, options.npz):
        print(f"all images are in {options.npz}")


if __name__ == "__main__":
    sys.exit(run_command(main))
