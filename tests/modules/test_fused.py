"""Several linear layers as one product: the same values, no second copy."""

import torch
from torch import nn

from taming.modules.transformer.fused import fuse


def three():
    torch.manual_seed(0)
    return [nn.Linear(6, outputs) for outputs in (4, 4, 2)]


def test_gives_the_outputs_side_by_side():
    linears, x = three(), torch.randn(3, 6)
    expected = torch.cat([linear(x) for linear in linears], dim=1)
    assert torch.allclose(nn.functional.linear(x, *fuse(linears)), expected, atol=1e-6)
    assert torch.allclose(torch.cat([linear(x) for linear in linears], dim=1), expected, atol=1e-6)


def test_parameters_become_views_and_stay_what_they_are():
    linears = three()
    before = [(parameter, parameter.clone()) for linear in linears for parameter in linear.parameters()]
    weight, bias = fuse(linears)
    after = [parameter for linear in linears for parameter in linear.parameters()]
    assert all(new is old and torch.equal(new, value) for new, (old, value) in zip(after, before, strict=True))
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in after)
    with torch.no_grad():
        linears[1].weight.fill_(7)
        linears[2].bias.fill_(8)
    assert (weight[4:8] == 7).all() and (bias[8:] == 8).all() and not weight.requires_grad


def test_a_second_time_costs_nothing():
    linears = three()
    weight, bias = fuse(linears)
    again = fuse(linears)
    assert (again[0].data_ptr(), again[1].data_ptr()) == (weight.data_ptr(), bias.data_ptr())
    assert all(torch.equal(*pair) for pair in zip(again, (weight, bias), strict=True))


def test_state_dict_round_trip(tmp_path):
    linears = nn.ModuleList(three())
    before = {key: value.clone() for key, value in linears.state_dict().items()}
    fuse(list(linears))
    torch.save(linears.state_dict(), tmp_path / "weights.pt")
    loaded = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(loaded[key], before[key]) for key in before)


def test_other_order_or_new_memory_is_noticed():
    linears = three()
    fuse(linears)
    x = torch.randn(2, 6)
    for changed in (linears[::-1], [linear.double().float() for linear in linears]):
        expected = torch.cat([linear(x) for linear in changed], dim=1)
        assert torch.allclose(nn.functional.linear(x, *fuse(changed)), expected, atol=1e-6)
