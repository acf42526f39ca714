"""Train the quick start's VQGAN for long, with random kills and without, and compare weights and memory.

    python tests/faults/soak.py [--steps 2000] [--kills 20] [--seed 0] [--folder DIR]

On the CPU, one thread per process, on handwritten digits; the discriminator starts halfway. The exit status is 1 if
the runs differ in a bit or the memory of the last quarter of the uninterrupted run is not within 2 % of the first's.
"""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path
from statistics import median

from killing import compare, finish, folder_of, killed_runs, run_killed, start

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quickstart" / "digits_vqgan.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        return soak(options)


def soak(options: argparse.Namespace) -> int:
    journals = (Path("whole.txt"), Path("killed.txt"))
    whole = start([*arguments(options.steps, journals[0]), "-t", "-n", "whole"], Path("whole.log"))  # both at a time
    steps = sorted(random.Random(options.seed).sample(range(1, options.steps - 2), options.kills))
    resumed = run_killed(
        arguments(options.steps, journals[1]), "killed", journals[1], steps, 1.0, options.seed, Path("killed.log")
    )
    finish(whole, Path("whole.log"))
    different = compare(folder_of("whole"), resumed.folder, journals)
    quarter = options.steps // 4
    memory = {step: mib for step, _, mib in killed_runs.read_journal(journals[0])}
    first = median(mib for step, mib in memory.items() if step < quarter)
    last = median(mib for step, mib in memory.items() if step >= options.steps - quarter)
    print(f"{options.steps} steps, {options.kills} kills: {len(different)} differences from the uninterrupted run")
    print("".join(f"  {line}\n" for line in different[:10]), end="")
    print(
        f"memory: median of the first {quarter} steps {first:.0f} MiB, of the last {last:.0f} ({last / first - 1:+.1%})"
    )
    return int(bool(different) or abs(last / first - 1) > 0.02)


def arguments(steps: int, journal: Path) -> list[str]:
    return [
        *("-b", str(CONFIG), "--accelerator", "cpu", "--enable_progress_bar", "false"),
        *("--max_steps", str(steps), "--log_every_n_steps", "1"),
        f"model.params.scheduler_config.params.max_decay_steps={steps}",
        f"model.params.lossconfig.params.disc_start={steps // 2}",
        "lightning.modelcheckpoint.params.last_every_n_steps=20",
        "lightning.logger.target=killed_runs.Journal",
        f"lightning.logger.params.path={journal}",
    ]


if __name__ == "__main__":
    sys.exit(main())
