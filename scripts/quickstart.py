"""From nothing to samples in minutes: train a small VQGAN and its transformer on real images, sample, measure, draw.

python scripts/quickstart.py                      # handwritten digits, about five minutes on two CPU cores
python scripts/quickstart.py --data photos        # crops of photographs, about ten minutes
python scripts/quickstart.py --data my/photos     # your own folder; subfolders are classes
python scripts/quickstart.py -r quickstart/...    # go on after an interruption
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from taming.cli import run_command, str2bool  # noqa: E402
from taming.console import set_up_console  # noqa: E402
from taming.files import atomic_path  # noqa: E402
from taming.quickstart import EMBEDDED, QuickStart, run  # noqa: E402

CONFIGS = ROOT / "configs" / "quickstart"
OPTIONS = "options.json"
TABLE = {
    "psnr_db": ("PSNR of held-out reconstructions", "{:.1f} dB"),
    "codebook_usage": ("codebook entries in use", "{:.0%}"),
    "published_recipe_psnr_db": ("  published recipe: PSNR", "{:.1f} dB"),
    "published_recipe_codebook_usage": ("  published recipe: entries in use", "{:.0%}"),
    "unigram_entropy": ("entropy of held-out tokens", "{:.2f} nats"),
    "class_unigram_entropy": ("  the same, class known", "{:.2f} nats"),
    "nll": ("held-out negative log-likelihood", "{:.2f} nats"),
    "nll_over_unigram_entropy": ("  as a share of the entropy", "{:.2f}"),
    "classifier_on_real": ("classifier right on held-out images", "{:.1%}"),
    "classifier_on_samples": ("classifier right on samples", "{:.1%}"),
    "minutes": ("minutes", "{:.1f}"),
}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="digits", help="digits, photos, or a folder of images (default: %(default)s)")
    add("--minutes", type=float, help="time budget; the configs' steps are scaled to it (default: the configs' steps)")
    add("--outdir", type=Path, help="where everything goes (default: quickstart/<time>_<data>)")
    add("--seed", type=int, default=23, help="seed of all random numbers (default: %(default)s)")
    add("--baseline", type=str2bool, nargs="?", const=True, default=False, metavar="BOOL",
        help="train the published recipe too, for comparison (takes its time on top)")  # fmt: skip
    add("-r", "--resume", type=Path, metavar="OUTDIR", help="go on with an interrupted quick start, with its options")
    return parser


def plan(options: argparse.Namespace) -> QuickStart:
    """The job that the options describe, new or resumed; raises ValueError for what cannot be."""
    if options.resume is not None:
        saved = options.resume / OPTIONS
        if not saved.is_file():
            raise FileNotFoundError(f"--resume {options.resume}: no quick start there, looked for {saved}")
        job = QuickStart(**json.loads(saved.read_text()), outdir=options.resume, configs=CONFIGS)
        return replace(job, baseline=job.baseline or options.baseline)
    if options.minutes is not None and options.minutes <= 0:
        raise ValueError(f"--minutes {options.minutes:g}: a time budget is positive")
    if options.data not in EMBEDDED and not Path(options.data).is_dir():
        raise FileNotFoundError(f"--data {options.data}: neither digits, photos nor an existing folder")
    name = options.data if options.data in EMBEDDED else Path(options.data).resolve().name
    outdir = options.outdir or Path("quickstart", f"{time.strftime('%Y-%m-%dT%H-%M-%S')}_{name}")
    if outdir.exists() and any(outdir.iterdir()):
        hint = f"; go on with the quick start in it by -r {outdir}" if (outdir / OPTIONS).exists() else ""
        raise ValueError(f"--outdir {outdir}: is not empty, name another folder{hint}")
    data = options.data if options.data in EMBEDDED else str(Path(options.data).resolve())
    return QuickStart(data, outdir, CONFIGS, options.seed, options.minutes, options.baseline)


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    set_up_console()
    job = plan(options)
    job.outdir.mkdir(parents=True, exist_ok=True)
    with atomic_path(job.outdir / OPTIONS) as path:
        path.write_text(
            json.dumps({key: value for key, value in asdict(job).items() if key not in ("outdir", "configs")})
        )
    print(f"quick start on {job.data} in {job.outdir}; after an interruption: python {sys.argv[0]} -r {job.outdir}")
    start = time.monotonic()
    try:
        metrics = run(job)
    except (ValueError, OSError):
        if options.resume is None and not any(job.outdir.glob("logs/*/checkpoints/*.ckpt")):
            shutil.rmtree(job.outdir)  # it was absent or empty before
        raise
    report(job, metrics | {"minutes": (time.monotonic() - start) / 60})


def report(job: QuickStart, metrics: dict) -> None:
    """The table, and where to look."""
    print()
    for key, (label, form) in TABLE.items():
        if key in metrics:
            print(f"{label:<40}{form.format(metrics[key]):>12}")
    transformer = sorted((job.outdir / "logs").glob("*_transformer"))[-1]
    print(f"""
Look at {job.outdir}/reconstructions.png  held-out images, and what their tokens keep of them
        {job.outdir}/samples.png          new images, one row per class
        {job.outdir}/completions.png      held-out images continued from their upper half
        {job.outdir}/losses.png           what training did
More samples:     python scripts/sample_fast.py -r {transformer} -n 100
All curves:       tensorboard --logdir {job.outdir}/logs
Your own photos:  python scripts/quickstart.py --data path/to/folder""")


if __name__ == "__main__":
    sys.exit(run_command(main))
