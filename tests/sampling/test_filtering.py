"""next_token against brute force and against the published filters."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taming.modules.transformer.mingpt import top_k_top_p_filtering
from taming.sampling.filtering import INVALID, next_token, restrict

SMALLEST, LARGEST = 0.0, np.nextafter(1.0, 0.0)


@st.composite
def problems(draw):
    """Distinct logits that no rounding can reorder, a filter, and a random number."""
    size = draw(st.integers(1, 9))
    ranks = draw(st.lists(st.integers(-40, 40), min_size=size, max_size=size, unique=True))
    options = {
        "temperature": draw(st.sampled_from([0.3, 1.0, 2.5])),
        "top_k": draw(st.sampled_from([None, 0, -1, 1, 2, 5, 100])),
        "top_p": draw(st.sampled_from([0.05, 0.51, 0.92, 1.0])),
    }
    uniform = draw(st.one_of(st.floats(0, LARGEST), st.sampled_from([SMALLEST, LARGEST])))
    return [rank / 8 for rank in ranks], options, uniform


def kept_by_brute_force(logits, temperature, top_k, top_p):
    """Tokens -> probabilities, one token after the other as models.md 11.3 tells it."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if top_k is not None and top_k > 0:
        order = order[:top_k]
    weights = {token: math.exp(logits[token] / temperature) for token in order}
    mass = 0.0
    kept = {}
    for token in order:
        if mass > top_p:
            break
        kept[token] = weights[token]
        mass += weights[token] / sum(weights.values())
    return {token: weight / sum(kept.values()) for token, weight in kept.items()}


@settings(deadline=None, max_examples=300)
@given(problems())
def test_draws_from_the_kept_tokens(problem):
    logits, options, uniform = problem
    kept = kept_by_brute_force(logits, **options)
    token = next_token(torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64), **options).item()
    assert token in kept
    below = sum(probability for other, probability in kept.items() if other < token)
    assert below - 1e-6 <= uniform <= below + kept[token] + 1e-6


@pytest.mark.parametrize(("top_k", "top_p"), [(None, 1.0), (3, 1.0), (None, 0.7), (5, 0.7), (20, 0.3)])
def test_frequencies_are_those_of_the_published_filter(top_k, top_p):
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
    n = 20_000
    uniforms = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens = next_token(logits.expand(n, -1), uniforms, temperature=0.8, top_k=top_k, top_p=top_p)
    expected = top_k_top_p_filtering(logits / 0.8, top_k=top_k or 0, top_p=top_p).softmax(dim=-1)[0]
    assert torch.allclose(tokens.bincount(minlength=20) / n, expected, atol=1.1 / n)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.integers(-12, 12), min_size=2, max_size=30),
    st.integers(1, 31),
    st.sampled_from([0.05, 0.3, 0.51, 0.83, 0.97, 1.0]),
)
def test_keeps_as_many_tokens_as_the_published_filter(ranks, top_k, top_p):
    """With ties too, where the published filter lets the sort decide which of them stay."""
    logits = torch.tensor([ranks]) / 3.7
    expected = top_k_top_p_filtering(logits, top_k=top_k, top_p=top_p)
    got = restrict(logits, top_k=top_k, top_p=top_p)
    assert torch.equal(got.sort().values, expected.sort().values)


def test_intervals_are_half_open():
    uniforms = torch.tensor([0, 0.25, np.nextafter(0.5, 0), 0.5, LARGEST], dtype=torch.float64)
    assert next_token(torch.zeros(5, 4), uniforms).tolist() == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("uniform", [SMALLEST, 0.5, LARGEST])
def test_never_an_impossible_token(uniform):
    logits = torch.full((3, 1000), -torch.inf)
    possible = [17, 500, 998]
    logits[torch.arange(3), possible] = torch.tensor([0.0, -80.0, 3.0])
    assert next_token(logits, torch.full((3,), uniform, dtype=torch.float64)).tolist() == possible


def test_ties_at_the_threshold_stay():
    logits = torch.tensor([[1.0, 5.0, 1.0, 0.0]]).expand(64, -1)
    uniforms = torch.linspace(0, 0.999, 64, dtype=torch.float64)
    assert set(next_token(logits, uniforms, temperature=5.0, top_k=2).tolist()) == {0, 1, 2}


def test_greedy_needs_no_random_numbers():
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(next_token(logits, sample=False, temperature=9.0, top_k=3), logits.argmax(dim=-1))


@pytest.mark.parametrize("sample", [True, False])
def test_only_real_codebook_entries(sample):
    logits = torch.arange(10.0).expand(50, -1)
    tokens = next_token(logits, torch.linspace(0, 0.99, 50), n_tokens=4, sample=sample)
    assert tokens.max() == 3


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rows_without_valid_logits_give_no_token(sample, value):
    logits = torch.zeros(3, 8)
    logits[1, 5] = value
    logits[2] = -torch.inf
    tokens = next_token(logits, torch.zeros(3), sample=sample, top_k=4, top_p=0.9)
    assert (tokens == INVALID).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature must be positive, not 0"),
        ({"temperature": float("nan")}, "temperature must be positive, not nan"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], not 0.0"),
        ({"top_p": 1.5}, "not 1.5"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        next_token(torch.zeros(1, 4), torch.zeros(1), **options)
