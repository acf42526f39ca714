"""Run folders: which checkpoint, folder and configs a path means, and the models that come out of them."""

import logging
import os

import pytest
import torch
from omegaconf import OmegaConf
from tiny_configs import first_stage
from tiny_runs import fit, write_config

from taming.checkpoint import CheckpointError
from taming.config import ConfigError, instantiate_from_config
from taming.runs import Run, build_model, load_model, load_run_config, resolve_run
from taming.training import train

MODELS = """
import torch
from taming.config import instantiate_from_config


class Stage(torch.nn.Module):
    def __init__(self, size, ckpt_path=None):
        super().__init__()
        assert ckpt_path is None, "all weights are in the run's checkpoint"
        self.encoder = torch.nn.Linear(size, size)
        self.loss = torch.nn.Linear(1, 1)


class Transformer(torch.nn.Module):
    def __init__(self, first_stage_config, cond_stage_config, ckpt_path=None, downsample_cond_size=-1,
                 downsample_cond_factor=None):
        super().__init__()
        assert ckpt_path is None
        self.first_stage_model = instantiate_from_config(first_stage_config)
        self.cond_stage_config = cond_stage_config
        self.downsampling = (downsample_cond_size, downsample_cond_factor)
"""


@pytest.fixture(autouse=True)
def models(user_module):
    user_module("run_models", MODELS)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("name", ["logs/2020-11-09T13-31-51_sflckr", "some/any name", "a.folder"])
def test_a_folder_with_any_name(tmp_path, name):
    folder = touch(
        tmp_path / name,
        *("checkpoints/last.ckpt", "checkpoints/epoch=000001.ckpt"),
        *("configs/1-project.yaml", "configs/1-lightning.yaml", "configs/2-project.yaml", "configs/2-lightning.yaml"),
    )
    configs = [folder / "configs" / "1-project.yaml", folder / "configs" / "2-project.yaml"]
    expected = Run(folder, folder / "checkpoints" / "last.ckpt", configs)
    assert resolve_run(f"{folder}/") == resolve_run(folder) == expected
    assert expected.name == name.split("/")[-1]
    assert resolve_run(folder / "checkpoints" / "last.ckpt") == expected
    assert resolve_run(folder / "checkpoints" / "epoch=000001.ckpt").logdir == folder
    assert resolve_run(name) == resolve_run(f"{name}/checkpoints/last.ckpt")
    assert str(resolve_run(f"{name}/checkpoints/last.ckpt").logdir) == os.path.normpath(name)


def test_a_downloaded_folder(tmp_path):
    folder = touch(
        tmp_path / "vqgan", "ckpts/last.ckpt", "configs/model.yaml", "configs/more.yaml", "configs/x-lightning.yaml"
    )
    configs = [folder / "configs" / "model.yaml", folder / "configs" / "more.yaml"]
    assert resolve_run(folder) == Run(folder, folder / "ckpts" / "last.ckpt", configs)


def test_checkpoints_comes_before_ckpts_and_last_before_newer_ones(tmp_path):
    folder = touch(tmp_path / "run", "checkpoints/last.ckpt", "ckpts/last.ckpt", "checkpoints/epoch=000009.ckpt")
    assert resolve_run(folder).checkpoint == folder / "checkpoints" / "last.ckpt"
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert resolve_run(folder).checkpoint == folder / "ckpts" / "last.ckpt"


def test_without_last_the_newest_checkpoint_is_taken_and_named(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="taming")
    folder = touch(tmp_path / "run", "checkpoints/a.ckpt", "checkpoints/b.ckpt", "ckpts/c.ckpt")
    for name, age in {"checkpoints/a.ckpt": 1, "checkpoints/b.ckpt": 3, "ckpts/c.ckpt": 2}.items():
        os.utime(folder / name, (age, age))
    newest = folder / "checkpoints" / "b.ckpt"
    assert resolve_run(folder).checkpoint == newest
    assert str(newest) in caplog.text


@pytest.mark.parametrize(
    ("file", "logdir"),
    [
        ("logs/run/checkpoints/last.ckpt", "logs/run"),
        ("logs/group/logs/run/deep/er/last.ckpt", "logs/group/logs/run"),
        ("elsewhere/run/checkpoints/last.ckpt", "elsewhere/run"),
        ("elsewhere/run/ckpts/last.ckpt", "elsewhere/run"),
        ("elsewhere/weights/last.ckpt", "elsewhere/weights"),
        ("alone.ckpt", "."),
    ],
)
def test_folder_of_a_file_without_configs(tmp_path, file, logdir):
    touch(tmp_path, file)
    assert resolve_run(file) == Run((tmp_path / logdir).relative_to(tmp_path), tmp_path.__class__(file), [])
    assert resolve_run(tmp_path / file).logdir == tmp_path / logdir


def test_folder_of_a_file_is_the_nearest_one_with_configs(tmp_path):
    touch(tmp_path, "a/configs/1.yaml", "a/b/c/d/last.ckpt", "logs/run/checkpoints/x.ckpt", "configs/shipped.yaml")
    for path in ("a/b/c/d/last.ckpt", "a/configs/../b/c/d/last.ckpt"):
        assert str(resolve_run(path).logdir) == "a"
    # The configs above `logs` are those that the project ships, not the run's.
    assert resolve_run("logs/run/checkpoints/x.ckpt").configs == []


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none: no such run folder or checkpoint file"):
        resolve_run("none")
    with pytest.raises(FileNotFoundError, match="no run given"):
        resolve_run("")
    touch(tmp_path / "run", "configs/model.yaml", "checkpoints/readme.txt")
    with pytest.raises(FileNotFoundError) as error:
        resolve_run("run")
    places = [os.path.join("run", folder, "*.ckpt") for folder in ("checkpoints", "ckpts")]
    assert str(error.value) == f"run: no checkpoint in this run folder, looked for {', '.join(places)}"


CONFIG = {
    "model": {
        "base_learning_rate": 1.0,
        "target": "run_models.Transformer",
        "params": {
            "ckpt_path": "logs/start.ckpt",
            "downsample_cond_size": 32,
            "first_stage_config": {"target": "run_models.Stage", "params": {"size": 2, "ckpt_path": "logs/first.ckpt"}},
            "cond_stage_config": {"target": "run_models.Stage", "params": {"size": 2, "ckpt_path": "/path/to/c.ckpt"}},
        },
    }
}
EDITS = [
    "model.params.ckpt_path is set to null",
    "model.params.first_stage_config.params.ckpt_path is set to null",
    "model.params.cond_stage_config.params.ckpt_path is set to null",
    "model.params.downsample_cond_size is set to -1",
    "model.params.downsample_cond_factor is set to 0.5",
]


@pytest.fixture
def run(tmp_path):
    folder = touch(tmp_path / "run", "configs/1-project.yaml", "checkpoints/last.ckpt")
    OmegaConf.save(OmegaConf.create(CONFIG), folder / "configs" / "1-project.yaml")
    weights = {
        "first_stage_model.encoder.weight": torch.eye(2),
        "first_stage_model.encoder.bias": torch.ones(2),
        "first_stage_model.loss.discriminator.weight": torch.ones(1),
    }
    torch.save({"state_dict": weights, "global_step": 12}, folder / "checkpoints" / "last.ckpt")
    return resolve_run(folder)


def test_a_run_s_model_is_edited_filled_and_in_eval_mode(run, caplog):
    caplog.set_level(logging.INFO, logger="taming")
    loaded = load_model(run)
    assert torch.equal(loaded.model.first_stage_model.encoder.weight, torch.eye(2))
    assert not loaded.model.training
    assert loaded.model.downsampling == (-1, 0.5)
    assert loaded.global_step == 12
    assert loaded.edits == EDITS
    assert all(edit in caplog.text for edit in EDITS)
    assert loaded.keys.missing_keys == ["first_stage_model.loss.weight", "first_stage_model.loss.bias"]
    assert loaded.keys.unexpected_keys == ["first_stage_model.loss.discriminator.weight"]
    assert loaded.config == CONFIG


def test_markers_in_place_of_a_conditioning_stage_stay(run):
    loaded = load_model(run, overrides=["model.params.cond_stage_config=__is_unconditional__"])
    assert loaded.model.cond_stage_config == "__is_unconditional__"
    assert loaded.edits == [edit for edit in EDITS if "cond_stage" not in edit]


def test_bases_and_overrides_come_after_the_run_s_configs(run, tmp_path):
    (tmp_path / "more.yaml").write_text("data: {x: 1}\nextra: {y: 1}")
    config = load_run_config(run, bases=[tmp_path / "more.yaml"], overrides=["extra.y=2"], ignore_base_data=True)
    assert config == CONFIG | {"extra": {"y": 2}}


def test_weights_that_do_not_fit_are_errors(run):
    with pytest.raises(CheckpointError, match=r"encoder.weight is \(2, 2\) in the file, \(3, 3\) in the model"):
        load_model(run, overrides=["model.params.first_stage_config.params.size=3"])
    torch.save({"state_dict": {"first_stage_model.loss.weight": torch.ones(1, 1)}}, run.checkpoint)
    with pytest.raises(CheckpointError, match=r"missing first_stage_model.encoder \(2\)"):
        load_model(run)


def test_mistakes_in_a_run_s_config_name_its_file(run):
    with pytest.raises(
        ConfigError, match=r"^command line: model.params.first_stage_config.params.sise = 2: .*mean size"
    ):
        load_model(run, overrides=["model.params.first_stage_config.params.sise=2"])
    text = run.configs[0].read_text().replace("run_models.Stage", "run_models.Stag")
    run.configs[0].write_text(text)
    with pytest.raises(ConfigError, match=f"^{run.configs[0]}: model.params.first_stage_config.target"):
        load_model(run)


def test_a_run_without_configs(run):
    run.configs[0].unlink()
    with pytest.raises(ConfigError, match=r"no config of this run, looked for .*configs.*yaml") as error:
        load_model(resolve_run(run.logdir))
    assert "nor can one be inferred" in str(error.value) and "holds no first stage" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["bare.ckpt", "run/checkpoints/last.ckpt"])
def test_a_first_stage_without_configs_is_inferred(tmp_path, name, caplog):
    caplog.set_level(logging.INFO, logger="taming")
    model = instantiate_from_config(first_stage(resolution=16, n_embed=8))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": model.state_dict(), "global_step": 3}, tmp_path / name)
    run = resolve_run(tmp_path / name)
    loaded = load_model(run)
    assert loaded.global_step == 3 and loaded.keys == ([], [])
    assert torch.equal(loaded.model.encoder.conv_in.weight, model.encoder.conv_in.weight)
    assert loaded.config.model.params.n_embed == 8
    assert "inferred from the weights that this is a taming.models.vqgan.VQModel" in caplog.text
    changed = load_run_config(run, overrides=["model.params.image_key=depth"])
    assert changed.model.params.image_key == "depth"
    with pytest.raises(ConfigError, match=r"^command line: model.params.n_embd = 9"):
        load_model(run, overrides=["model.params.n_embd=9"])


def test_a_transformer_without_configs(tmp_path):
    weights = instantiate_from_config(first_stage(resolution=16, n_embed=8)).state_dict()
    weights = {f"first_stage_model.{key}": value for key, value in weights.items()}
    torch.save({"state_dict": weights | {"transformer.pos_emb": torch.ones(1)}}, tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match=r"nor can one be inferred: .*a.ckpt: holds no first stage"):
        load_model(resolve_run(tmp_path / "a.ckpt"))


def test_a_model_without_a_checkpoint_is_built_with_a_warning(run, caplog):
    loaded = build_model(load_run_config(run))
    assert (loaded.global_step, loaded.keys) == (0, ([], []))
    assert "weights of the model are random" in caplog.text
    with pytest.raises(ConfigError, match="model: this section is missing"):
        build_model(OmegaConf.create({}))


@pytest.fixture
def transformer(tmp_path):
    """A config file for training a transformer, whose weights and those of its first stage come from files."""
    stage = first_stage(resolution=8, n_embed=8)
    model = {
        "base_learning_rate": 0.01,
        "target": "taming.models.cond_transformer.Net2NetTransformer",
        "params": {
            "transformer_config": {
                "target": "taming.modules.transformer.mingpt.GPT",
                "params": {"vocab_size": 8, "block_size": 16, "n_layer": 1, "n_head": 1, "n_embd": 8},
            },
            "first_stage_config": stage,
            "cond_stage_config": "__is_unconditional__",
        },
    }
    torch.save({"state_dict": instantiate_from_config(stage).state_dict()}, tmp_path / "first.ckpt")
    torch.save({"state_dict": instantiate_from_config(model).state_dict()}, tmp_path / "start.ckpt")
    config = OmegaConf.load(write_config(tmp_path))
    config.model = model
    config.model.params.ckpt_path = "start.ckpt"
    config.model.params.first_stage_config.params.ckpt_path = "first.ckpt"
    OmegaConf.save(config, "transformer.yaml")
    return "transformer.yaml"


def test_a_run_goes_on_without_the_files_that_it_started_from(transformer, tmp_path):
    arguments = ["--max_steps", "1", "lightning.callbacks.image_logger=null"]
    first = fit(transformer, *arguments)
    for name in ("first.ckpt", "start.ckpt"):
        (tmp_path / name).unlink()
    second = train(["-r", str(first.logdir), "-t", "--max_steps", "2"])
    assert (second.logdir, second.trainer.global_step) == (first.logdir, 2)
    assert torch.equal(
        second.model.first_stage_model.quantize.embedding.weight,
        first.model.first_stage_model.quantize.embedding.weight,
    )
    checkpoint = str(first.logdir / "checkpoints" / "last.ckpt")
    third = fit(transformer, "-n", "again", "--resume_from_checkpoint", checkpoint, "--max_steps", "3", *arguments[2:])
    assert third.trainer.global_step == 3 and third.logdir != first.logdir
    for logdir in (first.logdir, third.logdir):
        for project in logdir.glob("configs/*-project.yaml"):
            params = OmegaConf.load(project).model.params
            assert (params.ckpt_path, params.first_stage_config.params.ckpt_path) == ("start.ckpt", "first.ckpt")
    with pytest.raises(ConfigError, match=r"first_stage_config.params.ckpt_path = first.ckpt: not found"):
        fit(transformer, *arguments)


def test_a_run_that_goes_on_with_another_model_is_told_the_key(transformer):
    first = fit(transformer, "--max_steps", "1", "lightning.callbacks.image_logger=null")
    for change, key in (
        ("transformer_config.params.n_layer=2", "transformer_config.params.n_layer"),
        ("first_stage_config.params.n_embed=9", "first_stage_config.params.n_embed"),
    ):
        with pytest.raises(CheckpointError, match=rf"last.ckpt: .*in the config check {key} \(the file has ") as error:
            train(["-r", str(first.logdir), "-t", "--max_steps", "2", f"model.params.{change}"])
        assert "\n" not in str(error.value)
