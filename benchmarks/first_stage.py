"""Speed and memory of the first stage against the published implementation, measured in one run.

    python benchmarks/first_stage.py                  # CPU, one thread; about fifteen minutes
    python benchmarks/first_stage.py --device cuda
    python benchmarks/first_stage.py --quick          # small sizes, few rounds, no file

Both sides get the same weights and inputs, and must agree before anything is timed. Prints a table and writes
benchmarks/results/first_stage_<device>.json. See benchmarks/README.md for what is measured how.
"""

import argparse
import copy
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import matched  # noqa: E402
from measure import (  # noqa: E402
    Memory,
    Timing,
    add_options,
    circumstances,
    compare,
    format_table,
    interleaved,
    peak_memory,
    start,
    write_json,
)
from peer import PACKAGE, VERSION, Peer, installed  # noqa: E402

from taming.cli import run_command  # noqa: E402
from taming.modules.vqvae.quantize import VectorQuantizer2  # noqa: E402

DIM = 256
N_CODES = 16384
TARGETS = {
    "training step": 1.3,
    "training step, shared_forward": 1.7,
    "training step before disc_start": 1.4,
    "encode, channels_last": 1.15,
    "decode, channels_last": 1.15,
    "codebook search, 4096 rows": 1.8,
}
"""Least ratios on one CPU thread, at full size."""
MEMORY_LIMITS = {4096: 64_000_000, 16384: 100_000_000}
"""Rows of the codebook search -> most extra bytes."""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare the first stage with the published implementation.")
    add_options(parser, rounds=11)
    return parser


def time_training(peer: Peer, options: argparse.Namespace) -> tuple[list[Timing], dict]:
    """Full steps, Adam included, from disc_start on and before it."""
    ch, size = (32, 32) if options.quick else (64, 128)
    batch = {"image": torch.rand(2, size, size, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1}
    batch["image"] = batch["image"].to(options.device)
    ours, theirs = matched.matched_pair(peer, matched.f16(ch, adversarial=True), batch["image"].permute(0, 3, 1, 2))
    phases = {" before disc_start": 0, "": matched.DISC_START}
    timings, checks = [], {}
    for suffix, step in phases.items():
        ours.global_step = theirs.global_step = step
        checks[f"gradients{suffix}"] = matched.check_training(ours, theirs, batch)
    theirs.train()  # LPIPS included: as it is when Lightning trains it, with dropout
    for suffix, step in phases.items():
        ours.global_step = theirs.global_step = step
        works = {
            "peer": partial(matched.lightning_1_step, theirs, batch),
            f"training step{suffix}": partial(matched.our_step, ours, batch),
            f"training step{suffix}, shared_forward": partial(matched.our_step, ours, batch, shared_forward=True),
        }
        timings += time_against_peer(works, options)
    return timings, checks


def time_autoencoder(peer: Peer, options: argparse.Namespace) -> tuple[list[Timing], dict]:
    """Encoding (quantization included) and decoding one image, by the published network."""
    ch, size = (32, 64) if options.quick else (128, 256)
    x = (torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1).to(options.device)
    ours, theirs = (model.eval() for model in matched.matched_pair(peer, matched.f16(ch, adversarial=False), x))
    ours_last = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    x_last = x.to(memory_format=torch.channels_last)
    checks = {
        "autoencoder in float64": matched.check_in_float64(ours, theirs, x),
        "autoencoder": matched.check_autoencoder(ours, theirs, x),
        "autoencoder, channels_last": matched.check_autoencoder(ours_last, theirs, x_last),
    }
    timings = []
    with torch.no_grad():
        quant = theirs.encode(x)[0]
        quant_last = quant.to(memory_format=torch.channels_last)
        for method, given, given_last in (("encode", x, x_last), ("decode", quant, quant_last)):
            works = {
                "peer": partial(getattr(theirs, method), given),
                method: partial(getattr(ours, method), given),
                f"{method}, channels_last": partial(getattr(ours_last, method), given_last),
            }
            timings += time_against_peer(works, options)
    return timings, checks


def time_search(peer: Peer, options: argparse.Namespace) -> tuple[list[Timing], dict]:
    """The quantizers' forward passes: search, look-up, loss."""
    timings = []
    for rows in (512,) if options.quick else MEMORY_LIMITS:
        z, ours, theirs = quantizers(peer, rows, torch.device(options.device))
        with torch.no_grad():
            assert torch.equal(ours(z)[2][2], theirs(z)[2][2]), "the codes differ"
            works = {"peer": partial(theirs, z), f"codebook search, {rows} rows": partial(ours, z)}
            timings += time_against_peer(works, options)
    return timings, {"codebook search": "the same codes"}


def quantizers(peer: Peer, rows: int, device: torch.device) -> tuple[torch.Tensor, VectorQuantizer2, torch.nn.Module]:
    """Latents (rows/256, 256, 16, 16), and ours and the peer's quantizer with the same codebook."""
    torch.manual_seed(3)
    z = torch.randn(rows // 256, DIM, 16, 16, device=device)
    ours = VectorQuantizer2(N_CODES, DIM, beta=0.25).to(device)
    torch.nn.init.normal_(ours.embedding.weight)
    theirs = peer.get("taming.modules.vqvae.quantize.VectorQuantizer2")(N_CODES, DIM, beta=0.25).to(device)
    theirs.load_state_dict(ours.state_dict())
    return z, ours, theirs


def time_against_peer(works: dict[str, Callable[[], object]], options: argparse.Namespace) -> list[Timing]:
    """One row for each of `works` but the first, the peer's."""
    times = interleaved(works, options.rounds, options.device)
    peer_times = times.pop("peer")
    targets = {} if options.quick or options.device.type != "cpu" else TARGETS
    return [compare(name, peer_times, ours, targets.get(name)) for name, ours in times.items()]


def search_memories(peer: Peer, options: argparse.Namespace) -> list[Memory]:
    """Peak extra memory of the same passes, on the CPU each in a fresh process."""
    results = []
    for rows, limit in {512: None}.items() if options.quick else MEMORY_LIMITS.items():
        peaks = {}
        for side in ("peer", "ours"):
            job = partial(search_memory, peer.folder, side, rows, options.device, options.threads)
            peaks[side] = job() if options.device.type == "cuda" else in_fresh_process(job)
        limit = limit if options.device.type == "cpu" else None
        results.append(Memory(f"codebook search, {rows} rows: extra memory", **peaks, limit=limit))
    return results


def in_fresh_process(job: Callable[[], int | None]) -> int | None:
    """The result of `job()` in a new interpreter whose allocator returns every larger block at once."""
    with (
        patch.dict(os.environ, {"MALLOC_MMAP_THRESHOLD_": "65536"}),
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        return pool.apply(job)


@torch.no_grad()
def search_memory(folder: Path, side: str, rows: int, device: torch.device, threads: int) -> int | None:
    """Bytes that one search needs beyond latents and codebook; a tiny one before it takes one-off costs out."""
    torch.set_num_threads(threads)
    z, ours, theirs = quantizers(Peer(folder), rows, device)
    quantizer = ours if side == "ours" else theirs
    quantizer(z[:1, :, :1, :1])
    return peak_memory(partial(quantizer, z), device)


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    start(options)
    timings, checks = [], {}
    with installed(options.peer) as peer:
        record = circumstances(options.device, f"{PACKAGE} {VERSION}")
        for part in (time_search, time_autoencoder, time_training):
            rows, agreement = part(peer, options)
            timings += rows
            checks |= agreement
            print(format_table(rows, []), flush=True)
        memories = search_memories(peer, options)
    print(format_table([], memories))
    if not options.quick:
        path = options.results / f"first_stage_{options.device.type}.json"
        write_json(path, record | {"checks": checks, "timings": timings, "memory": memories})
        print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(run_command(main))
