"""Do samples of conditional models follow their condition? On the scene world, where pixels tell.

    python scripts/evaluate_conditions.py logs/<run of segmentation> logs/<run of boxes> --unconditional logs/<run> \
      --picture conditions.png

Real images and reconstructions show what can be reached, samples of an unconditional model what comes by chance.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, run_command  # noqa: E402
from taming.evaluation.conditions import MEASURES, evaluate_condition, examples, sample_unconditional, scenes_of  # noqa: E402
from taming.files import atomic_path  # noqa: E402
from taming.images import labelled_grid, save_png  # noqa: E402
from taming.runs import LoadedModel, build_model, load_run_config, resolve_run  # noqa: E402
from taming.shards import own_device  # noqa: E402

SHOWN = 8
"""Conditions in a row of the picture."""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure whether samples follow their condition, on the scene world.")
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="run folders of conditional transformers, or checkpoint files in them")
    add("--unconditional", metavar="RUN", help="run of a transformer without condition on the same first stage")
    add("-n", "--num_samples", type=int, default=256, help="scenes of the validation split (default: %(default)s)")
    add("-b", "--batch_size", type=int, default=64, help="(default: %(default)s)")
    add("-k", "--top_k", type=int, default=0, help="draw from the most likely tokens only; 0 is all, the default")
    add("-t", "--temperature", type=float, default=1.0, help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="of all random numbers (default: %(default)s)")
    add(
        "--picture", type=Path, metavar="FILE", help="show eight conditions of each run and a sample given each, as PNG"
    )
    add("--json", type=Path, metavar="FILE", help="write the figures to this file as well")
    add_device_options(parser, precision=False)
    return parser


def _load(run: str, options: argparse.Namespace) -> LoadedModel:
    found = resolve_run(run)
    return build_model(load_run_config(found), found.checkpoint, device=own_device(options.device))


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    filters = {"seed": options.seed, "top_k": options.top_k, "temperature": options.temperature}
    sizes = {"count": options.num_samples, "batch_size": options.batch_size}
    unconditional = None
    if options.unconditional:
        unconditional = sample_unconditional(_load(options.unconditional, options).model, **sizes, **filters)
    figures, pictures = {}, {}
    for run in options.runs:
        loaded = _load(run, options)
        scenes = scenes_of(loaded.config)
        figures[run] = evaluate_condition(loaded.model, scenes, unconditional=unconditional, **sizes, **filters)
        print(f"{run}: {MEASURES[loaded.model.cond_stage_key].name}")
        for name, score in figures[run].items():
            print(f"  {name:22} {score:.3f}", flush=True)
        if options.picture:
            pictures |= examples(loaded.model, scenes, count=SHOWN, **filters)
    if options.picture:
        save_png(options.picture, labelled_grid(pictures))
    if options.json:
        with atomic_path(options.json) as path:
            path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
