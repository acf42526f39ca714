"""What benchmarks share: interleaved timing, peak memory, a table with targets, and a record of the circumstances."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from taming.cli import select_device
from taming.files import atomic_path

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy")


def add_options(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """Add what all comparisons with the published implementation can be told; `start` acts on it."""
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    add("--threads", type=int, default=1, help="threads of the CPU (default: %(default)s)")
    add("--rounds", type=int, default=rounds, help="how often everything is timed (default: %(default)s)")
    add("--quick", action="store_true", help="small sizes and at most three rounds; no targets, no file")
    add("--peer", type=Path, metavar="FOLDER", help="where the peer is or will be installed (default: temporary)")
    add("--results", type=Path, metavar="FOLDER", default=RESULTS, help="where the JSON goes (default: %(default)s)")


def start(options: argparse.Namespace) -> None:
    """Select device, threads and precision: float32 means float32 on both sides. Raises ValueError for no rounds."""
    if options.rounds < 1:
        raise ValueError(f"--rounds must be positive, not {options.rounds}")
    if options.threads < 1:
        raise ValueError(f"--threads must be positive, not {options.threads}")
    options.device = select_device(options.device)
    options.rounds = min(options.rounds, 3) if options.quick else options.rounds
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False


@dataclass(frozen=True)
class Timing:
    """Medians in seconds of one piece of work, the peer's and ours, and how often ours fits into the peer's."""

    name: str
    peer: float
    ours: float
    ratio: float  # of the medians
    low: float  # quartiles of the ratios of single rounds
    high: float
    rounds: int
    target: float | None = None


@dataclass(frozen=True)
class Memory:
    """Peak memory in bytes beyond what was there before, the peer's and ours; None where it cannot be measured."""

    name: str
    peer: int | None
    ours: int | None
    limit: int | None = None


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long one call takes, on CUDA by the device's own events."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1000


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every call in every round, A B C, C B A, A B C, ...: all meet the same state of the machine."""
    for _ in range(warm_up):
        for work in works.values():
            work()
    times: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    for _ in range(rounds):
        for name in order:
            times[name].append(seconds(works[name], device))
        order.reverse()
    return times


def compare(name: str, peer: Sequence[float], ours: Sequence[float], target: float | None) -> Timing:
    """Medians and their ratio, from the times of the same rounds."""
    ratios = [before / after for before, after in zip(peer, ours, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    medians = statistics.median(peer), statistics.median(ours)
    return Timing(name, *medians, medians[0] / medians[1], low, high, len(ratios), target)


def resident(process: int | str = "self") -> int | None:
    """Bytes of memory that a process, by default this one, holds now; None where the system does not tell."""
    status = Path(f"/proc/{process}/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") if status.exists() else None


def peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes by which the memory in use rises at most during the call; None where the system does not tell.

    On the CPU, Linux only: the peak of the resident set, which is reset before the call. It counts whole pages and all
    that libraries allocate. Exact only in a process whose allocator holds no free memory (see benchmarks/README.md).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    if not Path("/proc/self/clear_refs").exists():
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the present size
    before = _peak_resident()
    work()
    return _peak_resident() - before


def _peak_resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def format_table(timings: Sequence[Timing], memories: Sequence[Memory]) -> str:
    """Both kinds of figures as text, one line each, with the verdict on those that have a target."""
    lines = [f"{'':<48}{'peer':>10}{'ours':>10}{'ratio':>8}  {'quartiles':<13}target"]
    for row in timings:
        verdict = _verdict(row.target and f"{row.target}x", row.target is None or row.ratio >= row.target)
        spread = f"{row.low:.2f}-{row.high:.2f}"
        lines.append(f"{row.name:<48}{row.peer:>9.3f}s{row.ours:>9.3f}s{row.ratio:>7.2f}x  {spread:<13}{verdict}")
    for row in memories:
        peer, ours = ("?" if value is None else f"{value / 1e6:.0f} MB" for value in (row.peer, row.ours))
        reached = row.limit is None or row.ours is None or row.ours < row.limit
        limit = _verdict(row.limit and f"under {row.limit / 1e6:.0f} MB", reached)
        lines.append(f"{row.name:<48}{peer:>10}{ours:>10}{'':>23}{limit}")
    return "\n".join(lines)


def _verdict(target: str | None, reached: bool) -> str:
    if target is None:
        return ""
    return target if reached else f"{target} MISSED"


def circumstances(device: torch.device, peer: str) -> dict:
    """Where figures come from: device, threads, versions, and what else the machine was doing."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": sys.version.split()[0],
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "peer": peer,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def write_json(path: Path, content: Mapping) -> None:
    """Write a record whose rows may be Timing and Memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=asdict) + "\n")
