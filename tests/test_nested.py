"""Paths into nested mappings and lists."""

import pytest
from omegaconf import OmegaConf

from taming.nested import KeyNotFoundError, retrieve


def test_a_callable_is_called_once_and_replaced_in_its_parent():
    calls = []
    tree = {"list": [lambda: calls.append(1) or {"x": 2}]}
    assert retrieve(tree, "list/0/x") == retrieve(tree, "list/0/x") == 2
    assert calls == [1] and tree == {"list": [{"x": 2}]}


def test_a_callable_at_the_end():
    def function():
        return 3

    tree = {"f": function}
    assert retrieve(tree, "f", expand=False) is function and tree["f"] is function
    assert retrieve(tree, "f") == 3 and tree["f"] == 3


def test_expand_false_does_not_pass_through_a_callable_whatever_the_default():
    for tree, visited in (({"f": dict}, ["f"]), (dict, [])):
        with pytest.raises(KeyNotFoundError) as error:
            retrieve(tree, "f/x", expand=False, default=1)
        assert isinstance(error.value.cause, ValueError) and error.value.visited == visited


def test_a_callable_root_is_called():
    """Decision D09."""
    assert retrieve(lambda: {"a": [1]}, "a/0") == 1


def test_omegaconf_nodes():
    """Decision D09."""
    config = OmegaConf.create({"a": [{"b": 5}]})
    assert retrieve(config, "a/0/b") == 5
    assert retrieve(config, "a.0.b", splitval=".") == 5
    assert retrieve(config, "a/0/c", default=7) == 7
    assert retrieve(config, "a/3", default=7, pass_success=True) == (7, False)


@pytest.mark.parametrize(
    ("path", "cause", "visited"),
    [("a/x/y", KeyError, ["a"]), ("a/l/2", IndexError, ["a", "l"]), ("a/l/one", ValueError, ["a", "l"])],
)
def test_the_error_tells_the_path_and_how_far_it_went(path, cause, visited):
    with pytest.raises(KeyNotFoundError) as error:
        retrieve({"a": {"l": [1, 2]}}, path)
    assert isinstance(error.value.cause, cause)
    assert (error.value.keys, error.value.visited) == (path.split("/"), visited)
    lines = str(error.value).split("\n")
    assert lines == [f"Key not found: {path.split('/')}", f"Visited: {visited}", "Cause:", str(error.value.cause)]


@pytest.mark.parametrize("leaf", [5, None, "text"])
def test_nothing_lies_below_a_leaf(leaf):
    with pytest.raises(KeyNotFoundError):
        retrieve({"a": leaf}, "a/0")
    assert retrieve({"a": leaf}, "a/0", default=7, pass_success=True) == (7, False)


def test_a_found_value_may_be_none():
    assert retrieve({"a": None}, "a", default=7, pass_success=True) == (None, True)


def test_message_of_a_bare_error():
    assert str(KeyNotFoundError(ValueError("why"))) == "Cause:\nwhy"
