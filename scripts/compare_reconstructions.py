"""The same images through several first stages: a picture of all side by side, and a table of scores.

    python scripts/compare_reconstructions.py --images a.jpg b.jpg --models ours=logs/<run> --size 256 -o compared.png

Without --models, the published VQGANs are compared, which are downloaded where they are not. The shorter side of an
image is scaled down to --size, and a square cut out of its middle.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, run_command  # noqa: E402
from taming.evaluation.comparison import PUBLISHED, compare_first_stages, load_first_stages, read_squares  # noqa: E402
from taming.images import save_png  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare the reconstructions of first stages.")
    add = parser.add_argument
    add("--images", nargs="+", required=True, metavar="FILE", help="images to reconstruct")
    text = "title and run folder, checkpoint or name of a published model (default: the published VQGANs)"
    add("--models", nargs="+", default=[], metavar="TITLE=RUN", help=text)
    add("--dalle", metavar="DIR", help="folder with OpenAI's encoder.pkl and decoder.pkl, to compare with as well")
    add("--size", type=int, default=320, help="side of the squares in pixels (default: %(default)s)")
    add("-o", "--output", default="reconstructions.png", metavar="PNG", help="the picture (default: %(default)s)")
    add("--no_lpips", action="store_true", help="leave out LPIPS, which needs weights that are downloaded once")
    add_device_options(parser, precision=False)
    return parser


def parse_models(items: Sequence[str]) -> dict[str, str]:
    """TITLE=RUN -> run by title. Raises ValueError for an item of another form, and for a title that comes twice."""
    models = {}
    for item in items:
        title, equals, source = item.partition("=")
        if not (title and equals and source):
            raise ValueError(f"--models {item}: expected TITLE=RUN, such as ours=logs/<run>")
        if title in models:
            raise ValueError(f"--models {item}: the title {title} is taken")
        models[title] = source
    return models


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    models = parse_models(options.models) or PUBLISHED
    if options.size < 1:
        raise ValueError(f"--size {options.size}: expected a number of pixels")
    output = Path(options.output)
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"--output {output}: no folder {output.parent}, make it first")
    images = read_squares(options.images, options.size)
    first_stages = load_first_stages(models, options.dalle, device=options.device)
    comparison = compare_first_stages(images, first_stages, lpips=not options.no_lpips)
    save_png(output, comparison.picture())
    print(f"{comparison.table()}\n{len(images)} images side by side in {output}")


if __name__ == "__main__":
    sys.exit(run_command(main))
