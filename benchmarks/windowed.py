"""Windowed sampling against the published loop, measured in one run.

    python benchmarks/windowed.py                  # CPU, one thread; about ten minutes
    python benchmarks/windowed.py --device cuda    # whole grids of 64 x 64
    python benchmarks/windowed.py --quick          # a small transformer, few rounds, no file

Both sides get the same weights and must choose the same tokens before anything is timed. Prints a table and writes
benchmarks/results/windowed_<device>.json. See benchmarks/README.md for what is measured how.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from floor import Roof, measure_roof  # noqa: E402
from measure import Timing, add_options, circumstances, compare, format_table, interleaved, start, write_json  # noqa: E402
from peer import PACKAGE, VERSION, Peer, installed  # noqa: E402

from taming.cli import run_command  # noqa: E402
from taming.models.cond_transformer import Net2NetTransformer  # noqa: E402
from taming.sampling.windowed import sample_windowed  # noqa: E402
from taming.sampling.windows import Cell, Windows, wavefront  # noqa: E402

SIDE, VOCABULARY, TOP_K = 16, 1024, 100
PEER_CELLS = 4
"""Cells that the peer samples in one measurement: all of its cells cost the same, a whole window each."""
WHOLE, ROWS = "whole 16 x 16 grid", "interior rows of 32 x 32, per token"
TARGETS = {WHOLE: 25.0, ROWS: 3.5}
"""Least ratios on one CPU thread, at full size."""
STEP_SIZES = ((16, 16), (32, 32), (42, 64), (64, 64), (128, 128))


@dataclass(frozen=True)
class Task:
    """Cells of a grid (H, W) to sample, the others being known; `per` is how many of them the time is given for."""

    name: str
    shape: tuple[int, int]
    cells: Sequence[Cell]
    per: int

    @property
    def windows(self) -> Windows:
        return Windows(self.shape, (SIDE, SIDE), (SIDE // 2, SIDE // 2))


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare windowed sampling with the published loop.")
    add_options(parser, rounds=7)
    return parser


def whole(name: str, side: int) -> Task:
    windows = Windows((side, side), (SIDE, SIDE), (SIDE // 2, SIDE // 2))
    return Task(name, (side, side), list(windows.cells()), per=side * side)


def interior_rows() -> Task:
    """Three rows whose windows no other row shares."""
    return Task(ROWS, (32, 32), [(i, j) for i in (12, 13, 14) for j in range(32)], per=1)


def models(peer: Peer, layers: int, width: int, device: torch.device) -> tuple[Net2NetTransformer, nn.Module]:
    """Our second stage, and the peer's GPT with the weights of ours; their first stage is of no matter here."""
    config = {
        "vocab_size": VOCABULARY,
        "block_size": 2 * SIDE * SIDE,
        "n_layer": layers,
        "n_head": width // 64,
        "n_embd": width,
    }
    torch.manual_seed(0)
    encoder = {"double_z": False, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32}
    encoder |= {"ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    codes = {"n_embed": VOCABULARY, "embed_dim": 4, "lossconfig": {"target": "torch.nn.Identity"}}
    ours = Net2NetTransformer(
        transformer_config={"target": "taming.modules.transformer.mingpt.GPT", "params": config},
        first_stage_config={"target": "taming.models.vqgan.VQModel", "params": codes | {"ddconfig": encoder}},
        cond_stage_config="__is_first_stage__",
    )
    torch.nn.init.normal_(ours.transformer.pos_emb, std=0.02)
    for block in ours.transformer.blocks:  # as after training: without it all logits are alike
        torch.nn.init.normal_(block.mlp[2].weight, std=0.2)
    theirs = peer.get("taming.modules.transformer.mingpt.GPT")(**config)
    missing = theirs.load_state_dict(ours.transformer.state_dict(), strict=False).missing_keys
    assert all(key.endswith("attn.mask") for key in missing), missing
    return ours.eval().to(device), theirs.eval().to(device)


@torch.no_grad()
def published_loop(gpt: nn.Module, c: Tensor, z: Tensor, windows: Windows, cells: Sequence[Cell], *, sample: bool):
    """The published scripts' way, which overwrites `cells` of z (1, H, W) given c (1, H, W).

    Every cell reads its whole window, tokens to come included, and takes one row of the logits.
    """
    for cell in cells:
        r0, r1, c0, c1 = windows.crop(cell)
        condition, patch = (grid[:, r0:r1, c0:c1].reshape(1, -1) for grid in (c, z))  # (1, h, w) -> (1, h*w)
        logits, _ = gpt(torch.cat((condition, patch), dim=1)[:, :-1])
        logits = logits[:, condition.shape[1] - 1 + windows.n_read(cell)]
        if sample:
            threshold = logits.topk(TOP_K).values[:, -1:]
            probabilities = logits.masked_fill(logits < threshold, -torch.inf).softmax(dim=-1)
            z[:, cell[0], cell[1]] = torch.multinomial(probabilities, 1)[:, 0]
        else:
            z[:, cell[0], cell[1]] = logits.argmax(dim=-1)


def our_way(model: Net2NetTransformer, c: Tensor, z: Tensor, task: Task, *, sample: bool) -> Tensor:
    mask = torch.ones(task.shape, dtype=torch.bool)
    mask[tuple(torch.tensor(task.cells).T)] = False
    return sample_windowed(model, c, task.shape, z_init=z, mask=mask, top_k=TOP_K, sample=sample, window=SIDE)


def grids(shape: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Conditioning and tokens (1, H, W)."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randint(VOCABULARY, (1, *shape), generator=generator).to(device) for _ in range(2))


def check_small(peer: Peer, device: torch.device) -> str:
    """All tokens of a grid that the windows move over, by a small transformer."""
    ours, theirs = models(peer, 2, 128, device)
    task = whole("", 19)
    c, z = grids(task.shape, device)
    expected = z.clone()
    published_loop(theirs, c, expected, task.windows, task.cells, sample=False)
    assert torch.equal(our_way(ours, c, z, task, sample=False), expected), "the tokens differ"
    return f"the same {len(task.cells)} greedy tokens, {len(expected.unique())} different ones"


def check_cells(ours: Net2NetTransformer, theirs: nn.Module, task: Task, device: torch.device) -> str:
    """Some of our greedy tokens at full size; all that the peer reads of them is ours."""
    c, z = grids(task.shape, device)
    result = our_way(ours, c, z, task, sample=False)
    cells = peer_cells(task)
    for cell in cells:
        again = result.clone()
        published_loop(theirs, c, again, task.windows, [cell], sample=False)
        assert torch.equal(again, result), f"the token of {cell} differs"
    return f"the same greedy tokens at {len(cells)} cells"


def peer_cells(task: Task) -> list[Cell]:
    """Cells spread over the task."""
    return list(task.cells[len(task.cells) // (2 * PEER_CELLS) :: len(task.cells) // PEER_CELLS])[:PEER_CELLS]


def time_task(ours: Net2NetTransformer, theirs: nn.Module, task: Task, name: str, options) -> Timing:
    """Seconds for `task.per` tokens of both sides."""
    c, z = grids(task.shape, options.device)
    scratch, cells = z.clone(), peer_cells(task)
    works = {
        "peer": partial(published_loop, theirs, c, scratch, task.windows, cells, sample=True),
        "ours": partial(our_way, ours, c, z, task, sample=True),
    }
    times = interleaved(works, options.rounds, options.device)
    peer_times, our_times = (
        [seconds * task.per / count for seconds in times[side]]
        for side, count in (("peer", len(cells)), ("ours", len(task.cells)))
    )
    targets = {} if options.quick or options.device.type != "cpu" else TARGETS
    return compare(name, peer_times, our_times, targets.get(task.name))


def least_seconds(task: Task, ours: Net2NetTransformer, roof: Roof) -> float:
    """The least time for the task by our schedule: per step all weights and the past of its windows are read once, and
    every new position is multiplied with every weight, in the last layer only with those of keys and values.
    """
    config, read, total = ours.transformer.config, {}, 0.0
    width, layers = config.n_embd, config.n_layer
    weights, inner = 12 * layers * width**2 + VOCABULARY * width, (12 * layers - 10) * width**2
    for wave in wavefront(task.windows, task.cells):
        n_bytes, operations = 4 * weights, 0
        for cell in wave:
            origin, length = task.windows.origin(cell), SIDE**2 + task.windows.n_read(cell)
            past = read.get(origin, 0)
            read[origin] = length
            pairs = (length * (length + 1) - past * (past + 1)) // 2  # of a new position and what it looks at
            attention = 2 * width * ((layers - 1) * pairs + length)
            operations += 2 * ((length - past) * inner + weights - inner + attention)
            n_bytes += 4 * 2 * layers * width * past
        total += max(n_bytes / roof.bandwidth, operations / roof.matmul["torch.float32"])
    return total


def sequential_steps() -> dict[str, int]:
    """Steps of the wavefront on whole grids, which the proof in taming/sampling/windows.py foretells."""
    steps = {}
    for height, width in STEP_SIZES:
        windows = Windows((height, width), (SIDE, SIDE), (SIDE // 2, SIDE // 2))
        steps[f"{height}x{width}"] = len(wavefront(windows, list(windows.cells())))
        assert steps[f"{height}x{width}"] == SIDE * (height - 1) + width
    return steps


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    start(options)
    on_cpu = options.device.type == "cpu"
    sizes = ((2, 128),) if options.quick else ((12, 512),) if on_cpu else ((12, 512), (24, 1024))
    tasks = (whole(WHOLE, 16), interior_rows()) if on_cpu or options.quick else (whole("whole 64 x 64 grid", 64),)
    steps, timings, checks, floors = sequential_steps(), [], {}, {}
    for size, n_steps in steps.items():
        print(f"{size:<8}{n_steps:>6} sequential steps")
    with installed(options.peer) as peer:
        roof = measure_roof(options.device)
        record = circumstances(options.device, f"{PACKAGE} {VERSION}") | {"roof": roof}
        checks["2x128"] = check_small(peer, options.device)
        for layers, width in sizes:
            ours, theirs = models(peer, layers, width, options.device)
            for task in tasks:
                name = f"{layers}x{width}: {task.name}"
                checks[name] = check_cells(ours, theirs, task, options.device)
                timings.append(time_task(ours, theirs, task, name, options))
                least = least_seconds(task, ours, roof) * task.per / len(task.cells)
                floors[name] = {"seconds": least, "share": round(least / timings[-1].ours, 3)}
                print(
                    format_table(timings[-1:], []),
                    f"\n  floor {least:.3f}s, of which we reach {floors[name]['share']:.0%}",
                    flush=True,
                )
    if not options.quick:
        path = options.results / f"windowed_{options.device.type}.json"
        write_json(path, record | {"sequential steps": steps, "checks": checks, "floor": floors, "timings": timings})
        print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(run_command(main))
