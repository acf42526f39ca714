"""Trainings that are processes of their own, killed at random moments and resumed, and what became of them.

Each is forked from a process that has imported the library but computed nothing, which saves the time to import it.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2]))

import killed_runs

from taming.training import train


@dataclass
class Outcome:
    """A run that was killed: its folder, and a line for each kill."""

    folder: Path
    kills: list[str] = field(default_factory=list)


def start(arguments: list[str], log: Path) -> int:
    """Train in a forked process on one thread, its output in `log`; the process id."""
    pid = os.fork()
    if pid:
        return pid
    with open(log, "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    status = 1
    try:
        torch.set_num_threads(1)
        train(arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def finish(pid: int, log: Path) -> None:
    """Wait for a process; RuntimeError if it failed."""
    if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError(f"a training ended with status {status}, see {log}")


def killed(pid: int, journal: Path, step: int, delay: float) -> bool:
    """Kill a process `delay` seconds after its run has logged `step`; False if it ended before."""
    begun = journal.stat().st_size if journal.exists() else 0
    while not reached(journal, begun, step):
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.05)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def reached(journal: Path, begun: int, step: int) -> bool:
    """Whether the last line of a journal, if beyond its length `begun`, is of a training step as late as `step`."""
    if not journal.exists() or journal.stat().st_size <= begun:
        return False
    with journal.open("rb") as file:
        file.seek(begun)
        lines = file.read().decode().split("\n")[:-1]
    return any(json.loads(line)[0] >= step and '"train/' in line for line in lines[-20:])


def run_whole(arguments: list[str], name: str, log: Path) -> Path:
    """Train without interruption; the run folder."""
    finish(start([*arguments, "-t", "-n", name], log), log)
    return folder_of(name)


def run_killed(
    arguments: list[str], name: str, journal: Path, steps: list[int], longest_delay: float, seed: int, log: Path
) -> Outcome:
    """Train, be killed once after each of `steps`, and be resumed until the end."""
    draws = random.Random(seed)
    outcome = Outcome(Path())
    for step in sorted(steps):
        delay = draws.uniform(0, longest_delay)
        if not killed(start(continuing(arguments, name), log), journal, step, delay):
            raise RuntimeError(f"the run ended before step {step}, see {log}")
        outcome.kills.append(f"{delay:.2f} s after step {step} was logged; {left(name)}")
        print(f"  kill {len(outcome.kills):2}: {outcome.kills[-1]}", flush=True)
    finish(start(continuing(arguments, name), log), log)
    outcome.folder = folder_of(name)
    return outcome


def left(name: str) -> str:
    """What the next process will find."""
    files = sorted((folder_of(name) / "checkpoints").glob("*.ckpt"), key=lambda file: file.stat().st_mtime)
    named = [file for file in files if file.name == "last.ckpt"] or files[-1:]  # killed between two changes of names
    if not named:
        return "nothing saved"
    return f"{named[0].name} of step {torch.load(named[0], map_location='meta', weights_only=True)['global_step']}"


def continuing(arguments: list[str], name: str) -> list[str]:
    """How a user would go on: resume, or begin again if nothing was saved before the run was killed."""
    if found := sorted(Path("logs").glob(f"*_{name}")):
        if any((found[-1] / "checkpoints").glob("*.ckpt")):
            return ["-t", "-r", str(found[-1])]
        shutil.rmtree(found[-1])
    return [*arguments, "-t", "-n", name]


def folder_of(name: str) -> Path:
    return sorted(Path("logs").glob(f"*_{name}"))[-1]


def compare(whole: Path, resumed: Path, journals: tuple[Path, Path]) -> list[str]:
    """Everything in which a resumed run is not the uninterrupted one; nothing if it is, bit for bit."""
    last = Path("checkpoints") / "last.ckpt"
    found = [f"state {place}" for place in killed_runs.differences(whole / last, resumed / last)]
    expected, seen = map(killed_runs.logged, journals)
    for key in sorted(expected.keys() | seen.keys()):
        if expected.get(key) != seen.get(key):
            found.append(f"logged {key}: {expected.get(key)}, {seen.get(key)}")
    return found
