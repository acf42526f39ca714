"""Windowed sampling: the fast ways against the plain one, conditioning, padding, completion, random numbers."""

import pytest
import torch
from tiny_windowed import N_CODES, SEQUENCE, SIDE, SPATIAL, model_of, shuffled_objects, tokens_of, uniforms_of

from taming.models.cond_transformer import Net2NetTransformer
from taming.modules.transformer.permuter import AbstractPermuter
from taming.sampling import window_engines
from taming.sampling.decode import decode, sample_uniforms
from taming.sampling.window_cache import WindowCaches
from taming.sampling.windowed import sample_windowed


def both(model, c, shape, *, batch_size, **options):
    """The grid on which the fast and the plain engine agree."""
    options = {"uniforms": uniforms_of(batch_size, *shape), "top_k": 9, "top_p": 0.9, "temperature": 1.2} | options
    plain = sample_windowed(model, c, shape, schedule="sequential", **options)
    assert plain.shape == (batch_size, *shape) and plain.dtype == torch.int64
    assert plain.min() >= 0 and plain.max() < N_CODES
    assert torch.equal(sample_windowed(model, c, shape, **options), plain)
    return plain


@pytest.mark.parametrize("shape", [(4, 4), (9, 4), (4, 11), (9, 10)])
@pytest.mark.parametrize("kind, batch_size", [("spatial", 1), ("spatial", 3), ("sequence", 3), ("start token", 1)])
def test_agrees_with_the_plain_engine(kind, shape, batch_size):
    if kind == "spatial":
        both(model_of(SPATIAL), tokens_of(batch_size, *shape), shape, batch_size=batch_size)
    elif kind == "sequence":
        both(model_of(), tokens_of(batch_size, 3), shape, batch_size=batch_size)
    else:
        both(model_of(SIDE**2), torch.zeros(batch_size, 1, dtype=torch.int64), shape, batch_size=batch_size)


@pytest.mark.parametrize("kind", ["spatial", "sequence"])
def test_agrees_greedily(kind):
    model, c = (model_of(SPATIAL), tokens_of(2, 8, 9)) if kind == "spatial" else (model_of(), tokens_of(2, 3))
    grid = both(model, c, (8, 9), batch_size=2, sample=False)
    assert len(grid.unique()) > N_CODES // 2


@pytest.mark.parametrize("n_unmasked", [1, 3])
def test_agrees_with_an_unmasked_prefix(n_unmasked):
    both(model_of(n_unmasked=n_unmasked), tokens_of(2, 3), (7, 8), batch_size=2)


@pytest.mark.parametrize(
    "window, anchor", [((2, 5), None), ((5, 2), (0, 1)), (3, 0), (3, 2), ((1, 4), None), (1, None)]
)
def test_agrees_for_any_window_and_anchor(window, anchor):
    both(model_of(), tokens_of(2, 3), (8, 9), batch_size=2, window=window, anchor=anchor)


@pytest.mark.parametrize("max_cache_bytes", [0, 20_000])
def test_agrees_with_little_memory(max_cache_bytes, monkeypatch):
    most = []

    class Watched(WindowCaches):
        def take(self, key):
            taken = super().take(key)
            most.append(self.held_bytes)
            return taken

    monkeypatch.setattr(window_engines, "WindowCaches", Watched)
    c = tokens_of(2, 3)
    both(model_of(), c, (8, 9), batch_size=2)
    unlimited = max(most)
    most.clear()
    both(model_of(), c, (8, 9), batch_size=2, max_cache_bytes=max_cache_bytes)
    assert max(most) <= max_cache_bytes < unlimited


def test_no_cache_outlives_its_last_reader(monkeypatch):
    made = []

    class Watched(WindowCaches):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(window_engines, "WindowCaches", Watched)
    sample_windowed(model_of(SPATIAL), tokens_of(1, 8, 9), (8, 9), sample=False)
    assert len(made) == 1 and made[0].held_bytes == 0


def test_nothing_is_computed_twice_while_a_window_stays(monkeypatch):
    """Positions that the transformer reads: those of the longest sequence of every window."""
    read = []

    def count(gpt, tokens, caches):
        read.append(tokens.shape[1] * len(caches))
        return window_cache_read(gpt, tokens, caches)

    window_cache_read = window_engines.read_windows
    monkeypatch.setattr(window_engines, "read_windows", count)
    sample_windowed(model_of(), tokens_of(1, 3), (7, 9), sample=False)
    rows, columns = (dict.fromkeys(range(length - SIDE + 1)) for length in (7, 9))
    for ends, length in ((rows, 7), (columns, 9)):
        for place in range(length):  # the last row or column whose window begins at the same place
            ends[min(max(place - 2, 0), length - SIDE)] = place
    longest = [3 + SIDE * (i - r0) + j - c0 for r0, i in rows.items() for c0, j in columns.items()]
    assert sum(read) == sum(longest)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_when_every_window_has_its_own_conditioning(seed):
    model, uniforms = model_of(), uniforms_of(2, 7, 8)
    options = {"uniforms": uniforms, "window": SIDE, "anchor": 1}
    plain = sample_windowed(model, None, (7, 8), cond_fn=shuffled_objects(seed), schedule="sequential", **options)
    assert torch.equal(sample_windowed(model, None, (7, 8), cond_fn=shuffled_objects(seed), **options), plain)
    other = sample_windowed(model, None, (7, 8), cond_fn=shuffled_objects(seed + 10), **options)
    assert not torch.equal(other, plain)


def test_calls_for_conditioning_come_in_raster_order():
    calls = []

    def cond_fn(*cell_and_origin):
        calls.append(cell_and_origin)
        return torch.zeros(1, 3, dtype=torch.int64)

    sample_windowed(model_of(), None, (6, 5), cond_fn=cond_fn, sample=False)
    origins = {place: min(max(place - 2, 0), 2) for place in range(6)}
    assert calls == [(i, j, origins[i], min(origins[j], 1)) for i in range(6) for j in range(5)]
    calls.clear()
    kept = {"z_init": torch.zeros(1, 6, 5, dtype=torch.int64), "start": 13, "window": SIDE}
    sample_windowed(model_of(), None, (6, 5), cond_fn=cond_fn, sample=False, **kept)
    assert calls[0] == (2, 3, 0, 1) and len(calls) == 17


def test_a_function_that_crops_is_spatial_conditioning():
    model, c = model_of(SPATIAL), tokens_of(2, 7, 9)
    cropped = sample_windowed(
        model, None, (7, 9), sample=False, cond_fn=lambda i, j, r0, c0: c[:, r0 : r0 + 4, c0 : c0 + 4].flatten(1)
    )
    assert torch.equal(cropped, sample_windowed(model, c, (7, 9), sample=False))


def test_a_function_may_use_one_buffer():
    buffer = torch.zeros(1, 3, dtype=torch.int64)

    def in_place(i, j, r0, c0):
        buffer.fill_((3 * i + j) % 7)
        return buffer

    fresh = sample_windowed(
        model_of(), None, (5, 6), sample=False, cond_fn=lambda i, j, r0, c0: torch.full((1, 3), (3 * i + j) % 7)
    )
    assert torch.equal(sample_windowed(model_of(), None, (5, 6), sample=False, cond_fn=in_place), fresh)


@pytest.mark.parametrize("fine", [2, 3])
def test_finer_conditioning_grids(fine):
    """Every cell lies over fine x fine tokens of the conditioning."""
    model, c = model_of(2 * SPATIAL), tokens_of(1, 6 * fine, 7 * fine)
    result = both(model, c, (6, 7), batch_size=1, window=2)
    c[:, -fine:] = (c[:, -fine:] + 1) % N_CODES
    changed = both(model, c, (6, 7), batch_size=1, window=2)
    assert torch.equal(result[:, :5], changed[:, :5]) and not torch.equal(result[:, 5], changed[:, 5])


def test_coarser_conditioning_of_one_window():
    """Half as many rows and columns are enough while the window stays."""
    both(model_of(SIDE**2 + SIDE**2 // 4 - 1), tokens_of(2, 2, 2), (4, 4), batch_size=2)
    with pytest.raises(
        ValueError, match="conditioning grid of 4 x 4 does not match a grid of 8 x 8: windows of 4 rows"
    ):
        sample_windowed(model_of(SIDE**2 + SIDE**2 // 4 - 1), tokens_of(1, 4, 4), (8, 8), sample=False)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 9), (9, 3), (4, 1)])
def test_grids_smaller_than_the_window_are_its_upper_left_part(shape):
    """Edges of the conditioning are repeated, and the padding has random numbers of its own."""
    both(model_of(), tokens_of(2, 3), shape, batch_size=2)
    c = tokens_of(1, *shape)
    small = both(model_of(SPATIAL), c, shape, batch_size=1)
    assert small.shape == (1, *shape)
    padded = c
    for axis, length in enumerate(shape, start=1):
        padded = padded.index_select(axis, torch.arange(max(length, SIDE)).clamp(max=length - 1))
    large = sample_windowed(model_of(SPATIAL), padded, tuple(padded.shape[1:]), sample=False)
    assert torch.equal(sample_windowed(model_of(SPATIAL), c, shape, sample=False), large[:, : shape[0], : shape[1]])


def test_unread_padding_costs_nothing():
    sequences = []
    gpt = model_of().transformer
    handle = gpt.register_forward_hook(lambda *_: sequences.append(1))
    sample_windowed(model_of(), tokens_of(1, 3), (2, 1), sample=False, schedule="sequential")
    handle.remove()
    assert len(sequences) == 5  # row 0 with its padding, and the one cell of row 1


@pytest.mark.parametrize("spatial", [True, False])
def test_one_window_is_plain_decoding(spatial):
    model = model_of(SPATIAL if spatial else SEQUENCE)
    c, uniforms = tokens_of(2, SIDE, SIDE) if spatial else tokens_of(2, 3), uniforms_of(2, SIDE, SIDE)
    expected = decode(model.transformer, c.flatten(1), SIDE**2, uniforms=uniforms.flatten(1), n_tokens=N_CODES)
    grid = sample_windowed(model, c, (SIDE, SIDE), uniforms=uniforms)
    assert torch.equal(grid.flatten(1), expected)
    watched = sample_windowed(model, c, (SIDE, SIDE), uniforms=uniforms, callback=lambda step: None)
    assert torch.equal(watched, grid)  # which takes the other engine


@pytest.mark.parametrize("batch_size", [1, 2])
def test_seeds_name_samples(batch_size):
    model, c = model_of(), tokens_of(2, 3)
    uniforms = torch.stack([sample_uniforms(seed, [(None, 0)], 42)[0].view(6, 7) for seed in (8, 9)])
    expected = sample_windowed(model, c, (6, 7), uniforms=uniforms)[:batch_size]
    seeds = [8, 9][:batch_size]
    assert torch.equal(sample_windowed(model, c[:batch_size], (6, 7), generator=seeds), expected)


def test_generators_repeat():
    grids = [
        sample_windowed(model_of(), tokens_of(2, 3), (6, 7), generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(grids[0], grids[1]) and not torch.equal(grids[0], grids[2])


def test_top_p_none_is_off():
    c, uniforms = tokens_of(1, 3), uniforms_of(1, 5, 5)
    grids = [sample_windowed(model_of(), c, (5, 5), uniforms=uniforms, top_p=top_p) for top_p in (None, 1.0)]
    assert torch.equal(*grids)


@pytest.mark.parametrize("shape, start", [((7, 9), 31), ((8, 9), 36), ((9, 4), 1), ((5, 5), 24), ((3, 2), 3)])
def test_completion_fills_every_cell_behind_start(shape, start):
    z_init, c = tokens_of(2, *shape, seed=1), tokens_of(2, 3)
    grid = both(model_of(), c, shape, batch_size=2, z_init=z_init, start=start)
    assert torch.equal(grid.flatten(1)[:, :start], z_init.flatten(1)[:, :start])
    other = z_init.clone()
    other.flatten(1)[:, start:] = 0
    assert torch.equal(both(model_of(), c, shape, batch_size=2, z_init=other, start=start), grid)


@pytest.mark.parametrize("per_sample", [False, True])
def test_inpainting_keeps_and_reads_what_the_mask_holds(per_sample):
    shape, c = (9, 10), tokens_of(3, 3)
    z_init, mask = tokens_of(3, *shape, seed=1), tokens_of(3, *shape, high=2).bool()
    mask[:, 3] = True  # a whole row
    mask = mask if per_sample else mask[0]
    grid = both(model_of(), c, shape, batch_size=3, z_init=z_init, mask=mask)
    kept = mask.expand(3, *shape)
    assert torch.equal(grid[kept], z_init[kept]) and not torch.equal(grid[~kept], z_init[~kept])
    changed = z_init.clone()
    changed[:, 3] = (changed[:, 3] + 1) % N_CODES
    assert not torch.equal(both(model_of(), c, shape, batch_size=3, z_init=changed, mask=mask)[:, 4], grid[:, 4])


def test_samples_with_masks_of_their_own_do_not_touch_each_other():
    shape, c, z_init = (7, 8), tokens_of(2, 3), tokens_of(2, 7, 8, seed=1)
    mask, uniforms = tokens_of(2, 7, 8, high=2).bool(), uniforms_of(2, 7, 8)
    together = sample_windowed(model_of(), c, shape, z_init=z_init, mask=mask, uniforms=uniforms)
    for k in range(2):
        alone = {"z_init": z_init[k : k + 1], "mask": mask[k], "uniforms": uniforms[k : k + 1]}
        assert torch.equal(sample_windowed(model_of(), c[k : k + 1], shape, **alone)[0], together[k])


def test_kept_cells_cost_nothing():
    read = []
    handle = model_of().transformer.register_forward_hook(lambda *_: read.append(1))
    options = {"z_init": tokens_of(1, 8, 8), "sample": False, "schedule": "sequential"}
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[2:5, 1:3] = False
    sample_windowed(model_of(), tokens_of(1, 3), (8, 8), mask=mask, **options)
    handle.remove()
    assert len(read) == 6


def test_everything_kept():
    z_init = tokens_of(2, 6, 5)
    grid = sample_windowed(model_of(), tokens_of(2, 3), (6, 5), z_init=z_init, start=30)
    assert torch.equal(grid, z_init) and grid.data_ptr() != z_init.data_ptr()


@pytest.mark.parametrize("schedule", ["wavefront", "sequential"])
@pytest.mark.parametrize("shape", [(7, 9), (3, 3)])
def test_callback_sees_every_cell_once_after_what_it_reads(schedule, shape):
    steps, model, c = [], model_of(), tokens_of(2, 3)
    total = shape[0] * shape[1] - 5

    def callback(step):
        i, j = step.cell
        assert step.index == i * shape[1] + j and step.n_done == len(steps) + 1 and step.n_total == total
        assert step.crop == (i - step.local[0], i - step.local[0] + 4, j - step.local[1], j - step.local[1] + 4)
        assert step.grid.shape == (2, *shape)
        steps.append((step.index, step.grid[:, i, j].clone()))

    options = {"z_init": tokens_of(2, *shape), "start": 5, "sample": False, "schedule": schedule}
    grid = sample_windowed(model, c, shape, callback=callback, **options)
    assert sorted(index for index, _ in steps) == list(range(5, shape[0] * shape[1]))
    assert all(torch.equal(tokens, grid.flatten(1)[:, index]) for index, tokens in steps)
    if schedule == "sequential":
        assert [index for index, _ in steps] == list(range(5, shape[0] * shape[1]))


class Backwards(AbstractPermuter):
    """From the last cell to the first."""

    def forward(self, x, reverse=False):
        return x.flip(1)


def test_permuters_order_grids_of_one_window():
    model = model_of()
    permuted = Net2NetTransformer.__new__(Net2NetTransformer)
    permuted.__dict__.update(model.__dict__)
    permuted._modules = model._modules | {"permuter": Backwards()}
    c, z_init = tokens_of(2, 3), tokens_of(2, SIDE, SIDE)
    options = {"z_init": z_init, "start": 5, "sample": False}
    expected = decode(
        model.transformer, torch.cat((c, z_init.flatten(1)[:, :5]), dim=1), 11, sample=False, n_tokens=N_CODES
    )
    assert torch.equal(sample_windowed(permuted, c, (SIDE, SIDE), **options).flatten(1)[:, 5:], expected)
    with pytest.raises(ValueError, match="Backwards orders whole grids: with it 5 x 4 must be the window, 4 x 4"):
        sample_windowed(permuted, c, (5, 4), sample=False)
