"""The window rule against the published figures, and the wavefront schedule by brute force."""

import numpy as np
import parity
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taming.sampling.windows import Windows, cells_to_sample, default_side, wavefront


def windows_of(height, width, *, window=16, anchor=8):
    return Windows((height, width), (window, window), (anchor, anchor))


@st.composite
def any_windows(draw, *, least_anchor=0, most=12):
    """A grid up to `most` x `most`, a window of any sides in it, any anchor."""
    window = draw(st.tuples(st.integers(least_anchor + 1, 6), st.integers(least_anchor + 1, 6)))
    grid = tuple(draw(st.integers(side, most)) for side in window)
    return Windows(grid, window, tuple(draw(st.integers(least_anchor, side - 1)) for side in window))


def reads(windows, cell):
    return {(i, j) for rows, columns in windows.reads(cell) for i in span(rows) for j in span(columns)}


def span(part):
    return range(part.start, part.stop)


@pytest.mark.parametrize("name, anchor", [("sample_conditional", 8), ("make_scene_samples", 7)])
def test_published_rule(name, anchor):
    for length, table in parity.cases("windows")[f"window-rule/{name}"]["outputs"].items():
        windows = windows_of(int(length), int(length), anchor=anchor)
        for place, expected in enumerate(table):
            (row, column), local = windows.origin((place, place)), windows.local((place, place))
            assert row == column and local == (place - row, place - row)
            assert [row, local[0]] == expected if isinstance(expected, list) else row == expected


@pytest.mark.parametrize("size", ["16x16", "20x18"])
def test_published_contexts_and_crops_of_scenes(size):
    height, width = map(int, size.split("x"))
    windows = windows_of(height, width, anchor=7)
    for stored in parity.cases("windows")["scene-context"]["outputs"][size]:
        cell = stored["y"], stored["x"]
        r0, r1, c0, c1 = windows.crop(cell)
        crop = [c0 / width, r0 / height, (c1 - c0) / width, (r1 - r0) / height]
        assert crop == pytest.approx(stored["crop"], abs=1e-8)
        assert sorted(i * width + j for i, j in reads(windows, cell)) == stored["context_positions"]


def test_the_example_of_the_app():
    windows = windows_of(42, 64)
    assert windows.local((41, 63)) == (15, 15) and windows.crop((41, 63)) == (26, 42, 48, 64)
    assert len(list(windows.cells())) == 2688


@pytest.mark.parametrize("height, width, steps", [(16, 16, 256), (32, 32, 528), (64, 64, 1072), (128, 128, 2160)])
def test_steps_of_published_sizes(height, width, steps):
    windows = windows_of(height, width)
    assert windows.n_steps() == steps == len(wavefront(windows, list(windows.cells())))


@given(any_windows())
def test_a_cell_reads_what_its_window_holds_before_it(windows):
    for cell in windows.cells():
        (r0, r1, c0, c1), (i, j) = windows.crop(cell), windows.local(cell)
        assert 0 <= r0 < r1 <= windows.grid[0] and 0 <= c0 < c1 <= windows.grid[1]
        assert (r1 - r0, c1 - c0) == windows.window and (r0 + i, c0 + j) == cell and i >= 0 and j >= 0
        before = {other for other in windows.cells() if other < cell and r0 <= other[0] and c0 <= other[1] < c1}
        assert reads(windows, cell) == before and windows.n_read(cell) == len(before)


@given(any_windows())
def test_everything_a_cell_reads_was_sampled_at_an_earlier_step(windows):
    waves = wavefront(windows, list(windows.cells()))
    step_of = {cell: step for step, wave in enumerate(waves) for cell in wave}
    assert sorted(step_of) == list(windows.cells()) and len(step_of) == sum(map(len, waves))
    assert all(step_of[other] < step_of[cell] for cell in step_of for other in reads(windows, cell))
    assert len(waves) == windows.n_steps()


@given(any_windows(least_anchor=1, most=9))
def test_no_schedule_is_shorter(windows):
    depth = {}
    for cell in windows.cells():
        depth[cell] = 1 + max((depth[other] for other in reads(windows, cell)), default=0)
    assert max(depth.values()) == windows.n_steps()


@given(any_windows())
def test_windows_of_one_origin_grow_from_step_to_step(windows):
    lengths = {}
    for wave in wavefront(windows, list(windows.cells())):
        for cell in wave:
            assert windows.n_read(cell) > lengths.get(windows.origin(cell), -1)
        origins = [windows.origin(cell) for cell in wave]
        assert len(set(origins)) == len(origins)  # one step reads a window once
        lengths |= {windows.origin(cell): windows.n_read(cell) for cell in wave}


@given(any_windows(most=7), st.data())
def test_padding_is_sampled_only_where_it_is_read(windows, data):
    shape = tuple(data.draw(st.integers(1, length)) for length in windows.grid)
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=49, max_size=49))[: windows.grid[0] * windows.grid[1]])
    kept = kept.reshape(windows.grid)
    kept[shape[0] :], kept[:, shape[1] :] = False, False
    needed, new = set(), {(i, j) for i in range(shape[0]) for j in range(shape[1]) if not kept[i, j]}
    while new:
        needed |= new
        new = {other for cell in new for other in reads(windows, cell) if not kept[other]} - needed
    assert cells_to_sample(windows, shape, kept) == sorted(needed)


def test_steps_without_a_cell_to_sample_do_not_exist():
    assert wavefront(windows_of(20, 20), [(3, 1), (17, 2), (2, 17), (3, 0)]) == [[(3, 0)], [(3, 1), (2, 17)], [(17, 2)]]


@pytest.mark.parametrize(
    "block_size, cond_tokens, side",
    [
        (512, lambda side: side**2, 16),
        (348, lambda side: 92, 16),
        (256, lambda side: 1, 16),
        (255, lambda side: 1, 15),
        (319, lambda side: side**2 // 4 if side % 2 == 0 else None, 16),
        (1, lambda side: 1, 1),
    ],
)
def test_default_side(block_size, cond_tokens, side):
    assert default_side(block_size, cond_tokens) == side


def test_no_window_fits():
    with pytest.raises(ValueError, match="no window fits into block_size 92"):
        default_side(92, lambda side: 93)


def test_anchor_outside_the_window():
    with pytest.raises(ValueError, match=r"anchor \(16, 16\) lies outside the window 16 x 16"):
        windows_of(20, 20, anchor=16)
