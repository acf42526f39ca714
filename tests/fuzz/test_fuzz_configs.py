"""Configs of any content, and lists in options: what is merged, what is read, and that the rest is one line."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from taming.config import ConfigError, ConfigSource, load_config, merge_sources, source_of
from taming.data.imagenet_labels import str_to_indices
from taming.sampling.classes import parse_classes
from taming.sampling.options import parse_top_k
from taming.training.legacy_trainer import parse_devices

bounded = settings(derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

VALUES = st.integers() | st.booleans() | st.none() | st.text("ab ,", max_size=3) | st.lists(st.integers(), max_size=2)
CONTENTS = st.recursive(
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), VALUES | inner, max_size=3),
    max_leaves=6,
)


def merged_by_hand(first, second):
    """Mappings merge, all else is replaced; None where OmegaConf refuses, a list over a mapping or the reverse."""
    result = dict(first)
    for key, value in second.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = merged_by_hand(old, value)
        elif {type(old), type(value)} == {dict, list}:
            raise ConfigError("refused")
        else:
            result[key] = value
    return result


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except ConfigError:
        return ConfigError


def merge(*contents):
    return merge_sources(
        [ConfigSource(str(index), OmegaConf.create(content)) for index, content in enumerate(contents)]
    )


def leaves(content, prefix=""):
    for key, value in content.items():
        if isinstance(value, DictConfig) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@bounded
@given(CONTENTS, CONTENTS)
def test_merging_is_as_by_hand(first, second):
    expected, got = outcome(merged_by_hand, first, second), outcome(merge, first, second)
    assert got == expected


@bounded
@given(CONTENTS, CONTENTS, CONTENTS)
def test_merging_in_two_steps_is_merging_in_one(first, second, third):
    at_once = outcome(merge, first, second, third)
    if at_once is ConfigError:
        return
    two = merge_sources([ConfigSource("", merge(first, second)), ConfigSource("2", OmegaConf.create(third))])
    assert two == at_once
    assert {leaf: source_of(two, leaf) for leaf in leaves(two)} == {
        leaf: source_of(at_once, leaf) for leaf in leaves(at_once)
    }


@bounded
@given(st.lists(CONTENTS, min_size=1, max_size=4))
def test_each_leaf_comes_from_the_last_source_that_has_it(contents):
    merged = outcome(merge, *contents)
    for leaf in () if merged is ConfigError else leaves(merged):
        value = OmegaConf.select(merged, leaf)
        last = [str(i) for i, content in enumerate(contents) if has(content, leaf.split("."))][-1]
        assert source_of(merged, leaf) == last or value == {}, leaf


def has(content, path):
    return path[0] in content and (
        len(path) == 1 or (isinstance(content[path[0]], dict) and has(content[path[0]], path[1:]))
    )


YAML_TEXT = st.text("ab:-{}[]!&*#|>'\"%@`,?\\$ \n\t1.", max_size=30) | st.sampled_from(
    ["a: !!float x", "a: ${", "a: !!timestamp 2", "a: !!set {b}", "null: 1", "a: &x [*x]", "[" * 3000, "a: !!int ''"]
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "any.yaml"


@settings(bounded, max_examples=150)
@given(content=st.binary(max_size=20) | YAML_TEXT.map(str.encode))
def test_any_file_is_a_config_or_one_line_that_names_it(file, content):
    file.write_bytes(content)
    try:
        assert isinstance(load_config([file]), DictConfig)
    except ConfigError as error:
        assert str(error).startswith(str(file)) and "\n" not in str(error)


@settings(bounded, max_examples=100)
@given(st.text("ab.=", max_size=5) | st.just("a="), YAML_TEXT)
def test_any_override_is_one_or_one_line(key, value):
    try:
        assert isinstance(load_config([], [f"{key}{value}"]), DictConfig)
    except ConfigError as error:
        assert "\n" not in str(error)


LISTS = st.text("0123456789,-. a", max_size=12)


@bounded
@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.booleans(), st.sampled_from(["", " "]))
def test_lists_of_devices(indices, trailing, space):
    text = f",{space}".join(map(str, indices)) + ("," if trailing or len(indices) == 1 else "")
    assert parse_devices(text) == parse_devices(indices) == indices
    assert parse_devices(str(indices[0])) == parse_devices(indices[0]) == indices[0]


@settings(bounded, max_examples=150)
@given(LISTS)
def test_any_text_as_a_list(text):
    for parse in (parse_devices, parse_top_k, str_to_indices, lambda text: parse_classes(text, 50)):
        try:
            parse(text)
        except ValueError as error:
            assert "\n" not in str(error)


RANGES = st.lists(st.tuples(st.integers(0, 49), st.integers(0, 49)).map(sorted), min_size=1, max_size=5)


@bounded
@given(RANGES, st.booleans())
def test_lists_of_classes(ranges, trailing):
    """Published lists of ImageNet leave out the end of a range; lists of classes to sample have it."""
    items = [str(a) if a == b else f"{a}-{b}" for a, b in ranges]
    labels = [label for a, b in ranges for label in range(a, b + 1)]
    text = ",".join(items) + ("," if trailing else "")
    assert list(parse_classes(text, 50)) == list(dict.fromkeys(labels)) == list(parse_classes(items, 50))
    assert str_to_indices(",".join(items)) == sorted(x for a, b in ranges for x in range(a, max(b, a + (a == b))))
    with pytest.raises(ValueError, match="out of range"):
        parse_classes(f"{text.rstrip(',')},50", 50)


@bounded
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
def test_lists_of_k(ks):
    assert parse_top_k(",".join(map(str, ks))) == parse_top_k(ks) == tuple(ks)
    assert re.fullmatch(r"\d+(,\d+)*", ",".join(map(str, parse_top_k(ks))))
