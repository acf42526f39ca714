"""The large configs, as they are but for sizes and places of data: each trains and validates on a batch."""

from pathlib import Path

import pytest
import tiny_captions
import tiny_faces
import torch
from omegaconf import OmegaConf
from tiny_imagenet import be_offline, place_with_depth

from taming.config import load_config
from taming.runs import without_weight_files
from taming.training import train

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(ROOT.glob("configs/*.yaml"))
SIDE = 32
"""Pixels of an image: 2 x 2 codes of networks of factor 16."""
SMALL_SPLIT = {"size": SIDE, "crop_size": SIDE, "target_image_size": SIDE}
SMALL = {"ch": 32, "n_layer": 1, "n_head": 2, "n_embd": 16, "batch_size": 2, "num_workers": 0}


def with_changes(value, changes):
    """Containers with other values under the keys that they have."""
    if isinstance(value, list):
        return [with_changes(entry, changes) for entry in value]
    if not isinstance(value, dict):
        return value
    return {key: changes.get(key, with_changes(entry, changes)) for key, entry in value.items()}


def on_a_small_scale(path):
    config = with_changes(OmegaConf.to_container(without_weight_files(load_config([path]))), SMALL)
    config = with_changes(config, {"vocabulary": str(ROOT / "configs" / "tiny" / "captions_vocabulary.txt")})
    config["data"] = with_changes(config["data"], SMALL_SPLIT | data_lists())
    loss = config["model"]["params"].get("lossconfig", {"target": "none"})
    if "LPIPS" in loss["target"]:
        loss["params"]["perceptual_weight"] = 0.0  # whose weights would be downloaded
    return config


def data_lists():
    """Example photographs in place of the user's own."""
    photographs = sorted(str(path) for path in (ROOT / "data" / "coco_images").iterdir())
    Path("list.txt").write_text("\n".join(photographs))
    return {"training_images_list_file": "list.txt", "test_images_list_file": "list.txt"}


def place_data(path, tmp_path, monkeypatch):
    """What the config reads, below the current folder."""
    be_offline(tmp_path, monkeypatch)
    text = path.read_text()
    if "taming.data.faceshq" in text:
        tiny_faces.place()
    elif "taming.data.imagenet" in text:
        place_with_depth()
    elif "taming.data.coco" in text or "taming.data.captions" in text:
        tiny_captions.place()
    else:
        Path("data").symlink_to(ROOT / "data")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_one_batch_of_training_and_validation(path, tmp_path, monkeypatch):
    place_data(path, tmp_path, monkeypatch)
    OmegaConf.save(OmegaConf.create(on_a_small_scale(path)), "small.yaml")
    result = train(["--base", "small.yaml", "--train", "True", "--fast_dev_run", "True"])
    assert result.trainer.global_step == 1
    losses = {key: value for key, value in result.trainer.callback_metrics.items() if "loss" in key}
    assert {key.split("/")[0] for key in losses} == {"train", "val"}
    assert all(torch.isfinite(value) for value in losses.values())
