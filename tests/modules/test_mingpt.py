"""GPT: figures of the published implementation, the cache against the full forward, filters, and stored masks."""

import pytest
import torch
from parity import agree, build, cases, grad_norms, inputs, names

from taming.modules.transformer.mingpt import (
    GPT,
    CausalSelfAttention,
    DummyGPT,
    GPTConfig,
    sample,
    sample_with_past,
    top_k_logits,
    top_k_top_p_filtering,
)

CASES = cases("gpt")


@pytest.mark.parametrize("name", ["gpt/plain", "gpt/one-head-short", "gpt/unmasked"])
def test_forward_and_gradients(name):
    case = CASES[name]
    model = build(case)
    idx, targets = inputs(case).values()
    logits, loss = model(idx, targets=targets)
    loss.backward()
    got = {"logits": logits, "loss_without_targets": model(idx)[1], "loss": loss}
    agree(case["outputs"], got | {"loss_grad_norms": grad_norms(model, case["outputs"]["loss_grad_norms"])})


def test_embeddings_come_first():
    case = CASES["gpt/embeddings"]
    agree(case["outputs"], {"logits": build(case)(**inputs(case))[0]})


@pytest.mark.parametrize("name", ["gpt/past", "gpt/past-unmasked"])
def test_forward_with_past(name):
    case = CASES[name]
    model, idx, cond = build(case), inputs(case)["idx"], case["cond"]
    prefix_logits, _, presents = model.forward_with_past(idx[:, :cond])
    got = {"full_logits": model(idx)[0], "presents_of_prefix": presents, "prefix_logits": prefix_logits}
    past, equal = [presents], True
    for position in range(cond, idx.shape[1]):
        logits, _, presents = model.forward_with_past(idx[:, position : position + 1], past=past, past_length=position)
        equal &= torch.allclose(logits[:, 0], got["full_logits"][:, position], atol=1e-4)
        past.append(presents)
    got |= {"last_step_logits": logits, "last_step_presents": presents, "steps_equal_full_forward": equal}
    agree(case["outputs"], got)


@pytest.mark.parametrize("chunks", [(24,), (1,) * 24, (6, 1, 9, 8)])
@pytest.mark.parametrize("n_unmasked", [0, 1, 6])
def test_cache_equals_the_full_forward(chunks, n_unmasked):
    if chunks[0] < n_unmasked:
        chunks = (n_unmasked, *(1,) * (24 - n_unmasked))
    torch.manual_seed(0)
    model = GPT(40, 24, n_layer=2, n_head=4, n_embd=32, n_unmasked=n_unmasked).eval()
    idx = torch.randint(40, (3, 24))
    full, cache, end = model(idx)[0], model.new_cache(3, 24), 0
    for chunk in chunks:
        logits = model.forward_cached(idx[:, end : end + chunk], cache)
        end += chunk
        assert cache.length == end
        assert torch.allclose(logits, full[:, end - 1], atol=1e-5)
    cache.reset()
    assert torch.allclose(model.forward_cached(idx[:, :6], cache), full[:, 5], atol=1e-5)


def test_forward_with_past_of_several_new_positions_is_causal():
    """Decisions D32 and D35: the original neither masked nor counted several new positions."""
    model, idx = build(CASES["gpt/past"]), inputs(CASES["gpt/past"])["idx"]
    _, _, presents = model.forward_with_past(idx[:, :6])
    logits, _, _ = model.forward_with_past(idx[:, 6:], past=[presents], past_length=6)
    assert torch.allclose(logits, model(idx)[0][:, 6:], atol=1e-5)


def test_a_later_token_changes_no_earlier_logits():
    model = GPT(20, 12, n_layer=2, n_head=2, n_embd=16, n_unmasked=4).eval()
    idx = torch.randint(20, (1, 12))
    changed = idx.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 20
    moved = (model(idx)[0] - model(changed)[0]).abs().amax(dim=-1)[0] > 1e-7
    assert moved.all(), "position 3 is seen by the whole unmasked prefix and by all that follow"
    changed = idx.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 20
    moved = (model(idx)[0] - model(changed)[0]).abs().amax(dim=-1)[0] > 1e-7
    assert moved.tolist() == [False] * 7 + [True] * 5


def test_greedy_sampling_with_past():
    case = CASES["greedy/sample-with-past"]
    tokens = sample_with_past(inputs(case)["x"], build(case), case["steps"], sample_logits=False)
    agree(case["outputs"], {"sequence": tokens, "...": 1})


def test_sampling_options():
    model = GPT(16, 12, n_layer=1, n_head=1, n_embd=8).eval()
    x, steps = torch.zeros(2, 3, dtype=torch.int64), []
    greedy = sample_with_past(x, model, 10, sample_logits=False, callback=steps.append)
    assert steps == list(range(10)), "3 + 10 tokens fit into block_size + 1"
    assert torch.equal(sample_with_past(x, model, 10, top_k=1), greedy)
    assert torch.equal(sample_with_past(x, model, 10, top_p=0.0), greedy), "top_p counts without top_k (decision D39)"
    draws = [sample_with_past(x, model, 10, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)
    with pytest.raises(AssertionError, match="eval"):
        sample_with_past(x, model.train(), 1)


def kept(logits):
    return [row.isfinite().nonzero()[:, 0].tolist() for row in logits]


def test_filters():
    """k = 100 of 25 and odd top_p raise no more: they mean no filter (decisions D36, D37)."""
    case = CASES["filters"]
    logits, outputs = 2 * inputs(case)["logits"], case["outputs"]
    for k, expected in outputs["top_k_logits"].items():
        everything = [list(range(25))] * 3
        assert kept(top_k_logits(logits, int(k))) == (everything if isinstance(expected, str) else expected)
    for row in outputs["top_k_top_p_filtering"]:
        filtered = top_k_top_p_filtering(logits, row["top_k"], row["top_p"])
        assert kept(filtered) == row["kept"], row
        assert torch.equal(filtered[filtered.isfinite()], logits[filtered.isfinite()])
    for arguments, expected in outputs["odd_arguments"].items():
        top_k_only = top_k_top_p_filtering(logits, top_k=2)
        expected = kept(top_k_only) if isinstance(expected, str) else expected
        assert kept(top_k_top_p_filtering(logits, **eval(arguments))) == expected


def test_ties_at_the_threshold_are_kept():
    tied = torch.tensor([[1.0, 2.0, 2.0, 0.5, 2.0, 1.0]])
    assert kept(top_k_logits(tied, 2)) == kept(top_k_top_p_filtering(tied, 2, 1.0)) == [[1, 2, 4]]
    assert len(kept(top_k_top_p_filtering(tied, 0, 0.3))[0]) == 2


@pytest.fixture
def attention():
    return CausalSelfAttention(GPTConfig(10, 8, n_embd=4, n_head=2, n_unmasked=3))


def state_with_mask(attention, mask):
    return attention.state_dict() | {"mask": mask}


def stored_mask(block, n_unmasked):
    mask = torch.tril(torch.ones(block, block))
    mask[:n_unmasked, :n_unmasked] = 1
    return mask[None, None]


def test_stored_masks_load_strictly_and_are_not_written(attention):
    """Decision D63."""
    state = state_with_mask(attention, stored_mask(8, 3))
    attention.load_state_dict(state, strict=True)
    assert "mask" in state, "the caller's dict stays as it is"
    assert "mask" not in attention.state_dict()


def test_a_stored_mask_overrides_n_unmasked(attention, caplog):
    """Decision D34."""
    attention.load_state_dict(state_with_mask(attention, stored_mask(8, 5)))
    assert attention.n_unmasked == 5 and "n_unmasked=3" in caplog.text


def test_a_stored_mask_of_another_size_is_an_error(attention):
    with pytest.raises(RuntimeError, match=r"mask: \(1, 1, 9, 9\) in the file, \(1, 1, 8, 8\) here"):
        attention.load_state_dict(state_with_mask(attention, stored_mask(9, 3)))


def test_too_long_sequences_name_block_size():
    with pytest.raises(AssertionError, match="block_size 8"):
        GPT(10, 8, n_layer=1, n_head=1, n_embd=4)(torch.zeros(1, 9, dtype=torch.int64))


def test_published_size():
    with torch.device("meta"):
        model = GPT(1024, 512, n_layer=24, n_head=16, n_embd=1024)
    assert sum(parameter.numel() for parameter in model.parameters()) == 304_932_864
    assert len(model.state_dict()) == 413 - 24, "an original checkpoint has 413 keys, 24 of them masks"


@pytest.mark.parametrize("name", ["greedy/sample", "greedy/sample-beyond-block"])
def test_greedy_sampling_without_cache(name):
    case = CASES[name]
    model = build(case).train()
    tokens = sample(model, inputs(case)["x"], case["steps"])
    agree(case["outputs"], {"sequence": tokens, "...": 1})
    assert not model.training, "decision D38: sample leaves eval mode behind"


def test_codegpt():
    """Decision D62: the original's forward never worked."""
    case = CASES["codegpt"]
    model = build(case)
    logits, loss = model(*inputs(case).values())
    agree(case["outputs"], {"logits": logits, "loss": loss, "...": 1})
    assert not hasattr(model, "forward_with_past")


def test_dummygpt():
    case = CASES["dummygpt"]
    logits, loss = DummyGPT(**case["kwargs"])(torch.arange(4)[None])
    assert [logits.tolist(), loss] == case["outputs"]


def test_names_of_cases_are_all_used():
    assert set(names("gpt", "")) == {
        *("gpt/plain", "gpt/one-head-short", "gpt/unmasked", "gpt/embeddings", "gpt/past", "gpt/past-unmasked"),
        *("codegpt", "dummygpt", "filters", "greedy/sample", "greedy/sample-beyond-block", "greedy/sample-with-past"),
        *("kmeans", "kmeans/initialize-first-points", "kmeans/initialize-seeded"),  # tests/modules/test_kmeans.py
        "seeded",  # informative: draws of another generator
    }
