"""Quantizers compared on photographs: the same autoencoder, data, steps and seed; only the quantizer differs.

python benchmarks/quantizers.py                            # all of configs/quantizers, about half an hour on two cores
python benchmarks/quantizers.py --only published fsq --steps 500
"""

import argparse
import json
import logging
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from taming import evaluation  # noqa: E402
from taming.cli import run_command  # noqa: E402
from taming.console import set_up_console  # noqa: E402
from taming.files import atomic_path  # noqa: E402
from taming.training import train  # noqa: E402

BASE = ROOT / "configs" / "quickstart" / "photos_published.yaml"
OVERLAYS = {path.stem: path for path in sorted((ROOT / "configs" / "quantizers").glob("*.yaml"))}
PUBLISHED = "published"
CODES = 1024
HEADINGS = ("quantizer", "codes", "bits per position", "codes in use", "perplexity", "PSNR (dB)", "SSIM", "GMSD")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (PUBLISHED, *OVERLAYS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=600, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=23, help="seed of all random numbers (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "quantizers.json")
    return parser


def measure(name: str, steps: int, seed: int, logdir: str) -> dict:
    """Train one quantizer and look at the held-out photographs."""
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
    result = train([*arguments, "--name", name, *overrides])
    model = result.model.eval()
    real = evaluation.encode(model, result.datamodule.val_dataloader())
    quantizer = model.quantize
    per_level = quantizer.n_e // quantizer.tokens_per_position
    return {
        "codes": quantizer.n_e,
        "bits_per_position": round(quantizer.tokens_per_position * math.log2(per_level), 2),
        "usage": evaluation.codebook_usage(real.tokens, quantizer.n_e),
        "perplexity": evaluation.perplexity(real.tokens),
        "psnr_db": evaluation.psnr(real.images, real.reconstructions).mean().item(),
        "ssim": evaluation.ssim(real.images, real.reconstructions).mean().item(),
        "gmsd": evaluation.gmsd(real.images, real.reconstructions).mean().item(),
    }


def table(rows: dict[str, dict]) -> str:
    """The figures as Markdown, best PSNR first."""
    formats = ("{:d}", "{:g}", "{:.1%}", "{:.0f}", "{:.2f}", "{:.3f}", "{:.4f}")
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["psnr_db"]):
        cells = [text.format(value) for text, value in zip(formats, row.values(), strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    set_up_console()
    logging.getLogger("taming").setLevel(logging.WARNING)
    rows = {}
    with tempfile.TemporaryDirectory() as logdir:
        for name in options.only:
            rows[name] = measure(name, options.steps, options.seed, logdir)
            print(f"{name}: {rows[name]}", flush=True)
    print(f"\n{options.steps} steps, seed {options.seed}, torch {torch.__version__}\n\n{table(rows)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"steps": options.steps, "seed": options.seed, "torch": torch.__version__, "quantizers": rows}
    with atomic_path(options.out) as path:
        path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
