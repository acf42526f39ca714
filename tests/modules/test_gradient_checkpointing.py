"""Recomputing activations in the backward pass changes no number of training, dropout included."""

import pytest
import torch

from taming.modules.transformer.mingpt import GPT, CodeGPT

SIZE = {"vocab_size": 11, "block_size": 8, "n_layer": 3, "n_head": 2, "n_embd": 16}
DROPOUT = {"embd_pdrop": 0.1, "resid_pdrop": 0.2, "attn_pdrop": 0.3}


def step(kind, tokens, **options):
    """Loss and gradients of one training step from the same seed."""
    torch.manual_seed(0)
    model = kind(**SIZE, **DROPOUT, **options)
    _, loss = model(tokens, targets=torch.arange(16).reshape(2, 8) % 11)
    loss.backward()
    return model, [loss, *(parameter.grad for parameter in model.parameters()), torch.rand(3)]


@pytest.mark.parametrize(
    ("kind", "tokens", "options"),
    [
        (GPT, torch.arange(16).reshape(2, 8) % 7, {"n_unmasked": 3}),
        (CodeGPT, torch.linspace(-1, 1, 32).reshape(2, 8, 2), {"in_channels": 2}),
    ],
)
def test_every_number_is_the_same(kind, tokens, options):
    _, plain = step(kind, tokens, **options)
    model, recomputed = step(kind, tokens, **options, gradient_checkpointing=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    assert list(model.state_dict()) == list(kind(**SIZE, **options).state_dict())


def test_less_is_kept_for_the_backward_pass():
    def kept(**options):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            step(GPT, torch.zeros(2, 8, dtype=torch.int64), **options)
        return sum(sizes)

    assert kept(gradient_checkpointing=True) < 0.6 * kept()


def test_nothing_is_recomputed_outside_training():
    model = GPT(**SIZE, gradient_checkpointing=True).eval()
    calls = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    model(torch.zeros(1, 4, dtype=torch.int64))[0].sum().backward()
    assert len(calls) == 1
