"""A sample of a conditional transformer for every example of a data set, as PNG files.

    python scripts/make_samples.py -r logs/<run> --outdir samples --split validation

writes samples/<global step>_<top_k>_<temperature>/{originals,reconstructions,samples}/000000.png and so on, the numbers
being those of the data set. Images may be of any size: the transformer moves over them in windows. The same command
goes on where an earlier one stopped, with its seed, and several processes (torchrun, or --shard) share the work. Config
overrides `section.key=value` may be added; `data={...}` replaces the data together with --ignore_base_data.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, run_command, split_dotlist  # noqa: E402
from taming.runs import build_model, resolve_run  # noqa: E402
from taming.sampling.commands import (  # noqa: E402
    add_run_options,
    add_weights_option,
    carry_out,
    load_configs,
    run_name,
)
from taming.sampling.dataset_jobs import (  # noqa: E402
    DatasetJob,
    DatasetOptions,
    build_split,
    plan_dataset_job,
    run_dataset_job,
)
from taming.sampling.options import add_filter_options, add_job_options  # noqa: E402
from taming.shards import find_shard, own_device  # noqa: E402

CHOICES = ("num_samples", "batch_size", "top_k", "temperature", "top_p", "seed", "overwrite", "precision", "window",
           "greedy", "half_sample", "scale_factor", "save_conditioning")  # fmt: skip


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Sample a conditional transformer for every example of a data set.",
        epilog="Config overrides such as data.params.validation.params.size=256 may be added.",
    )
    add_run_options(parser)
    add_weights_option(parser)
    parser.add_argument("--outdir", required=True, help="folder that gets the samples")
    add = parser.add_argument
    add_filter_options(parser, top_k=100)
    add("--split", help="train, validation or test (default: the first of those there are, by the alphabet)")
    add("--num_samples", type=int, help="only the first so many examples (default: all)")
    add("--window", type=int, help="side of the window in tokens (default: the largest that the model can read)")
    add("--greedy", action="store_true", help="take the most likely tokens instead of drawing")
    add("--half_sample", action="store_true", help="keep the first half of each image's own tokens")
    add("--scale_factor", type=float, default=1.0, help="resize images and conditioning (default: %(default)s)")
    add("--save_conditioning", action="store_true", help="write pictures of the conditioning, too")
    add_job_options(parser, batch_size=1)
    add_device_options(parser)
    return parser


def plan(options: argparse.Namespace, overrides: Sequence[str]) -> DatasetJob:
    """What is wrong with options and data is found before the model is loaded."""
    shard = find_shard(options.shard)
    choices = DatasetOptions(shard=shard, **{name: getattr(options, name) for name in CHOICES})
    run, device = resolve_run(options.resume) if options.resume else None, own_device(options.device)
    config = load_configs(options, run, overrides)
    split = build_split(config, options.split)
    checkpoint = run.checkpoint if run else None
    loaded = build_model(config, checkpoint, device=device, trained_weights=options.trained_weights)
    name = run_name(run, options) if run else None
    return plan_dataset_job(loaded.model, split, options.outdir, choices, global_step=loaded.global_step, run=name)


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_dotlist(get_parser(), argv)
    job = plan(options, overrides)
    carry_out(job, run_dataset_job, options, n_images=len(job.remaining()))


if __name__ == "__main__":
    sys.exit(run_command(main))
