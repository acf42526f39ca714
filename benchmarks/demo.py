"""The demo in a real browser: how soon its page is there, whether it shows progress, whether its memory stays.

    python benchmarks/demo.py -r logs/<run> [logs/<another run> ...]

Serves the page of each run, opens it in headless Chromium, and samples twenty times. Prints a line per run and writes
benchmarks/results/demo.json. See benchmarks/README.md for what is measured how.
"""

import argparse
import re
import statistics
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from demo_server import CHROMIUM, button, chromium, opened, served, set_number  # noqa: E402
from measure import RESULTS, circumstances, resident, write_json  # noqa: E402

from taming.cli import run_command  # noqa: E402

SAMPLES, SETTLED, PREVIEWS = 20, 5, 8
"""Samples in a row; after how many memory has settled; previews that a run is asked for."""
FIRST_PAGE, GROWTH = 5.0, 0.03
"""Aims: seconds from the loaded model to the whole page; share by which memory may grow after it has settled."""
WATCH_PICTURES = """() => {
    window.pictures = new Set();
    const note = () => document.querySelectorAll('img').forEach(image => window.pictures.add(image.src));
    note();
    window.before = window.pictures.size;
    new MutationObserver(note).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the demo in a real browser.")
    parser.add_argument("-r", "--resume", nargs="+", required=True, type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="in a row (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", default=RESULTS, help="where the JSON goes (default: %(default)s)"
    )
    return parser


def measure(browser, run: Path, samples: int) -> dict[str, object]:
    """Figures of one run."""
    begin = time.monotonic()
    with served(str(run)) as (address, process):
        with opened(browser, address) as page:
            page.get_by_text(re.compile("^Global step: [0-9]")).wait_for()
            loaded = time.monotonic()
            button(page, "Sample").wait_for()
            shown = time.monotonic()
            seconds, pictures = previews(page)
            memory = memory_by_sample(page, process, samples)
        again = time.monotonic()
        with opened(browser, address) as page:
            button(page, "Sample").wait_for()
            again = time.monotonic() - again
    return {
        "run": run.resolve().name.partition("_")[2] or run.name,
        "start_to_page_s": round(shown - begin, 2),
        "loaded_to_page_s": round(shown - loaded, 2),
        "another_page_s": round(again, 2),
        "previews": pictures,
        "sample_s": round(seconds, 2),
        "memory_mb": [None if size is None else round(size / 1e6, 1) for size in memory],
    }


def previews(page) -> tuple[float, int]:
    """Seconds of one sample, and how many pictures were seen while it was made, the last one included."""
    rows, columns = map(int, re.findall("[0-9]+", page.get_by_text("Sampling shape (").inner_text()))
    set_number(page, "Update every", max(1, rows * columns // PREVIEWS))
    page.evaluate(WATCH_PICTURES)
    begin = time.monotonic()
    sample(page, 0)
    return time.monotonic() - begin, page.evaluate("window.pictures.size - window.before")


def sample(page, seed: int) -> None:
    """Make one sample; each has a seed of its own, by which its caption is known."""
    set_number(page, "Seed", seed)
    button(page, "Sample").click()
    page.get_by_text(f", seed {seed}, ").wait_for()
    page.wait_for_function("document.querySelector('[data-testid=stStatusWidget]') === null")


def memory_by_sample(page, process: int, samples: int) -> list[int | None]:
    """Bytes that the server holds after each sample."""
    sizes = []
    for number in range(1, samples + 1):
        sample(page, number)
        sizes.append(resident(process))
    return sizes


def growth(memory: Sequence[float]) -> float:
    """By what share memory has grown since it had settled."""
    return memory[-1] / memory[min(SETTLED, len(memory)) - 1] - 1


def describe(result: dict) -> str:
    grown = growth(result["memory_mb"])
    return (
        f"{result['run']:<16}{result['start_to_page_s']:>8.1f} s{result['loaded_to_page_s']:>8.1f} s"
        f"{result['another_page_s']:>8.1f} s{result['previews']:>10}{statistics.median(result['memory_mb']):>9.0f} MB"
        f"{grown:>+9.1%}{'' if grown <= GROWTH and result['loaded_to_page_s'] < FIRST_PAGE else '  MISSED'}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    if CHROMIUM is None:
        raise ImportError("this benchmark needs Chromium; Debian's package is called chromium")
    if options.samples < 1:
        raise ValueError(f"--samples must be positive, not {options.samples}")
    print(f"{'run':<16}{'start':>10}{'page':>10}{'another':>10}{'previews':>10}{'memory':>12}{'growth':>9}")
    results = []
    with chromium() as browser:
        for run in options.resume:
            results.append(measure(browser, run, options.samples))
            print(describe(results[-1]), flush=True)
    where = circumstances(torch.device("cpu"), f"none; streamlit {metadata.version('streamlit')}, Chromium")
    write_json(options.results / "demo.json", {"circumstances": where, "runs": results})


if __name__ == "__main__":
    sys.exit(run_command(main))
