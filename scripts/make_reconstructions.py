"""Reconstructions of a data set by a first stage, as PNG files.

    python scripts/make_reconstructions.py -r logs/<run of a VQGAN> --outdir reconstructions
    python scripts/make_reconstructions.py --dalle <folder of encoder.pkl, decoder.pkl> -b <config> --outdir dalle

writes <outdir>/{originals,reconstructions}/000000.png and so on, the numbers being those of the data set, and the codes
of each image. Of a transformer it is the first stage that reconstructs. The same command goes on where an earlier one
stopped, and several processes (torchrun, or --shard) share the work. Config overrides `section.key=value` may be added;
`data={...}` replaces the data together with --ignore_base_data. scripts/evaluate.py measures what it wrote.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, run_command, split_dotlist  # noqa: E402
from taming.evaluation.reconstructions import (  # noqa: E402
    ORIGINALS,
    RECONSTRUCTIONS,
    ReconstructionJob,
    plan_reconstructions,
    run_reconstructions,
)
from taming.models.dvae import DVAE  # noqa: E402
from taming.runs import build_model, resolve_run  # noqa: E402
from taming.sampling.commands import add_run_options, add_weights_option, load_configs, run_name  # noqa: E402
from taming.shards import find_shard, own_device  # noqa: E402
from taming.tokenizers import load_data  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Reconstruct the images of a data set by a first stage.",
        epilog="Config overrides such as data.params.validation.params.size=256 may be added.",
    )
    add_run_options(parser)
    add_weights_option(parser)
    add = parser.add_argument
    add("--outdir", required=True, help="folder that gets the images")
    add("--dalle", default="", metavar="DIR", help="instead of a run: OpenAI's dVAE, the folder of its two files")
    add("--split", default="validation", help="train, validation or test (default: %(default)s)")
    add("--num_samples", type=int, help="only the first so many images (default: all)")
    add("--batch_size", type=int, default=16, help="images at a time (default: %(default)s)")
    add("--num_workers", type=int, help="processes that read images (default: data.params.num_workers)")
    add("--shard", metavar="I/N", help="do part I, from 0, of N (default: torchrun's, or everything)")
    add_device_options(parser, precision=False)
    return parser


def plan(options: argparse.Namespace, overrides: Sequence[str]) -> ReconstructionJob:
    """What is wrong with options and data is found before the model is loaded."""
    if bool(options.resume) == bool(options.dalle):
        raise ValueError("give either a run with -r/--resume or the folder of OpenAI's dVAE with --dalle")
    shard, device = find_shard(options.shard), own_device(options.device)
    run = resolve_run(options.resume) if options.resume else None
    config = load_configs(options, run, overrides)
    data = load_data(config, [options.split], batch_size=options.batch_size, num_workers=options.num_workers)
    if run is None:
        model, step, name = DVAE(options.dalle).to(device).eval(), 0, Path(options.dalle).resolve().name
    else:
        loaded = build_model(config, run.checkpoint, device=device, trained_weights=options.trained_weights)
        model, step, name = loaded.model, loaded.global_step, run_name(run, options)
    return plan_reconstructions(
        model, data, options.outdir, num_samples=options.num_samples, global_step=step, run=name, shard=shard
    )


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_dotlist(get_parser(), argv)
    job = plan(options, overrides)
    shows = job.shard.index == 0 or options.shard is not None  # one process of torchrun is enough
    if shows:
        print(f"{job.describe()}\nimages as the data set gives them: {job.manifest['data']}", flush=True)
    start = time.monotonic()
    folder = run_reconstructions(job, progress=shows)
    if shows:
        print(f"{len(job.remaining)} images in {time.monotonic() - start:.1f} s\nMeasure them with")
        print(f"  python scripts/evaluate.py reconstructions {folder}")
        print(f"  python scripts/evaluate.py fid --input1 {folder / RECONSTRUCTIONS} --input2 {folder / ORIGINALS}")


if __name__ == "__main__":
    sys.exit(run_command(main))
