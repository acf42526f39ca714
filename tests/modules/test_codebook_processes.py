"""Two processes keep one codebook: their EMA quantizers and counts are those of one process with both batches."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from taming.modules.processes import all_reduce_sum
from taming.modules.vqvae.codebook import usage_of_counts
from taming.modules.vqvae.quantize import EMAVectorQuantizer

CODES, STEPS = 16, 3


def latents(rank, step):
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(10 * step + rank))


def quantizer(**options):
    torch.manual_seed(0)
    return EMAVectorQuantizer(CODES, 4, beta=0.25, decay=0.9, **options)


def work(rank, folder):
    """One of the two processes: a few steps, then what it ended with goes to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    plain, revived = quantizer(), quantizer(kmeans_init=True, revive_threshold=1.0)
    counts = torch.zeros(CODES, dtype=torch.int64)
    for step in range(STEPS):
        torch.manual_seed(rank)  # random choices differ between processes unless one of them decides
        counts += torch.bincount(plain(latents(rank, step))[2][2], minlength=CODES)
        revived(latents(rank, step))
    state = {"plain": plain.state_dict(), "revived": revived.state_dict(), "counts": all_reduce_sum(counts)}
    torch.save(state, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_processes_end_with_the_same_codebook(states):
    for kind in ("plain", "revived"):
        first, second = (state[kind] for state in states)
        assert all(torch.equal(value, second[name]) for name, value in first.items()), kind
    assert torch.equal(states[0]["counts"], states[1]["counts"])


def test_it_is_that_of_one_process_with_both_batches(states):
    """Decision D21."""
    single, counts = quantizer(), torch.zeros(CODES, dtype=torch.int64)
    for step in range(STEPS):
        both = torch.cat([latents(rank, step) for rank in range(2)])
        counts += torch.bincount(single(both)[2][2], minlength=CODES)
    for name, value in single.state_dict().items():
        assert torch.allclose(states[0]["plain"][name], value, atol=1e-5), name
    assert torch.equal(states[0]["counts"], counts)
    assert usage_of_counts(counts) > 0.5
