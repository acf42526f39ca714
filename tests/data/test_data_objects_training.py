"""A second stage learns to draw scenes by their layouts, from a config alone."""

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from tiny_configs import first_stage
from tiny_runs import fit, last_checkpoint, run_folders
from tiny_scenes import PARAMETERS, write_coco

STEPS, LAYOUT = 16, 11
"""Codes of an image of 8 x 8 pixels, and tokens of three boxes and the crop."""


def config(key, wrap):
    """A transformer on layouts of a COCO folder below the current one."""
    sizes = {"vocab_size": 256, "block_size": STEPS + LAYOUT, "n_layer": 1, "n_head": 2, "n_embd": 16}
    scenes = {
        "target": "taming.data.annotated_objects_coco.AnnotatedObjectsCoco",
        "params": PARAMETERS | {"data_path": "coco", "keys": ["image", key], "target_image_size": 8},
    }
    validation = OmegaConf.merge(scenes, {"params": {"split": "validation"}})
    return {
        "model": {
            "base_learning_rate": 0.01,
            "target": "taming.models.cond_transformer.Net2NetTransformer",
            "params": {
                "cond_stage_key": key,
                "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": sizes},
                "first_stage_config": first_stage(resolution=8, n_embed=12),
                "cond_stage_config": {
                    "target": "taming.models.dummy_cond_stage.DummyCondStage",
                    "params": {"conditional_key": key},
                },
            },
        },
        "data": {
            "target": "main.DataModuleFromConfig",
            "params": {"batch_size": 2, "num_workers": 0, "wrap": wrap, "train": scenes, "validation": validation},
        },
        "lightning": {"trainer": {"enable_progress_bar": False, "enable_model_summary": False, "max_steps": 1}},
    }


@pytest.mark.parametrize(("key", "wrap"), [("objects_bbox", True), ("objects_center_points", False)])
def test_one_batch_by_command(key, wrap, tmp_path, monkeypatch):
    """Its layouts are drawn by the data set, also out of a WrappedDataset."""
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / "coco")
    OmegaConf.save(OmegaConf.create(config(key, wrap)), "scenes.yaml")
    fit("scenes.yaml")
    assert last_checkpoint()["global_step"] == 1
    (run,) = run_folders()
    (layouts,) = (run / "images" / "train").glob("conditioning_gs-*.png")
    (images,) = (run / "images" / "train").glob("inputs_gs-*.png")
    drawn, inputs = (np.asarray(Image.open(path)) for path in (layouts, images))
    assert drawn.shape == inputs.shape
    assert (drawn != inputs).any()
