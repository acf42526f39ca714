"""Kill a VQGAN and a transformer at random moments, resume each time, and compare with runs that nobody killed.

    python tests/faults/kills.py [--kills 20] [--seed 0] [--folder DIR] [--models VQGAN transformer]

On the CPU, one thread per process; the VQGAN reads with two workers, the transformer accumulates over two batches.
Prints a line per kill and a table; the exit status is 1 if anything differs: the weights, both optimizers, schedules,
the position in the data, or any number that was logged at any step.
"""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from killing import compare, killed_runs, run_killed, run_whole
from omegaconf import OmegaConf

STEPS = 60
MODELS = {
    "VQGAN": (killed_runs.vqgan(), {"num_workers": 2}),
    "transformer": (killed_runs.transformer(), {"accumulate_grad_batches": 2}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        found = {title: drill(title, options) for title in options.models}
    print("\n| model | kills | differences |\n|---|---|---|")
    for title, different in found.items():
        print(f"| {title} | {options.kills} | {len(different)} |")
        print("".join(f"  {line}\n" for line in different[:10]), end="")
    return int(any(found.values()))


def drill(title: str, options: argparse.Namespace) -> list[str]:
    print(title, flush=True)
    model, changes = MODELS[title]
    journals = tuple(Path(f"{title}_{kind}.txt") for kind in ("whole", "killed"))
    arguments = []
    for journal in journals:
        config = killed_runs.config(model, journal, every_n_steps=2, max_steps=STEPS, **changes)
        OmegaConf.save(config, journal.with_suffix(".yaml"))
        arguments.append(["-b", str(journal.with_suffix(".yaml"))])
    log = Path(f"{title}.log")
    steps = sorted(random.Random(options.seed).sample(range(1, STEPS - 2), options.kills))
    whole = run_whole(arguments[0], f"whole_{title}", log)
    resumed = run_killed(arguments[1], f"killed_{title}", journals[1], steps, 0.3, options.seed, log)
    return compare(whole, resumed.folder, journals)


if __name__ == "__main__":
    sys.exit(main())
