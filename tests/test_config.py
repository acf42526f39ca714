"""Configurations: merging with remembered sources, and the schema of a training config."""

import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from taming.config import (
    COMMAND_LINE,
    ConfigError,
    ConfigSource,
    load_config,
    merge_sources,
    read_sources,
    source_of,
    validate_config,
)

PARTS = """
class Model:
    def __init__(self, ddconfig, n_embed, monitor=None):
        raise AssertionError("validation builds nothing")


class Data:
    def __init__(self, batch_size, root=None):
        raise AssertionError("validation builds nothing")
"""


@pytest.fixture(autouse=True)
def user_parts(user_module):
    user_module("parts", PARTS)


BASE = """
    model: {base_learning_rate: 4.5e-6, target: parts.Model, params: {n_embed: 8, ddconfig: {ch: 4, ch_mult: [1, 2]}}}
    data:
        target: main.DataModuleFromConfig
        params: {batch_size: 3, train: {target: parts.Data, params: {batch_size: 1}}}
"""


def write(path, text):
    path.write_text(textwrap.dedent(text))
    return path


def config_with(tmp_path, *overrides):
    return load_config([write(tmp_path / "base.yaml", BASE)], overrides)


def line_of(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_later_sources_win_mappings_merge_and_lists_are_replaced(tmp_path):
    first = write(tmp_path / "a.yaml", "m: {x: 1, y: {p: 1, q: 2}, l: [1, 2, 3]}")
    second = write(tmp_path / "b.yaml", "m: {y: {q: 3}, l: [4]}\nn: 1")
    config = load_config([first, second], ["m.y.r=4", "m.x=null"])
    assert config == {"m": {"x": None, "y": {"p": 1, "q": 3, "r": 4}, "l": [4]}, "n": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4.5e-6", 4.5e-6),
        ("1e-4", 1e-4),
        ("0,", "0,"),
        ("null", None),
        ("None", "None"),
        ("true", True),
        ("[1,2]", [1, 2]),
        ("{b: 1, c: {d: x}}", {"b": 1, "c": {"d": "x"}}),
        ("a=b", "a=b"),
    ],
)
def test_override_values_are_yaml(text, value):
    assert load_config([], [f"k.a={text}"]).k.a == value


def test_interpolations_see_the_merged_config(tmp_path):
    base = write(tmp_path / "a.yaml", "size: 256\nmodel: {resolution: '${size}'}")
    assert load_config([base], ["size=64"]).model.resolution == 64


def test_an_override_merges_into_the_base_data_unless_that_is_ignored(tmp_path):
    override = "data={target: parts.Data, params: {batch_size: 1}}"
    assert "train" in config_with(tmp_path, override).data.params
    config = load_config([tmp_path / "base.yaml"], [override], ignore_base_data=True)
    assert config.data == {"target": "parts.Data", "params": {"batch_size": 1}}


def test_sources_are_remembered_by_leaf_section_and_absent_key(tmp_path):
    other = write(tmp_path / "other.yaml", "model: {params: {n_embed: 16}}")
    base = write(tmp_path / "base.yaml", BASE)
    config = load_config([base, other], ["model.params.ddconfig.ch=8"])
    assert source_of(config, "model.params.n_embed") == str(other)
    assert source_of(config.model.params, "ddconfig.ch_mult") == str(base)
    assert source_of(config.model.params.ddconfig, "ch") == COMMAND_LINE
    assert source_of(config.model.params.ddconfig) == f"{COMMAND_LINE}, {base}"
    assert source_of(config.data, "params.absent") == str(base)
    assert source_of(config, "absent") == f"{base}, {other}, {COMMAND_LINE}"
    assert source_of(OmegaConf.create({"a": 1}), "a") == ""


def test_merging_again_keeps_the_names_of_sources(tmp_path):
    config = config_with(tmp_path, "model.params.n_embed=4")
    program = ConfigSource("the program", OmegaConf.create({"model": {"params": {"monitor": "val/loss"}}}))
    merged = merge_sources([ConfigSource("", config), program])
    names = {key: source_of(merged.model.params, key) for key in ("n_embed", "monitor")}
    assert names == {"n_embed": COMMAND_LINE, "monitor": "the program"}
    assert source_of(merged, "data.params.batch_size") == str(tmp_path / "base.yaml")


def test_sources_can_be_read_one_by_one(tmp_path):
    base = write(tmp_path / "base.yaml", BASE)
    sources = read_sources([base], ["a=1", "b.c=2"])
    assert [source.name for source in sources] == [str(base), COMMAND_LINE]
    assert sources[1].config == {"a": 1, "b": {"c": 2}}


@given(
    st.recursive(
        st.integers() | st.none(),
        lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        max_leaves=8,
    ).filter(lambda value: isinstance(value, dict)),
    st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=2),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_each_leaf_of_a_merged_config_has_the_source_that_set_it(first, second):
    merged = merge_sources([ConfigSource("1", OmegaConf.create(first)), ConfigSource("2", OmegaConf.create(second))])
    for key, value in merged.items():
        if not isinstance(value, DictConfig):
            assert source_of(merged, key) == ("2" if key in second else "1")


def test_missing_file_names_the_nearest_one(tmp_path):
    write(tmp_path / "faceshq_vqgan.yaml", "a: 1")
    with pytest.raises(
        ConfigError, match=r"faceshq_vqgam.yaml: no such config file.*mean .*faceshq_vqgan.yaml"
    ) as error:
        load_config([tmp_path / "faceshq_vqgam.yaml"])
    assert isinstance(error.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model:\n  a: [1,\n", ("line 3", "YAML")),
        ("a: 1\na: 2", ("line 2", "duplicate key a")),
        ("a:\n\tb: 1", ("line 2", "YAML")),
        ("a: !!python/object:os.system x", ("line 1", "tag")),
        ("- 1\n- 2", ("not a list",)),
    ],
)
def test_file_that_is_no_yaml_mapping(tmp_path, text, parts):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config([path])
    assert all(part in line_of(error) for part in (str(path), *parts))


def test_file_that_is_no_text(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ConfigError, match=r"bad.yaml: not a text file"):
        load_config([tmp_path / "bad.yaml"])


@pytest.mark.parametrize("item", ["word", "--a=1", "=1", "a..b=1", "a.=1"])
def test_override_without_a_key(item):
    with pytest.raises(ConfigError, match=f"{COMMAND_LINE}: '{item}' is not an override"):
        load_config([], [item])


def test_override_with_a_broken_value():
    with pytest.raises(ConfigError) as error:
        load_config([], ["a.b={c: "])
    assert line_of(error).startswith(f"{COMMAND_LINE}: a.b = {{c: , line 2: not valid YAML")


def test_list_over_section(tmp_path):
    with pytest.raises(ConfigError) as error:
        config_with(tmp_path, "model.params.ddconfig=[1]")
    assert f"{COMMAND_LINE}: model.params.ddconfig cannot be merged" in line_of(error)


def test_a_complete_config_is_valid(tmp_path):
    validate_config(config_with(tmp_path, "lightning.trainer.max_epochs=1", "lightning.callbacks.image_logger=null"))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("modle.params.n_embed=1", ("modle", "did you mean model")),
        ("lightening={}", ("lightening", "did you mean lightning")),
        ("data.params.batchsize=3", ("data.params.batchsize = 3", "batch_size", "validation", "num_workers")),
        ("data.params.valdation={target: parts.Data}", ("data.params.valdation", "did you mean validation")),
        ("data.params.train.params.rot=x", ("data.params.train.params.rot", "did you mean root")),
        ("data.params.train.target=parts.Dta", ("data.params.train.target", "did you mean parts.Data")),
        ("lightning.callback={}", ("lightning.callback", "did you mean callbacks")),
        ("lightning.modelchekpoint={}", ("lightning.modelchekpoint", "did you mean modelcheckpoint")),
        ("model.learning_rate=1", ("model.learning_rate", "valid: base_learning_rate")),
        ("model.base_learning_rate=fast", ("model.base_learning_rate = fast", "expected a number")),
        ("data.params.batch_size=[1]", ("data.params.batch_size = [1]", "expected a number")),
        ("model.params.n_emb=1", ("model.params.n_emb", "did you mean n_embed")),
    ],
)
def test_mistakes_in_the_schema(tmp_path, override, parts):
    with pytest.raises(ConfigError) as error:
        validate_config(config_with(tmp_path, override))
    for part in (COMMAND_LINE, *parts):
        assert part in line_of(error)


@pytest.mark.parametrize(
    "key",
    [
        "model",
        "data",
        "model.target",
        "model.base_learning_rate",
        "data.target",
        "data.params",
        "data.params.batch_size",
    ],
)
def test_what_is_required(tmp_path, key):
    config = config_with(tmp_path)
    OmegaConf.update(config, key, None, merge=False)
    with pytest.raises(ConfigError, match=f"base.yaml: {key}: .*missing"):
        validate_config(config)


def test_an_unknown_section_that_is_no_slip_only_warns(tmp_path, caplog):
    validate_config(config_with(tmp_path, "my_anchors={a: 1}"))
    assert "my_anchors is ignored" in caplog.text
