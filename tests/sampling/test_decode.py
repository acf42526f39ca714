"""Cached decoding against the plain model, and the random numbers of a sample."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taming.modules.transformer.mingpt import GPT
from taming.sampling.decode import Decoder, Guidance, decode, decode_reference, sample_uniforms

BLOCK_SIZE, VOCABULARY = 12, 20


def tiny_gpt(n_unmasked=0, seed=0):
    torch.manual_seed(seed)
    gpt = GPT(VOCABULARY, BLOCK_SIZE, n_layer=2, n_head=2, n_embd=16, n_unmasked=n_unmasked)
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return gpt.eval()


def prefix_of(batch_size, length):
    return torch.randint(VOCABULARY, (batch_size, length), generator=torch.Generator().manual_seed(3))


def keys_of(batch_size):
    return [(label % 3, label) for label in range(batch_size)]


@pytest.fixture(params=["forward_cached", "cached steps", "static steps"])
def fast(request, monkeypatch):
    """A function like `decode` for every way of taking a step; the static ones as on CUDA, but without graphs."""
    monkeypatch.setattr("taming.sampling.decode.MIN_STEPS", 1 if request.param == "cached steps" else 1000)
    monkeypatch.setattr("taming.sampling.static_steps.BUCKET", 4)
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    return partial(decode, compile=request.param == "static steps")


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize(("length", "n_unmasked"), [(1, 0), (4, 0), (4, 3), (4, 4)])
@pytest.mark.parametrize("options", [{"sample": False}, {}, {"top_k": 5, "top_p": 0.8, "temperature": 1.3}])
def test_agrees_with_the_plain_twin(fast, batch_size, length, n_unmasked, options):
    gpt, prefix = tiny_gpt(n_unmasked), prefix_of(batch_size, length)
    steps = BLOCK_SIZE + 1 - length
    uniforms = sample_uniforms(7, keys_of(batch_size), steps)
    tokens = fast(gpt, prefix, steps, uniforms=uniforms, **options)
    assert tokens.shape == (batch_size, steps) and tokens.dtype == torch.int64
    assert torch.equal(tokens, decode_reference(gpt, prefix, steps, uniforms=uniforms, **options))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance(fast, scale):
    gpt, prefix = tiny_gpt(), prefix_of(3, 2)
    guidance = Guidance(torch.full_like(prefix, VOCABULARY - 1), scale)
    uniforms = sample_uniforms(7, keys_of(3), 8)
    tokens = fast(gpt, prefix, 8, uniforms=uniforms, guidance=guidance, top_k=7)
    assert torch.equal(tokens, decode_reference(gpt, prefix, 8, uniforms=uniforms, guidance=guidance, top_k=7))
    alike = {0.0: guidance.null_prefix, 1.0: prefix}.get(scale)
    if alike is not None:
        assert torch.equal(tokens, decode_reference(gpt, alike, 8, uniforms=uniforms, top_k=7))


def test_guidance_follows_its_formula():
    gpt, prefix = tiny_gpt(), prefix_of(1, 2)
    null = torch.full_like(prefix, VOCABULARY - 1)
    conditional, free = (gpt(rows)[0][:, -1] for rows in (prefix, null))
    expected = (free + 3 * (conditional - free)).argmax(dim=-1)
    assert torch.equal(decode(gpt, prefix, 1, guidance=Guidance(null, 3.0), sample=False)[:, 0], expected)


def test_one_decoder_serves_many_batches(fast):
    """It must notice another shape, other options, and other weights, in place or in their stead."""
    gpt = tiny_gpt()
    decoder = Decoder(gpt, compile=fast.keywords["compile"])
    for batch_size, options in ((2, {"top_k": 4}), (2, {"top_k": 4}), (3, {"top_k": 4}), (3, {"top_k": 9})):
        prefix, uniforms = prefix_of(batch_size, 2), sample_uniforms(batch_size, keys_of(batch_size), 9)
        expected = decode_reference(gpt, prefix, 9, uniforms=uniforms, **options)
        assert torch.equal(decoder(prefix, 9, uniforms=uniforms, **options), expected)
    other = tiny_gpt(seed=1).state_dict()
    for change, alters in ((partial(gpt.load_state_dict, other), True), (gpt.double, False)):
        before = expected
        change()
        expected = decode_reference(gpt, prefix, 9, uniforms=uniforms, **options)
        assert torch.equal(decoder(prefix, 9, uniforms=uniforms, **options), expected)
        assert torch.equal(expected, before) != alters


def test_callback_counts_the_tokens(fast):
    steps = []
    fast(tiny_gpt(), prefix_of(1, 2), 6, sample=False, callback=steps.append)
    assert steps == list(range(6))


def test_greedy_is_the_argmax_of_the_plain_model():
    gpt, known = tiny_gpt(), prefix_of(3, 2)
    tokens = decode(gpt, known, 6, sample=False)
    for step in range(6):
        assert torch.equal(tokens[:, step], gpt(known)[0][:, -1].argmax(dim=-1))
        known = torch.cat((known, tokens[:, step : step + 1]), dim=1)


def test_a_sample_does_not_depend_on_its_batch():
    gpt, prefix, keys = tiny_gpt(), prefix_of(7, 1), keys_of(7)
    together = decode(gpt, prefix, 12, uniforms=sample_uniforms(1, keys, 12))
    alone = [decode(gpt, prefix[i : i + 1], 12, uniforms=sample_uniforms(1, keys[i : i + 1], 12)) for i in range(7)]
    assert torch.equal(together, torch.cat(alone))


def test_length_limit():
    with pytest.raises(ValueError, match=r"3 tokens before and 11 to come .* block_size 12 \(at most 10 to come\)"):
        decode(tiny_gpt(), prefix_of(1, 3), 11, sample=False)


def test_prefix_must_cover_the_unmasked_positions():
    with pytest.raises(ValueError, match="2 tokens must cover the n_unmasked = 3"):
        decode(tiny_gpt(n_unmasked=3), prefix_of(1, 2), 4, sample=False)


@pytest.mark.parametrize("sample", [True, False])
def test_broken_weights_are_an_error(fast, sample):
    gpt = tiny_gpt()
    gpt.tok_emb.weight.data[5] = torch.nan
    prefix = torch.tensor([[1], [5]])
    with pytest.raises(ValueError, match=r"of 2 samples: .* not finite"):
        fast(gpt, prefix, 3, uniforms=sample_uniforms(0, keys_of(2), 3), sample=sample)


@settings(deadline=None)
@given(
    st.integers(0, 2**128 - 1),
    st.lists(st.tuples(st.none() | st.integers(0, 2**40), st.integers(0, 2**40)), min_size=2, max_size=4, unique=True),
    st.integers(1, 9),
)
def test_uniforms_belong_to_seed_class_index_and_position(seed, keys, steps):
    uniforms = sample_uniforms(seed, keys, steps)
    assert uniforms.dtype == torch.float64 and uniforms.min() >= 0 and uniforms.max() < 1
    longer = sample_uniforms(seed, keys[::-1], steps + 3)
    assert torch.equal(longer.flip(0)[:, :steps], uniforms)
    assert len(set(uniforms[:, 0].tolist())) == len(keys)
    assert not torch.equal(sample_uniforms((seed + 1) % 2**128, keys, steps), uniforms)


def test_uniforms_are_uniform_across_samples():
    uniforms = sample_uniforms(0, [(label, index) for label in range(20) for index in range(100)], 8).numpy()
    counts, _ = np.histogram(uniforms, bins=20, range=(0, 1))
    assert abs(counts / uniforms.size - 1 / 20).max() < 0.006
    assert abs(np.corrcoef(uniforms, rowvar=False) - np.eye(8)).max() < 0.08
