"""Configs that came with a downloaded model name harmless classes only; a config of one's own names anything."""

import os
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tiny_configs import first_stage

import taming
from taming.cli import run_command
from taming.config import COMMAND_LINE, ConfigError, instantiate_from_config, load_config, source_of
from taming.instantiation import MAIN_EXPORTS, REFUSED
from taming.published import MODELS
from taming.runs import load_model, resolve_run
from taming.training import get_parser
from taming.training.run_plan import make_plan
from taming.trusted_targets import MARK, is_downloaded, mark_as_downloaded, restricted

ROOT = Path(__file__).parents[2]
REFUSAL = "came with a downloaded model, so it may only name"
NAMED = {model.name: model.folder for model in MODELS}["drin_transformer"]


def config_file(folder, content, name="model.yaml"):
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(content), folder / "configs" / name)
    return folder / "configs" / name


def run(folder, target="torch.nn.Identity", **sections):
    """A run folder of a tiny first stage whose loss is this target."""
    model = first_stage(resolution=4, n_embed=4, lossconfig={"target": target})
    config_file(folder, {"model": {"base_learning_rate": 1.0, **model}, **sections})
    (folder / "checkpoints").mkdir(exist_ok=True)
    weights = instantiate_from_config(first_stage(resolution=4, n_embed=4)).state_dict()
    torch.save({"state_dict": weights}, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture
def downloaded(tmp_path):
    """A function that makes such a run folder as if it had been downloaded."""

    def make(target="torch.nn.Identity", **sections):
        mark_as_downloaded(tmp_path / "model")
        return run(tmp_path / "model", target, **sections)

    return make


REFUSED_TARGETS = [
    "os.system",
    "subprocess.Popen",
    "builtins.exec",
    "antigravity.webbrowser",
    "someones.module.Loss",
    "torch.hub.load",
    "torch.load",
    "torch.jit.load",
    "torch.nn.init.constant_",
    "torch.utils.cpp_extension.load",
    "torch.serialization.FileLike",
    "torch.distributed.run.main",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.loggers.MLFlowLogger",
    "taming.util.download",
    "taming.util.urlopen",
    "taming.data.utils.unpack",
    "taming.data.utils.download_url",
    "taming.data.utils.Path",
    "taming.data.segmenters.load_deeplab_v2",
    "taming.data.webdataset.WebImages",
    "taming.training.fit.train",
    "taming.cli.run_command",
    "taming.config.instantiate_from_config",
    "main.instantiate_from_config",
    "main.get_obj_from_str",
    "taming",
    "tamingx.models.VQModel",
    "torch.nnx.Module",
    "",
]


@pytest.mark.parametrize("target", REFUSED_TARGETS)
def test_refused(target):
    config = restricted(OmegaConf.create({"loss": {"target": target}}), "model.yaml")
    with pytest.raises(ConfigError, match=REFUSAL) as caught:
        instantiate_from_config(config.loss)
    assert f"loss.target = {REFUSED}{target}" in str(caught.value) and "\n" not in str(caught.value)


def test_what_published_and_our_own_configs_name_is_allowed():
    """But for addresses of tar files, which may be commands."""
    texts = [str(model.config()) for model in MODELS if model.config]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "configs").rglob("*.yaml")]
    targets = sorted({target for text in texts for target in re.findall(r"target'?: *'?([\w.]+)", text)})
    assert len(targets) > 30
    config = OmegaConf.create([{"target": target} for target in targets if "webdataset" not in target])
    assert restricted(config, "x") == config


@pytest.mark.parametrize("target", [*MAIN_EXPORTS.values()])
def test_what_main_exports_is_named_by_class_only(target):
    is_class = target.rpartition(".")[2][0].isupper()
    assert restricted(OmegaConf.create({"target": target}), "x").target.startswith(REFUSED) == (not is_class)


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.Identity",
        "torch.nn.modules.linear.Linear",
        "torch.optim.lr_scheduler.LambdaLR",
        "pytorch_lightning.loggers.TensorBoardLogger",
        "pytorch_lightning.loggers.TestTubeLogger",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "pytorch_lightning.callbacks.EarlyStopping",
        "ldm.models.autoencoder.VQModelInterface",
        "cutlit.DataModuleFromConfig",
        "taming.models.vqgan.VQMdel",  # no such name, as using it will say
        "taming.models.gone.VQModel",
        "taming.data.open_images_helper.top_300_classes_plus_coco_compatibility",  # a list
    ],
)
def test_allowed(target):
    config = OmegaConf.create({"a": [{"some_target": target}], "target": target})
    assert restricted(config, "x") == config


def test_only_using_it_is_an_error(downloaded):
    """Published configs name the data of their training, by modules that nobody else has."""
    folder = downloaded(data={"target": "cutlit.DataModuleFromConfig", "params": {"train": {"target": "theirs.Data"}}})
    loaded = load_model(resolve_run(folder))
    assert loaded.config.data.params.train.target == f"{REFUSED}theirs.Data"
    with pytest.raises(
        ConfigError, match=rf"data\.params\.train\.target = {REFUSED}theirs\.Data: this config {REFUSAL}"
    ):
        instantiate_from_config(loaded.config.data.params.train)


def test_a_run_folder_that_was_downloaded(downloaded, tmp_path):
    folder = downloaded("os.getcwd")
    with pytest.raises(ConfigError, match=REFUSAL) as caught:
        load_model(resolve_run(folder))
    assert str(caught.value).startswith(f"{folder / 'configs' / 'model.yaml'}: model.params.lossconfig.target")
    (folder / MARK).unlink()
    assert load_model(resolve_run(folder)).model.loss == os.getcwd()


def test_what_the_user_names_is_free(downloaded, tmp_path, user_module):
    user_module("mine", "import torch\nclass Loss(torch.nn.Module): ...\n")
    run_of = resolve_run(downloaded("os.getcwd"))
    own = config_file(tmp_path / "own", {"model": {"params": {"lossconfig": {"target": "mine.Loss"}}}})
    assert type(load_model(run_of, bases=[own]).model.loss).__module__ == "mine"
    loaded = load_model(run_of, overrides=["model.params.lossconfig.target=mine.Loss"])
    assert source_of(loaded.config, "model.params.lossconfig.target") == COMMAND_LINE


@pytest.mark.parametrize("place", [NAMED, "logs/2020-01-01T00-00-00_mine"])
def test_a_folder_with_the_name_of_a_published_model_counts_without_a_mark(tmp_path, place):
    folder = run(tmp_path / place)
    assert is_downloaded(folder / "configs" / "model.yaml") == (place == NAMED)
    (tmp_path / "link").symlink_to(folder)
    assert is_downloaded(tmp_path / "link" / "configs" / "model.yaml") == (place == NAMED)


def test_factories_restrict_the_config_of_any_folder(tmp_path):
    folder = run(tmp_path / "anywhere", "os.getcwd")
    with pytest.raises(ConfigError, match=REFUSAL):
        taming.vqgan_imagenet_f16_1024(pretrained=folder)
    model = taming.vqgan_imagenet_f16_1024(pretrained=folder, lossconfig={"target": "torch.nn.Identity"})
    assert isinstance(model.loss, torch.nn.Identity)


def test_training_goes_on_under_the_same_rule(downloaded):
    data = {"target": "main.DataModuleFromConfig", "params": {"batch_size": 1, "train": {"target": "os.getcwd"}}}
    folder = downloaded(data=data, lightning={"callbacks": {"x": {"target": "os.getcwd"}}})
    options = get_parser().parse_args(["-r", str(folder)])
    with pytest.raises(ConfigError, match=r"data\.params\.train\.target.*downloaded"):
        make_plan(options, [], "now", "name")
    plan = make_plan(options, ["data.params.train.target=taming.data.digits.DigitsTrain"], "now", "name")
    assert plan.config.lightning.callbacks.x.target == f"{REFUSED}os.getcwd"


INTERPOLATIONS = [
    "${oc.env:HOME}",
    "a ${oc.env:HOME} b",
    "${${name}:HOME}",
    "${oc.decode:x}",
    "${oc.env:X,${a}}",
    "${a",
]


@pytest.mark.parametrize("value", INTERPOLATIONS)
def test_no_resolver_is_called_for_a_stranger(value, downloaded, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "secret")
    folder = downloaded()
    path = folder / "configs" / "extra.yaml"
    path.write_text(f"model:\n  params:\n    monitor: '{value}'\n")
    with pytest.raises(ConfigError, match=r"extra\.yaml: ") as caught:
        load_config([path])
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert run_command(lambda argv: load_model(resolve_run(folder))) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


def test_references_within_a_config_work(downloaded):
    folder = downloaded(shared={"loss": "os.getcwd", "metric": "val/rec_loss"})
    path = folder / "configs" / "more.yaml"
    path.write_text("model:\n  params:\n    monitor: ${shared.metric}\n")
    assert load_model(resolve_run(folder)).model.monitor == "val/rec_loss"
    path.write_text("model:\n  params:\n    lossconfig: {target: '${shared.loss}'}\n")
    with pytest.raises(ConfigError, match=REFUSAL):
        load_model(resolve_run(folder))


def test_a_config_of_ones_own_may_ask_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "there")
    path = tmp_path / "own.yaml"
    path.write_text("data: {root: '${oc.env:HOME}/images'}\n")
    assert load_config([path]).data.root == "there/images"


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!ruby/object:X"]
)
def test_tags_of_yaml_make_no_objects(tmp_path, tag):
    path = tmp_path / "own.yaml"
    path.write_text(f"model: {tag}\n")
    with pytest.raises(ConfigError, match=r"own\.yaml, line 1: not valid YAML") as caught:
        load_config([path])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="command line: model"):
        load_config([], [f"model={tag}"])


def test_aliases_of_yaml_do_not_fill_the_memory(tmp_path):
    """Nine lines that mean 10^9 values."""
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"bomb.yaml.*expansion exceeds"):
        load_config([tmp_path / "bomb.yaml"])
