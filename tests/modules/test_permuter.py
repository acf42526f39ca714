"""Permuters: the published orders, and that every order is undone by its reverse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import build, cases, describe, names

from taming.config import get_obj_from_str
from taming.modules.transformer import permuter
from taming.modules.transformer.permuter import AbstractPermuter, Identity, SpiralOut, ZCurve, mortonify

CASES = cases("permuters")
GRIDS = [name for name in names("permuters", "") if "H" in CASES[name]["kwargs"]]
DEFINED = [name for name in GRIDS if "raises" not in CASES[name]["outputs"]]
UNDEFINED = sorted(set(GRIDS) - set(DEFINED))
FOR_ANY_GRID = ("ZCurve", "Random", "AlternateParsing")


def make(case):
    return get_obj_from_str(case["target"])(**case["kwargs"])


@pytest.mark.parametrize("name", DEFINED)
def test_published_orders(name):
    """Decision D41: the inverse of the Z-curve is one on every grid."""
    case = CASES[name]
    order, stored = make(case), case["outputs"]
    assert {key: describe(value) for key, value in order.state_dict().items()} == case["state_dict"]
    assert order.forward_shuffle_idx.tolist() == stored["forward_shuffle_idx"]
    if stored["reverse_undoes_forward"] is True:
        assert order.backward_shuffle_idx.tolist() == stored["backward_shuffle_idx"]
    x = torch.randn(2, len(order.forward_shuffle_idx), 3)
    assert torch.equal(order(x), x[:, stored["forward_shuffle_idx"]])
    assert torch.equal(order(order(x), reverse=True), x)


@pytest.mark.parametrize("name", UNDEFINED)
def test_grids_without_an_order(name):
    """ValueError, for commands to say in one line; also the AssertionError that the published classes raise."""
    case = CASES[name]
    grid = "{H} x {W}".format(**case["kwargs"])
    for kind in (ValueError, AssertionError):
        with pytest.raises(kind, match=grid):
            make(case)


def test_identity():
    case = CASES["Identity"]
    identity, x = build(case | {"salt": "", "mode": "eval"}), torch.arange(6)[None]
    assert identity(x)[0].tolist() == case["outputs"]["forward"]
    assert identity(x, reverse=True)[0].tolist() == case["outputs"]["reverse"]
    assert not identity.state_dict()


@pytest.mark.parametrize("name", FOR_ANY_GRID)
@given(height=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_every_grid_has_an_order_that_can_be_undone(name, height, width):
    order = getattr(permuter, name)(height, width)
    x = torch.arange(height * width)[None]
    assert sorted(order(x)[0].tolist()) == x[0].tolist()
    assert torch.equal(order(order(x), reverse=True), x)
    assert torch.equal(order(order(x, reverse=True)), x)


def test_neighbours_in_a_spiral_are_neighbours_in_the_grid():
    order = SpiralOut(12, 12).forward_shuffle_idx.numpy()
    rows, columns = np.divmod(order, 12)
    assert (abs(np.diff(rows)) + abs(np.diff(columns)) == 1).all()


def test_morton_codes():
    code = mortonify(3, 5)
    assert code == 27 and code.dtype == np.uint64
    assert mortonify(2**32 - 1, 2**32 - 1) == 2**64 - 1, "32 bits for each coordinate"
    assert mortonify(0, 2**31) == 2**62
    assert mortonify(np.array([[0, 1], [2, 3]]), np.array([0, 1])).tolist() == [[0, 3], [8, 11]]


def test_another_number_of_positions_is_an_error():
    for reverse in (False, True):
        with pytest.raises(ValueError, match="ZCurve orders 16 positions, not 20: set H and W in permuter_config"):
            ZCurve(4, 4)(torch.zeros(1, 20), reverse=reverse)


def test_all_are_permuters():
    classes = [get_obj_from_str(case["target"]) for case in CASES.values()]
    assert all(issubclass(cls, AbstractPermuter) for cls in classes)
    assert {cls.__name__ for cls in classes} == {
        *("Identity", "Subsample", "ZCurve", "SpiralOut", "SpiralIn", "Random", "AlternateParsing")
    }
    assert Identity()(torch.zeros(1, 3)).shape == (1, 3)
    with pytest.raises(NotImplementedError):
        AbstractPermuter(4, W=4)(torch.zeros(1, 16))
