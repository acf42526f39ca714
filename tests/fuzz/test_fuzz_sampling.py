"""Orders, windows and filters of any size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taming.modules.transformer import permuter
from taming.modules.transformer.filters import top_k_logits, top_k_top_p_filtering
from taming.sampling.windows import Windows, cells_to_sample, wavefront

bounded = settings(derandomize=True, max_examples=40)

ORDERS = [kind for kind in vars(permuter).values() if isinstance(kind, type) and issubclass(kind, permuter._Order)]


@pytest.mark.parametrize("kind", [kind for kind in ORDERS if kind is not permuter._Order])
@settings(derandomize=True, max_examples=20)
@given(height=st.integers(0, 20), width=st.none() | st.integers(1, 20), features=st.integers(0, 2))
def test_every_order_is_a_bijection_or_says_for_which_grids_it_is_one(kind, height, width, features):
    width = height if width is None else width
    try:
        order = kind(height, width)
    except permuter.GridError as error:
        assert f"{height} x {width}" in str(error)
        return
    n = height * width
    assert sorted(order.forward_shuffle_idx.tolist()) == list(range(n))
    x = torch.arange(2 * n * 3**features).view(2, n, *[3] * features)
    assert torch.equal(order(order(x), reverse=True), x) and torch.equal(order(order(x, reverse=True)), x)
    with pytest.raises(ValueError, match="positions"):
        order(x[:, 1:] if n else torch.zeros(1, 1))


@st.composite
def windows(draw):
    window = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    grid = tuple(draw(st.integers(side, 14)) for side in window)
    return Windows(grid, window, tuple(draw(st.integers(0, side - 1)) for side in window))


@bounded
@given(windows(), st.randoms(use_true_random=False))
def test_each_cell_is_sampled_once_and_after_what_it_reads(windows, random):
    cells = list(windows.cells())
    assert len(cells) == len(set(cells)) == windows.grid[0] * windows.grid[1]
    chosen = [cell for cell in cells if random.random() < 0.7]
    steps = wavefront(windows, chosen)
    assert sorted(cell for step in steps for cell in step) == sorted(chosen)
    assert all(steps) and len(steps) <= windows.n_steps()
    when = {cell: number for number, step in enumerate(steps) for cell in step}
    for cell in chosen:
        read = {(i, j) for rows, columns in windows.reads(cell) for i in indices(rows) for j in indices(columns)}
        assert all(when[other] < when[cell] for other in read & when.keys())


def indices(part):
    return range(part.start, part.stop)


@bounded
@given(windows(), st.randoms(use_true_random=False))
def test_what_is_kept_is_not_sampled(windows, random):
    height, width = (random.randint(1, side) for side in windows.grid)
    kept = np.array([[random.random() < 0.5 for _ in range(windows.grid[1])] for _ in range(windows.grid[0])])
    sampled = set(cells_to_sample(windows, (height, width), kept))
    inside = {(i, j) for i in range(height) for j in range(width)}
    assert sampled & inside == {cell for cell in inside if not kept[cell]}


LOGITS = st.lists(st.integers(-60, 60), min_size=1, max_size=16, unique=True)
FILTERS = {"top_k": st.integers(0, 18), "top_p": st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0])}


def kept(logits, **options):
    filtered = top_k_top_p_filtering(logits, **options)
    mask = filtered > -torch.inf
    assert torch.equal(filtered[mask], logits[mask])
    return mask


@settings(bounded, max_examples=100)
@given(LOGITS, st.fixed_dictionaries(FILTERS), st.integers(-50, 50), st.randoms(use_true_random=False))
def test_what_the_filters_keep(values, options, shift, random):
    logits = torch.tensor([values], dtype=torch.float64) / 8
    mask = kept(logits, **options)
    n = int(mask.sum())
    assert 1 <= n <= (options["top_k"] or len(values))
    assert logits[mask].min() > logits.masked_fill(mask, -torch.inf).max()  # the largest ones
    assert torch.equal(kept(logits + shift, **options), mask)
    order = random.sample(range(len(values)), len(values))
    assert torch.equal(kept(logits[:, order], **options), mask[:, order])
    assert torch.equal(kept(logits.masked_fill(~mask, -torch.inf), **options | {"top_p": 1.0}), mask)


@bounded
@given(LOGITS, st.integers(1, 18), st.integers(0, 5), st.sampled_from([(0.1, 0.5), (0.5, 0.9), (0.9, 1.0)]))
def test_a_wider_filter_keeps_more(values, k, more, masses):
    logits = torch.tensor([values], dtype=torch.float64) / 8
    low, high = masses
    assert not (kept(logits, top_k=k) & ~kept(logits, top_k=k + more)).any()
    assert not (kept(logits, top_p=low) & ~kept(logits, top_p=high)).any()
    assert torch.equal(top_k_logits(logits, k) > -torch.inf, kept(logits, top_k=k))
