"""What windowed sampling refuses: one clear line each."""

import pytest
import torch
from tiny_windowed import N_CODES, VOCABULARY, model_of, shuffled_objects, tokens_of, uniforms_of

from taming.sampling.windowed import sample_windowed


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shape": (0, 4)}, r"at least one row and one column, not shape \(0, 4\)"),
        ({"temperature": 0}, "temperature must be positive, not 0; .* sample=False"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\]"),
        ({"schedule": "spiral"}, "schedule must be"),
        ({"window": 5}, "3 conditioning tokens and a window of 5 x 5 do not fit into block_size 18"),
        ({"window": 0}, "the window must have at least one row and one column, not 0 x 0"),
        ({"anchor": 4}, r"anchor \(4, 4\) lies outside the window 4 x 4"),
        ({"c": None}, "either c or cond_fn"),
        ({"cond_fn": shuffled_objects(0)}, "either c or cond_fn"),
        ({"c": torch.zeros(2, 3)}, "c: tokens are integers, not torch.float32"),
        ({"c": torch.full((2, 3), VOCABULARY)}, "c: tokens go from 0 to 23, not from 24 to 24"),
        ({"c": tokens_of(3)}, r"c must be a grid \(b, hc, wc\) or a sequence \(b, l\)"),
        ({"c": None, "cond_fn": lambda *_: tokens_of(3)}, r"cond_fn must give tokens \(batch, length\), not \(3,\)"),
        ({"c": None, "cond_fn": lambda i, *_: tokens_of(2, 3 + i)}, r"cond_fn gave \(2, 4\) tokens for cell \(1, 0\)"),
        ({"z_init": tokens_of(2, 7, 6)}, r"z_init must be of shape \(2, 6, 7\), not \(2, 7, 6\)"),
        ({"z_init": torch.full((2, 6, 7), N_CODES)}, "z_init: tokens go from 0 to 19, not from 20 to 20"),
        ({"start": 3}, "start and mask keep tokens of z_init"),
        ({"start": 43}, "start must lie between 0 and the 42 cells of the grid, not at 43"),
        ({"start": -1}, "start must lie between 0 and the 42 cells"),
        ({"mask": torch.ones(7, 6, dtype=torch.bool)}, r"mask must be bool and of shape \(6, 7\)"),
        ({"mask": torch.ones(6, 7)}, r"mask must be bool .* not torch.float32"),
        ({"mask": torch.zeros(3, 6, 7, dtype=torch.bool)}, "mask is for 3 samples, the conditioning for 2"),
        ({"generator": [1, 2, 3]}, "3 seeds for 2 samples"),
        ({"uniforms": uniforms_of(2, 42)}, r"uniforms must be of shape \(2, 6, 7\), not \(2, 42\)"),
    ],
)
def test_bad_input(options, message):
    options = {"c": tokens_of(2, 3), "shape": (6, 7)} | options
    with pytest.raises(ValueError, match=message):
        sample_windowed(model_of(), options.pop("c"), options.pop("shape"), **options)


def test_conditioning_must_cover_the_unmasked_positions():
    with pytest.raises(ValueError, match="2 conditioning tokens must cover the n_unmasked = 3 positions"):
        sample_windowed(model_of(n_unmasked=3), tokens_of(1, 2), (5, 5), sample=False)


def test_quantizers_with_several_tokens_per_cell(monkeypatch):
    monkeypatch.setattr(model_of().first_stage_model.quantize, "tokens_per_position", 2)
    with pytest.raises(ValueError, match="windows need one token per cell; the first stage's quantizer has 2"):
        sample_windowed(model_of(), tokens_of(1, 3), (5, 5), sample=False)


@pytest.mark.parametrize("schedule", ["wavefront", "sequential"])
def test_broken_weights_are_an_error(schedule):
    c = tokens_of(2, 3)
    model = model_of.__wrapped__()
    model.transformer.head.weight.data[5] = torch.nan
    with pytest.raises(ValueError, match=r"2 of 2 samples: .* not finite"):
        sample_windowed(model, c, (5, 6), schedule=schedule, sample=False)
