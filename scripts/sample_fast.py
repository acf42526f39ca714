"""Samples of an unconditional or class-conditional transformer, as PNG files.

    python scripts/sample_fast.py -r logs/<run> -n 50 -k 600 -p 0.92 --classes 3,5-9

writes <run>/samples/top_k_600_temp_1.00_top_p_0.92/<global step>/<class>/000000.png and so on. The same command goes on
where an earlier one stopped, with its seed. Config overrides `section.key=value` may be added.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, autocast, run_command, select_device, split_dotlist  # noqa: E402
from taming.runs import load_model, resolve_run  # noqa: E402
from taming.sampling.jobs import SamplingJob, latent_shape, plan_job, run_job  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Sample an unconditional or class-conditional transformer to PNG files.",
        epilog="Config overrides such as model.params.sos_token=0 may be added.",
    )
    add = parser.add_argument
    add("-r", "--resume", required=True, metavar="RUN", help="run folder, or checkpoint file in one")
    add("-o", "--outdir", default="", help="folder that gets samples/, instead of the run folder")
    add("-b", "--base", nargs="*", default=[], metavar="YAML", help="more configs, after those of the run")
    add(
        "-n",
        "--num_samples",
        type=int,
        default=50000,
        help="per class, or in all if unconditional (default: %(default)s)",
    )
    add(
        "--batch_size",
        type=int,
        default=25,
        help="samples computed together; has no influence on them (default: %(default)s)",
    )
    add(
        "-k",
        "--top_k",
        type=int,
        default=250,
        help="draw from the k most likely tokens; 0 is off (default: %(default)s)",
    )
    add("-t", "--temperature", type=float, default=1.0, help="divides the logits (default: %(default)s)")
    add(
        "-p",
        "--top_p",
        type=float,
        default=1.0,
        help="draw from the nucleus of this probability; 1.0 is off (the default)",
    )
    add("--classes", default="imagenet", help="labels and ranges such as 3,5-9; imagenet or all are all (the default)")
    add("--steps", type=int, help="number of tokens, must be z_height x z_width")
    add("--z_height", type=int, help="rows of the latent grid (default: the first stage's)")
    add("--z_width", type=int, help="columns of the latent grid (default: the first stage's)")
    add("--dim_z", type=int, help="dimension of codebook entries (default: the first stage's)")
    add("--seed", type=int, help="the random numbers (default: those of the folder's sampling.json, or new ones)")
    add("--overwrite", action="store_true", help="sample again what has a file already")
    add_device_options(parser)
    return parser


def plan(options: argparse.Namespace, overrides: Sequence[str]) -> SamplingJob:
    run = resolve_run(options.resume)
    device = select_device(options.device)
    loaded = load_model(run, bases=options.base, overrides=overrides, device=device)
    if options.outdir:
        print(f"samples go to {options.outdir} instead of {run.logdir}")
    sizes = {name: getattr(options, name) for name in ("steps", "z_height", "z_width", "dim_z")}
    choices = ("num_samples", "classes", "seed", "temperature", "top_k", "top_p", "overwrite", "precision")
    return plan_job(
        loaded.model,
        options.outdir or run.logdir,
        shape=latent_shape(loaded.model, **sizes),
        global_step=loaded.global_step,
        run=run.logdir.resolve().name,
        **{name: getattr(options, name) for name in choices},
    )


def describe(job: SamplingJob) -> str:
    if job.model.be_unconditional:
        mode = f"unconditional: {job.num_samples} samples"
    else:
        mode = f"class-conditional: {len(job.classes)} classes x {job.num_samples} samples"
    total = len(job.classes) * job.num_samples
    done = f", {total - job.n_remaining} of them finished" if job.n_remaining < total else ""
    return f"{mode}, {total} in all{done}; seed {job.manifest['seed']}\nsamples go to {job.folder}"


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_dotlist(get_parser(), argv)
    job = plan(options, overrides)
    print(describe(job), flush=True)
    start, n_images = time.monotonic(), job.n_remaining
    with autocast(job.model.device, options.precision):
        run_job(job, batch_size=options.batch_size)
    print(f"{n_images} images in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    sys.exit(run_command(main))
