"""Two processes keep one codebook: their quantizers, counts and ActNorms are those of one process with both batches."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from taming.modules.processes import all_reduce_sum, gather_rows
from taming.modules.util import ActNorm
from taming.modules.vqvae.codebook import usage_of_counts
from taming.modules.vqvae.library import LibraryQuantizer
from taming.modules.vqvae.quantize import EMAVectorQuantizer

CODES, STEPS = 16, 3


def latents(rank, step):
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(10 * step + rank))


def quantizer(**options):
    torch.manual_seed(0)
    return EMAVectorQuantizer(CODES, 4, beta=0.25, decay=0.9, **options)


def modules():
    """Those that look at the batches of all processes, by name."""
    torch.manual_seed(0)
    return {
        "plain": quantizer(),
        "revived": quantizer(kmeans_init=True, revive_threshold=1.0),
        "library": LibraryQuantizer("VectorQuantize", CODES, 4, threshold_ema_dead_code=0),
        "library started": LibraryQuantizer("VectorQuantize", CODES, 4, kmeans_init=True, threshold_ema_dead_code=1),
        "actnorm": ActNorm(4),
    }


def work(rank, folder):
    """One of the two processes: a few steps, then what it ended with goes to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    trained = modules()
    counts = torch.zeros(CODES, dtype=torch.int64)
    for step in range(STEPS):
        torch.manual_seed(rank)  # random choices differ between processes unless one of them decides
        for module in trained.values():
            module(latents(rank, step))
        counts += torch.bincount(trained["plain"](latents(rank, step))[2][2], minlength=CODES)
    states = {name: module.state_dict() for name, module in trained.items()}
    rows = gather_rows(torch.full((1 + rank, 2), float(rank)))
    torch.save({**states, "counts": all_reduce_sum(counts), "rows": rows}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_processes_end_with_the_same_codebook(states):
    for kind in modules():
        first, second = (state[kind] for state in states)
        assert all(torch.equal(value, second[name]) for name, value in first.items()), kind
    assert torch.equal(states[0]["counts"], states[1]["counts"])


@pytest.mark.parametrize("kind", ["plain", "revived", "library", "actnorm"])
def test_it_is_that_of_one_process_with_both_batches(states, kind):
    """Decision D21, and what random choices are made from; `library started` draws in its own way."""
    single, counts = modules()[kind], torch.zeros(CODES, dtype=torch.int64)
    for step in range(STEPS):
        both = torch.cat([latents(rank, step) for rank in range(2)])
        torch.manual_seed(0)
        single(both)
        if kind == "plain":
            counts += torch.bincount(single(both)[2][2], minlength=CODES)
    for name, value in single.state_dict().items():
        assert torch.allclose(states[0][kind][name], value, atol=1e-5), name
    if kind == "plain":
        assert torch.equal(states[0]["counts"], counts)
        assert usage_of_counts(counts) > 0.5


def test_rows_of_all_processes_stand_in_their_order(states):
    assert states[0]["rows"].tolist() == states[1]["rows"].tolist() == [[0, 0], [1, 1], [1, 1]]
