"""Quantizers compared on photographs: the same autoencoder, data, steps and seeds; only the quantizer differs.

python benchmarks/quantizers.py                            # all of configs/quantizers, two seeds, about half an hour
python benchmarks/quantizers.py --only published fsq --steps 500 --seeds 23

Every training runs on one thread, as many at a time as there are cores, so that figures do not depend on the machine's
number of cores.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from taming.cli import run_command  # noqa: E402
from taming.console import set_up_console  # noqa: E402
from taming.evaluation import measures  # noqa: E402
from taming.files import atomic_path  # noqa: E402
from taming.training import train  # noqa: E402

BASE = ROOT / "configs" / "quickstart" / "photos_published.yaml"
OVERLAYS = {path.stem: path for path in sorted((ROOT / "configs" / "quantizers").glob("*.yaml"))}
PUBLISHED = "published"
CODES = 1024
HEADINGS = ("quantizer", "codes", "bits per position", "codes in use", "perplexity", "PSNR (dB)", "SSIM", "GMSD")
FORMATS = {"usage": "{:.0%}", "perplexity": "{:.0f}", "psnr_db": "{:.2f}", "ssim": "{:.3f}", "gmsd": "{:.4f}"}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (PUBLISHED, *OVERLAYS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=600, help="training steps (default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[23, 24], help="one training each (default: 23 24)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "quantizers.json")
    return parser


def measure(name: str, steps: int, seed: int, logdir: str) -> dict:
    """Train one quantizer on one thread and look at the held-out photographs."""
    torch.set_num_threads(1)
    set_up_console()
    logging.getLogger("taming").setLevel(logging.WARNING)
    overlays = [] if name == PUBLISHED else [str(OVERLAYS[name])]
    arguments = ["--base", str(BASE), *overlays, "--train", "True", "--seed", str(seed), "--logdir", logdir]
    overrides = [
        f"lightning.trainer.max_steps={steps}",
        f"lightning.trainer.val_check_interval={max(1, min(250, steps))}",
        f"model.params.scheduler_config.params.max_decay_steps={steps}",
        "lightning.callbacks.image_logger.params.max_images=0",
    ]
    if name == PUBLISHED:
        overrides.append(f"model.params.n_embed={CODES}")
    result = train([*arguments, "--name", f"{name}_{seed}", *overrides])
    model = result.model.eval()
    real = measures.encode(model, result.datamodule.val_dataloader())
    quantizer = model.quantize
    per_level = quantizer.n_e // quantizer.tokens_per_position
    return {
        "codes": quantizer.n_e,
        "bits_per_position": round(quantizer.tokens_per_position * math.log2(per_level), 2),
        "usage": measures.codebook_usage(real.tokens, quantizer.n_e),
        "perplexity": measures.perplexity(real.tokens),
        "psnr_db": measures.psnr(real.images, real.reconstructions).mean().item(),
        "ssim": measures.ssim(real.images, real.reconstructions).mean().item(),
        "gmsd": measures.gmsd(real.images, real.reconstructions).mean().item(),
    }


def table(rows: dict[str, list[dict]]) -> str:
    """The figures as Markdown, best PSNR first: the mean over the seeds, with lowest and highest where they differ."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    for name, runs in sorted(rows.items(), key=lambda item: -_mean(item[1], "psnr_db")):
        cells = [name, str(runs[0]["codes"]), f"{runs[0]['bits_per_position']:g}"]
        lines.append("| " + " | ".join(cells + [_cell(runs, key, text) for key, text in FORMATS.items()]) + " |")
    return "\n".join(lines)


def _mean(runs: list[dict], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


def _cell(runs: list[dict], key: str, text: str) -> str:
    values = [run[key] for run in runs]
    lowest, mean, highest = (text.format(value) for value in (min(values), _mean(runs, key), max(values)))
    return mean if lowest == highest else f"{mean} ({lowest}-{highest})"


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    rows = {name: {} for name in options.only}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as logdir, ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        trainings = {
            pool.submit(measure, name, options.steps, seed, logdir): (name, seed)
            for seed in options.seeds
            for name in options.only
        }
        for training in as_completed(trainings):
            name, seed = trainings[training]
            rows[name][seed] = training.result()
            print(f"{name}, seed {seed}: {rows[name][seed]}", flush=True)
    quantizers = {name: [runs[seed] for seed in options.seeds] for name, runs in rows.items()}
    print(f"\n{options.steps} steps, seeds {options.seeds}, torch {torch.__version__}\n\n{table(quantizers)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"steps": options.steps, "seeds": options.seeds, "torch": torch.__version__, "quantizers": quantizers}
    with atomic_path(options.out) as path:
        path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
