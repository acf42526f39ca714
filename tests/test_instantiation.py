"""From target configs to objects; messages of mistakes name source, full key and the right name."""

import logging
import sys
import textwrap

import pytest
from omegaconf import ListConfig, OmegaConf

from taming.config import (
    COMMAND_LINE,
    ConfigError,
    check_keywords,
    get_obj_from_str,
    instantiate_from_config,
    load_config,
)
from taming.instantiation import DEAD_TARGETS, MAIN_EXPORTS, Keywords, _notice_dead_target, library_targets

PARTS = """
from taming.config import check_keywords, instantiate_from_config


class Encoder:
    def __init__(self, *, ch, ch_mult=(1, 2), in_channels=3, **ignored):
        self.ch_mult = ch_mult


class Loss:
    def __init__(self, weight=1.0):
        self.weight = weight


class Model:
    def __init__(self, ddconfig, lossconfig, n_embed, monitor=None):
        check_keywords(Encoder, ddconfig, "ddconfig")
        self.encoder = Encoder(**ddconfig)
        self.loss = instantiate_from_config(lossconfig)
        self.n_embed = n_embed


class Labelled(Model):
    def __init__(self, n_labels, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Keeps:
    def __init__(self, **kwargs):
        self.kwargs = kwargs


class PathLost:
    def __init__(self, part):
        from omegaconf import OmegaConf

        self.part = instantiate_from_config(OmegaConf.to_container(part))


class Refuses:
    def __init__(self, size):
        raise ValueError(f"size {size} is odd,\\nmust be even")


class ReadsList:
    def __init__(self, list_file, name="image"):
        open(list_file)


class Broken:
    def __init__(self, size=1):
        len(size)


class BrokenCall:
    def __init__(self, size=1):
        def helper(size):
            return size

        helper()


class Data:
    def __init__(self, batch_size, root=None):
        self.batch_size = batch_size


def build(size, scale=2):
    return size * scale
"""


@pytest.fixture(autouse=True)
def user_parts(user_module):
    user_module("parts", PARTS)


BASE = """
    model:
      target: parts.Model
      params:
        n_embed: 8
        ddconfig: {ch: 4, ch_mult: [1, 2], double_z: false}
        lossconfig: {target: parts.Loss, params: {weight: 0.5}}
"""


def write(path, text):
    path.write_text(textwrap.dedent(text))
    return path


def config_with(tmp_path, *overrides):
    return load_config([write(tmp_path / "base.yaml", BASE)], overrides)


def line_of(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [*MAIN_EXPORTS, *DEAD_TARGETS])
def test_aliases_lead_to_objects_without_importing_main(name):
    assert get_obj_from_str(name).__name__ == (DEAD_TARGETS | MAIN_EXPORTS)[name].rpartition(".")[2]


def test_dead_targets_are_noticed_once(caplog):
    _notice_dead_target.cache_clear()
    caplog.set_level(logging.INFO, logger="taming")
    for _ in range(2):
        get_obj_from_str("pytorch_lightning.loggers.TestTubeLogger")
    assert [record.getMessage() for record in caplog.records] == [
        "pytorch_lightning.loggers.TestTubeLogger no longer exists: using pytorch_lightning.loggers.TensorBoardLogger"
    ]


def test_reload_executes_the_module_again(tmp_path):
    write(tmp_path / "versioned.py", "def version(): return 1")
    assert get_obj_from_str("versioned.version")() == 1
    (tmp_path / "versioned.py").write_text("def version(): return 2 # changed")
    assert get_obj_from_str("versioned.version")() == 1
    assert get_obj_from_str("versioned.version", reload=True)() == 2


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("taming.models.vqgan.VQMdel", "did you mean taming.models.vqgan.VQModel?"),
        ("taming.models.vqgna.VQModel", "no module taming.models.vqgna; did you mean taming.models.vqgan.VQModel?"),
        ("taming.models.vqgan.Net2NetTransformer", "mean taming.models.cond_transformer.Net2NetTransformer?"),
        ("pytorch_lightning.callbacks.ModelChekpoint", "mean pytorch_lightning.callbacks.ModelCheckpoint?"),
        ("main.ImageLoger", "did you mean main.ImageLogger?"),
        ("VQModel", "not the dotted path"),
        (".VQModel", "not the dotted path"),
        ("no_such_thing_here.Thing", "there is no module no_such_thing_here"),
    ],
)
def test_target_that_does_not_exist(tmp_path, target, hint):
    config = config_with(tmp_path, f"model.target={target}")
    with pytest.raises(ConfigError) as error:
        instantiate_from_config(config.model)
    assert line_of(error).startswith(f"{COMMAND_LINE}: model.target = {target}: ")
    assert hint in line_of(error)


def test_library_targets_are_read_from_source():
    assert "taming.config.ConfigSource" in library_targets()
    assert not any("._" in target for target in library_targets())


def test_a_module_that_misses_another_one_is_not_blamed_on_the_target(tmp_path):
    write(tmp_path / "needy.py", "import not_installed_anywhere\nclass Thing: pass")
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        instantiate_from_config({"target": "needy.Thing"})


def test_typos_in_nested_sections_have_the_full_key_and_the_file(tmp_path):
    base = tmp_path / "base.yaml"
    for override, message in {
        "model.params.n_emb=3": "model.params.n_emb = 3: Model has no such parameter; did you mean n_embed? (valid: ",
        "model.params.ddconfig.ch_mlt=[1]": "model.params.ddconfig.ch_mlt = [1]: Encoder has no such parameter; "
        "did you mean ch_mult? (valid: ch, ch_mult, in_channels)",
        "model.params.lossconfig.params.wieght=1": "model.params.lossconfig.params.wieght = 1: Loss has no such "
        "parameter; did you mean weight?",
        "model.params.lossconfig.target=parts.Los": "model.params.lossconfig.target = parts.Los: module parts has no "
        "Los; did you mean parts.Loss?",
        "model.param.n_embed=3": "model.param: unknown key; did you mean params?",
    }.items():
        with pytest.raises(ConfigError) as error:
            instantiate_from_config(config_with(tmp_path, override).model)
        assert line_of(error).startswith(f"{COMMAND_LINE}: {message}")
    base.write_text(textwrap.dedent(BASE).replace("ch_mult", "ch_mlt"))
    with pytest.raises(ConfigError, match=f"^{base}: model.params.ddconfig.ch_mlt") as error:
        instantiate_from_config(load_config([base]).model)
    assert error.value.key == "model.params.ddconfig.ch_mlt"


def test_names_that_a_constructor_ignores_pass_unless_they_look_like_a_slip(tmp_path):
    model = instantiate_from_config(config_with(tmp_path, "model.params.ddconfig.attn_type=vanilla").model)
    assert model.encoder.ch_mult == [1, 2]
    assert isinstance(model.encoder.ch_mult, ListConfig)
    parts = sys.modules["parts"]
    check_keywords(parts.Encoder, {"ch": 1, "double_z": True}, "ddconfig")
    with pytest.raises(ConfigError, match=r"^ddconfig.ch_mutl = 2: .* did you mean ch_mult"):
        check_keywords(parts.Encoder, {"ch": 1, "ch_mutl": 2}, "ddconfig")
    assert instantiate_from_config({"target": "parts.Keeps", "params": {"anything": 1}}).kwargs == {"anything": 1}


def test_keywords_follow_kwargs_to_base_classes():
    labelled = Keywords.of(get_obj_from_str("parts.Labelled"))
    assert labelled.names == ("n_labels", "ddconfig", "lossconfig", "n_embed", "monitor")
    assert (labelled.required, labelled.swallows) == (("n_labels",), False)
    assert Keywords.of(get_obj_from_str("parts.build")) == Keywords(("size", "scale"), ("size",), False)
    assert Keywords.of(get_obj_from_str("parts.Encoder")).swallows


@pytest.mark.parametrize(
    ("present", "absent", "key", "name"),
    [
        ("n_embed: 8", "", "model.params.n_embed", "Model"),
        ("n_embed: 8", "n_embed: ???", "model.params.n_embed", "Model"),
        ("ch: 4, ", "", "model.params.ddconfig.ch", "Encoder"),
        ("parts.Model", "parts.Labelled", "model.params.n_labels", "Labelled"),
        ("{target: parts.Loss, params: {weight: 0.5}}", "{target: parts.Data}", "lossconfig.params.batch_size", "Data"),
        ("{target: parts.Loss, params: {weight: 0.5}}", "{target: parts.Data, params: {}}", "batch_size", "Data"),
    ],
)
def test_required_parameter_that_is_missing(tmp_path, present, absent, key, name):
    base = write(tmp_path / "base.yaml", BASE.replace(present, absent))
    with pytest.raises(ConfigError, match=f"^{base}: .*{key}.*: missing, but {name} requires it") as error:
        instantiate_from_config(load_config([base]).model)
    assert isinstance(error.value, KeyError)


def test_required_parameter_of_a_base_class():
    config = {"target": "parts.Labelled", "params": {"n_labels": 2, "ddconfig": {"ch": 1}, "n_embed": 2}}
    with pytest.raises(ConfigError, match=r"^params.lossconfig: missing, but Labelled requires it"):
        instantiate_from_config(config)


def test_errors_that_are_no_mistakes_of_the_user_pass_unchanged():
    with pytest.raises(TypeError, match="has no len"):
        instantiate_from_config({"target": "parts.Broken"})
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'size'") as error:
        instantiate_from_config({"target": "parts.BrokenCall"})
    assert not isinstance(error.value, ConfigError)


def test_a_constructor_s_refusal_gets_the_section_s_key(tmp_path):
    config = config_with(tmp_path, "model.params.lossconfig={target: parts.Refuses, params: null}")
    config.model.params.lossconfig.params = {"size": 3}
    with pytest.raises(ConfigError) as error:
        instantiate_from_config(config.model)
    assert line_of(error).endswith(": model.params.lossconfig: size 3 is odd, must be even")


def test_a_file_that_is_not_there_names_the_key_to_edit(tmp_path):
    config = config_with(tmp_path, "data.params.train={target: parts.ReadsList}")
    config.data.params.train.params = {"list_file": "some/training.txt", "name": "training"}
    with pytest.raises(ConfigError) as error:
        instantiate_from_config(config.data.params.train)
    assert "data.params.train.params.list_file = some/training.txt: not found" in line_of(error)
    assert isinstance(error.value, FileNotFoundError)


def test_a_section_that_lost_its_place_is_found_by_the_section_around_it(tmp_path):
    override = "model={target: parts.PathLost, params: {part: {target: parts.Loss, params: {wait: 1}}}}"
    config = load_config([], [override])
    with pytest.raises(ConfigError, match=r"^command line: model: params.wait = 1: Loss has no such parameter"):
        instantiate_from_config(config.model)


def test_broken_interpolation_is_one_line_with_its_key(tmp_path):
    with pytest.raises(ConfigError) as error:
        instantiate_from_config(config_with(tmp_path, "model.params.n_embed=${nope}").model)
    assert "model.params.n_embed: Interpolation key 'nope' not found" in line_of(error)


def test_missing_target_is_a_key_error_on_one_line():
    with pytest.raises(KeyError) as error:
        instantiate_from_config({"params": {}})
    assert str(error.value) == "target: missing: the dotted path of a class"
    for config in (None, "__is_first_stage__"):
        with pytest.raises(ConfigError, match="expected a mapping with target"):
            instantiate_from_config(config)


def test_params_may_be_empty_and_plain_dicts_arrive_as_nodes():
    assert instantiate_from_config({"target": "parts.Loss", "params": None}).weight == 1.0
    assert instantiate_from_config(OmegaConf.create({"target": "parts.Loss"})).weight == 1.0
    marker = object()
    kept = instantiate_from_config(
        {"target": "parts.Keeps", "params": {"section": {"a": {"b": 1}}, "given": marker}}
    ).kwargs
    assert kept["section"].a.b == kept["section"]["a"]["b"] == 1
    assert kept["given"] is marker
    assert instantiate_from_config({"target": "parts.build", "params": {"size": 3}}) == 6
