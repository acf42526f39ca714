"""What is kept of an image, where sampling begins, and how its progress is told."""

import numpy as np
import pytest
import tiny_demo
import torch
from hypothesis import given
from hypothesis import strategies as st

from taming.demo.examples import Given, prepare, with_given
from taming.demo.sampling import Progress, Rectangle, drawn_seed, first_half, sample, start_of, step_text
from taming.sampling.dataset_jobs import DatasetOptions, build_split, read_batch
from taming.sampling.window_engines import WindowStep


def prepared_of(kind, *, index=1, scale_factor=1.0):
    model = tiny_demo.tiny_model(kind)
    split = split_of(kind)
    batch = read_batch(split.dataset, [index], 0)
    return model, prepare(model, batch, split=split, index=index, scale_factor=scale_factor)


def split_of(kind):
    from omegaconf import OmegaConf

    return build_split(OmegaConf.create(tiny_demo.config_of(kind)))


def test_half_of_an_odd_grid_ends_within_a_row():
    assert first_half((3, 3)).flatten().tolist() == [True] * 4 + [False] * 5


@given(st.integers(1, 9), st.integers(1, 9), st.tuples(*[st.integers(0, 100)] * 4))
def test_rectangles(height, width, edges):
    top, left, bottom, right = edges
    if top >= bottom or left >= right:
        with pytest.raises(ValueError, match="rectangle is empty"):
            Rectangle(*edges)
        return
    cells = Rectangle(*edges).cells((height, width))
    for i in range(height):
        for j in range(width):
            y, x = 100 * (i + 0.5) / height, 100 * (j + 0.5) / width
            near_edge = min(abs(y - top), abs(y - bottom), abs(x - left), abs(x - right)) < 1e-3
            assert near_edge or cells[i, j] == (top <= y < bottom and left <= x < right)


def test_the_start_shows_the_conditioning_where_grids_agree():
    model, prepared = prepared_of("coord")
    start = start_of(model, prepared, None)
    assert start.from_condition and start.kept is None
    assert torch.equal(start.grid, prepared.encoded.condition.clamp(max=tiny_demo.N_CODES - 1))
    model, prepared = prepared_of("class_label")
    start = start_of(model, prepared, None)
    assert not start.from_condition and not start.grid.any()


@pytest.mark.parametrize("kept", [first_half((4, 4)), ~Rectangle(25, 25, 75, 75).cells((4, 4))])
def test_what_is_kept_stays(kept):
    model, prepared = prepared_of("segmentation")
    start = start_of(model, prepared, kept)
    tokens = prepared.encoded.tokens
    assert torch.equal(start.grid, torch.where(kept, tokens, 0))
    steps = []
    grid = sample(model, prepared, start, DatasetOptions(seed=3), steps.append)
    assert torch.equal(grid[:, kept], tokens[:, kept]) and len(steps) == steps[-1].n_total == int((~kept).sum())
    assert not torch.equal(grid, start.grid)


def test_kept_cells_follow_the_permuter():
    model, prepared = prepared_of("unconditional")
    from taming.modules.transformer.permuter import SpiralOut

    model.permuter = SpiralOut(4, 4)
    kept = first_half((4, 4))
    start = start_of(model, prepared, kept)
    in_rows = model.permuter(start.kept.view(1, -1), reverse=True).view(4, 4)
    assert torch.equal(in_rows, kept)


def test_seeds():
    assert drawn_seed(5) == 5 and drawn_seed(-1) != drawn_seed(-1)


@pytest.mark.parametrize("kind", tiny_demo.STAGES)
def test_larger_grids_by_windows(kind):
    model, prepared = prepared_of(kind, scale_factor=1.5)
    start = start_of(model, prepared, None)
    options = DatasetOptions(seed=3, greedy=True)
    steps = []
    grid = sample(model, prepared, start, options, steps.append)
    assert grid.shape == (1, 6, 6) and len(steps) == 36
    assert torch.equal(grid, sample(model, prepared, start, options, lambda step: None))


def test_layouts_change_from_window_to_window():
    _, prepared = prepared_of("objects_bbox", scale_factor=2.0)
    cond_fn = prepared.conditioning(3)["cond_fn"]
    assert prepared.conditioning(3)["window"] == 4 and prepared.conditioning(3)["anchor"] == 1
    shown = {tuple(sorted(cond_fn(0, 0, r0, c0)[0].tolist())) for r0 in (0, 2, 4) for c0 in (0, 2, 4)}
    assert len(shown) > 1, "objects outside a window are not in its layout"
    assert torch.equal(cond_fn(1, 2, 0, 0), cond_fn(1, 2, 0, 0))


def test_a_class_of_ones_own():
    model = tiny_demo.tiny_model("class_label")
    batch = with_given(model, None, None, Given(label=2))
    prepared = prepare(model, batch, split=None, index=7, scale_factor=1.0)
    assert prepared.key == (2, 7) and prepared.condition_text == "class_label: 2"
    assert prepared.image.shape == (16, 16, 3) and np.ptp(prepared.image) == 0


def test_time_left():
    times = iter([0.0, 0.0, 0.05, 0.11, 10.0, 10.0, 10.0])
    progress = Progress(clock=lambda: next(times))
    assert [progress.is_due() for _ in range(3)] == [True, False, True]
    assert progress.text(10, 100) == "10 of 100 tokens, 1 min 30 s left"
    assert progress.text(50, 100) == "50 of 100 tokens, 10 s left"
    assert progress.seconds == 10


def test_places_are_told_as_published():
    step = WindowStep(2687, 2688, 2688, (41, 63), (15, 15), (26, 42, 48, 64), torch.zeros(1, 42, 64))
    assert step_text(step) == "Step: (41,63) | Local: (15,15) | Crop: (26:42,48:64)"
