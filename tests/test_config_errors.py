"""Names and keys in messages about configurations."""

from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from taming.config_errors import edit_distance, key_path, nearest, one_line, suggestion, typo_limit


def test_nearest():
    names = ["ch", "ch_mult", "num_res_blocks", "VQModel"]
    assert nearest("ch_mlt", names) == "ch_mult"
    assert nearest("vqmodel", names) == "VQModel"
    assert nearest("num_res_block", names) == "num_res_blocks"
    assert nearest("resolution", names) is None
    assert nearest("anything", []) is None


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
@settings(deadline=None)
def test_edit_distance_is_symmetric_and_bounded(a, b):
    distance = edit_distance(a, b)
    assert distance == edit_distance(b, a)
    assert abs(len(a) - len(b)) <= distance <= max(len(a), len(b))
    assert (distance == 0) == (a == b)


def test_edit_distance_of_single_slips():
    assert [edit_distance("ch_mult", slip) for slip in ("ch_mlt", "ch_mullt", "ch_mulk", "ch_mutl")] == [1, 1, 1, 1]


def test_key_path():
    config = OmegaConf.create({"a": {"b": [{"c": {"d": 1}}]}})
    assert key_path(config) == ""
    assert key_path(config.a, "x") == "a.x"
    assert key_path(config.a.b[0].c, "d") == "a.b[0].c.d"
    assert key_path({"d": 1}, "d", where="a.c") == "a.c.d"


def test_suggestions_list_the_valid_names_if_they_are_few():
    assert suggestion("sise", ["size", "root"]) == "; did you mean size? (valid: size, root)"
    assert suggestion("unlike", ["size", "root"]) == " (valid: size, root)"
    assert suggestion("name7", [f"name{i}" for i in range(100)]) == "; did you mean name7?"
    assert suggestion("ab", ["xb"], limit=0) == " (valid: xb)"


def test_short_names_are_taken_for_a_slip_only_if_one_letter_differs():
    assert [typo_limit(name) for name in ("mode", "batchsize", "attn_resolutoins")] == [1, 2, 3]


def test_one_line():
    assert one_line(ValueError("a\n   b\n\n c")) == "a b c"
    assert one_line(FileNotFoundError(2, "No such file or directory", "x.txt")) == "x.txt: No such file or directory"
    assert one_line(KeyError()) == "KeyError"
