"""Images by layouts of objects, larger than in training if wanted: rows of samples, then the layout, as PNG files.

    python scripts/make_scene_samples.py -r logs/<run> --outdir samples --resolution 256,512

writes samples/<global step>_<top_k>_<temperature>/<batch>_<index in the batch>.png for the layouts of the validation
split. --layout FILE samples a layout of your own instead, such as

    {"objects": [{"class": "person", "box": [0.1, 0.3, 0.2, 0.6]}, {"class": "grass", "box": [0, 0.5, 1, 0.5]}]}

where a box is left, top, width, height as shares of the image's. The same command goes on where an earlier one stopped.
Config overrides `section.key=value` may be added.
"""

import argparse
import re
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
from taming.sampling.dataset_jobs import build_split  # noqa: E402
from taming.sampling.options import add_filter_options, add_job_options  # noqa: E402
from taming.sampling.scene_jobs import (  # noqa: E402
    SEED,
    SceneJob,
    SceneOptions,
    conditional_of,
    layouts_of_files,
    layouts_of_split,
    plan_scene_job,
    run_scene_job,
)
from taming.shards import find_shard, own_device  # noqa: E402

CHOICES = ("num_samples", "n_samples_per_layout", "conditional", "batch_size", "top_k", "temperature", "top_p", "seed",
           "overwrite", "precision", "window", "greedy")  # fmt: skip


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Sample a transformer that is conditioned on layouts of objects.",
        epilog="Config overrides such as data.params.validation.params.data_path=data/coco may be added.",
    )
    add_run_options(parser)
    add_weights_option(parser)
    parser.add_argument("--outdir", required=True, help="folder that gets the samples")
    add_filter_options(parser, top_k=100)
    add_job_options(parser, batch_size=4, seed=SEED)
    add = parser.add_argument
    text = "pixels, at least what one window covers"
    add("-R", "--resolution", metavar="HEIGHT,WIDTH", help=f"{text} (default: that, 256,256 for the published models)")
    text = "objects_bbox or objects_center_points (default: what the model reads)"
    add("-C", "--conditional", metavar="KIND", help=f"kind of layout, {text}")
    add("-N", "--n_samples_per_layout", type=int, default=4, help="(default: %(default)s)")
    add("--layout", nargs="+", type=Path, metavar="FILE", help="JSON files with layouts, instead of those of the data")
    add("--split", default="validation", help="whose layouts are sampled (default: %(default)s)")
    add("--num_samples", type=int, help="only the first so many layouts (default: all)")
    add("--window", type=int, help="side of the window in tokens (default: the largest that the model can read)")
    add("--greedy", action="store_true", help="take the most likely tokens instead of drawing")
    add_device_options(parser)
    return parser


def parse_resolution(text: str | None) -> tuple[int, int] | None:
    """Height and width, if any are given."""
    if text is None:
        return None
    if not re.fullmatch("[0-9]+,[0-9]+", text):
        raise ValueError(f"--resolution {text}: expected height and width in pixels, such as 256,512")
    return tuple(map(int, text.split(",")))


def plan(options: argparse.Namespace, overrides: Sequence[str]) -> SceneJob:
    """What is wrong with options and data is found before the model is loaded."""
    chosen = {name: getattr(options, name) for name in CHOICES}
    choices = SceneOptions(shard=find_shard(options.shard), resolution=parse_resolution(options.resolution), **chosen)
    run, device = resolve_run(options.resume) if options.resume else None, own_device(options.device)
    config = load_configs(options, run, overrides)
    split = build_split(config, options.split)
    checkpoint = run.checkpoint if run else None
    loaded = build_model(config, checkpoint, device=device, trained_weights=options.trained_weights)
    if options.layout:
        layouts = layouts_of_files(options.layout, split, conditional_of(loaded.model, options.conditional))
    else:
        per_batch = config.data.params.get("batch_size", 1)
        layouts = layouts_of_split(split, per_batch=per_batch, count=options.num_samples)
    known = {"global_step": loaded.global_step, "run": run_name(run, options) if run else None}
    return plan_scene_job(loaded.model, split, options.outdir, choices, layouts=layouts, **known)


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_dotlist(get_parser(), argv)
    job = plan(options, overrides)
    carry_out(job, run_scene_job, options, n_images=job.n_remaining)


if __name__ == "__main__":
    sys.exit(run_command(main))
