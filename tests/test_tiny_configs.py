"""configs/tiny: each builds, fits the stages it names, and trains and validates on a batch."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from taming.config import instantiate_from_config, load_config, validate_config
from taming.training import train

TINY = Path(__file__).parents[1] / "configs" / "tiny"
CONFIGS = sorted(TINY.glob("*.yaml"))
NAMES = {
    *("scenes_vqgan", "segmentation_vqgan", "depth_vqgan"),
    *("class", "segmentation", "depth", "boxes", "center_points", "coord", "unconditional", "captions"),
}
FEW_SCENES = [
    "data.params.batch_size=4",
    *(f"data.params.{split}.params.length=4" for split in ("train", "validation")),
]


def stages(path):
    """Name -> config of the stages that begin from a checkpoint."""
    params = OmegaConf.load(path).model.params
    configs = {name: params.get(name) for name in ("first_stage_config", "cond_stage_config")}
    return {
        name: config for name, config in configs.items() if OmegaConf.is_dict(config) and "ckpt_path" in config.params
    }


def without_checkpoints(path):
    return [f"model.params.{name}.params.ckpt_path=null" for name in stages(path)]


def own_files(path):
    """Overrides after which the files beside a config are found from any folder."""
    stage = OmegaConf.load(path).model.params.get("cond_stage_config")
    file = stage.params.get("vocabulary") if OmegaConf.is_dict(stage) else None
    return [] if file is None else [f"model.params.cond_stage_config.params.vocabulary={TINY.parents[1] / file}"]


def name(path):
    return path.stem


def test_there_is_one_for_each_kind_of_conditioning():
    assert {path.stem for path in CONFIGS} == NAMES


@pytest.mark.parametrize("path", [path for path in CONFIGS if stages(path)], ids=name)
def test_header_names_the_runs_that_it_needs(path):
    header = path.read_text().partition("\nmodel:")[0]
    for stage in stages(path):
        assert f"model.params.{stage}.params.ckpt_path=logs/<run of " in header


@pytest.mark.parametrize("path", [path for path in CONFIGS if stages(path)], ids=name)
def test_stages_are_those_that_their_configs_train(path):
    for config in stages(path).values():
        trained = OmegaConf.load(TINY / f"{Path(config.params.ckpt_path).parts[1]}.yaml").model
        assert config.target == trained.target
        for key in ("ddconfig", "n_embed", "embed_dim", "quantizer_config", "n_labels"):
            assert config.params.get(key) == trained.params.get(key), key
        assert OmegaConf.load(path).model.params.transformer_config.params.vocab_size >= trained.params.n_embed


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_tokens_fit_exactly(path):
    """Not one position more than images and conditioning fill."""
    config = load_config([path], [*without_checkpoints(path), *own_files(path), *FEW_SCENES])
    validate_config(config)
    model = instantiate_from_config(config.model)
    if not stages(path):
        return
    batch = {key: torch.as_tensor(value)[None] for key, value in train_item(config).items() if key != "annotations"}
    _, condition = model.encode_to_c(model.get_input(model.cond_stage_key, batch))
    _, codes = model.encode_to_z(model.get_input("image", batch))
    assert condition.shape[1] + codes.shape[1] == model.transformer.block_size + 1


def train_item(config):
    item = instantiate_from_config(config.data.params.train)[0]
    return {key: value for key, value in item.items() if not isinstance(value, str)}


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_one_batch_of_training_and_validation(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [*without_checkpoints(path), *own_files(path), *FEW_SCENES]
    result = train(["--base", str(path), "--train", "True", "--fast_dev_run", "True", *overrides])
    assert result.trainer.global_step == 1
    losses = {key: value for key, value in result.trainer.callback_metrics.items() if "loss" in key}
    assert losses and all(torch.isfinite(value) for value in losses.values())


def test_captions_fit_and_their_words_are_tokens():
    path = TINY / "captions.yaml"
    config = load_config([path], [*own_files(path), "data.params.train.params.length=200"])
    stage = instantiate_from_config(config.model.params.cond_stage_config)
    captions = list(instantiate_from_config(config.data.params.train).captions())
    assert max(map(stage.n_tokens, captions)) == stage.length
    for caption in captions:
        words = caption.replace(",", " ,").split()
        assert stage.n_tokens(caption) == len(words) + 1, caption
