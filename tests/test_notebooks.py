"""The notebooks run from their first cell to the last on small models, and what they hold is small."""

import json
import logging
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_configs import first_stage
from tiny_run_folders import LABEL_MAPS, N_LABELS, save_run, transformer

from taming.images import to_uint8

FOLDER = Path(__file__).parents[1] / "scripts"
NOTEBOOKS = ("taming-transformers", "reconstruction_usage")
LARGEST = 300_000


class Preview:
    """What `display(..., display_id=True)` returns in a notebook; remembers what was shown."""

    def __init__(self, first):
        self.shown = [first]

    def update(self, picture):
        self.shown.append(picture)


@pytest.fixture
def run_notebook(tmp_path, monkeypatch):
    """A function that runs the code cells of a notebook in one namespace, below a copy of the repository's folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    level = logging.getLogger("taming").level
    for name in ("taming", "data", "configs"):
        (tmp_path / name).symlink_to(FOLDER.parent / name)
    (tmp_path / "scripts").mkdir()
    os.chdir("scripts")  # where Jupyter starts a notebook

    def run(name, **settings):
        monkeypatch.setenv("TAMING_NOTEBOOK", json.dumps(settings))
        previews = []

        def display(picture, display_id):
            assert display_id
            previews.append(Preview(picture))
            return previews[-1]

        namespace = {"display": display, "previews": previews}
        for number, source in enumerate(code_cells(name)):
            exec(compile(source, f"{name}, cell {number}", "exec"), namespace)
        return namespace

    yield run
    logging.getLogger("taming").setLevel(level)


def cells(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]


def code_cells(name):
    return ["".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code"]


def test_conditional_sampling(run_notebook, tmp_path, capsys):
    run = save_run(tmp_path / "run", transformer(LABEL_MAPS, "segmentation"))
    labels = (np.add.outer(np.arange(16), np.arange(24)) // 5 % N_LABELS).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    settings = {"model": run, "label_map": str(tmp_path / "labels.png"), "device": "cpu", "update_every": 40}
    made = run_notebook("taming-transformers", **settings)
    assert made["tokens"].shape == (1, 8, 12)
    (preview,) = made["previews"]
    assert len(preview.shown) == 4, "the start, after 40 and 80 tokens, and the end"
    made_again = made["enlarged"](Image.fromarray(to_uint8(made["image"][0])))
    assert np.array_equal(np.asarray(preview.shown[-1]), np.asarray(made_again)), "the sampler makes the same"
    shown = capsys.readouterr().out
    assert "8 x 12 codes, indices (1, 96)" in shown and f"of {N_LABELS} labels occur" in shown
    assert (tmp_path / "segmentation" / "notebook_sample_95.png").is_file()


def test_reconstructions(run_notebook, tmp_path, capsys, caplog):
    run = save_run(tmp_path / "run", first_stage(resolution=16, n_embed=12))
    settings = {"models": {"small": run}, "dalle": "nowhere", "size": 64, "device": "cpu", "lpips": False}
    made = run_notebook("reconstruction_usage", **settings)
    assert made["comparison"].picture().shape == (3 * 64, 2 * 64, 3)
    assert made["image"].shape == (1, 3, 16, 16) and made["codes"].shape == (1, 32, 32)
    assert "| small | " in capsys.readouterr().out and "DALL-E (f8, 8192) is left out" in caplog.text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_stored_is_small_clean_and_complete(name):
    text = (FOLDER / f"{name}.ipynb").read_text()
    outputs = [output for cell in cells(name) for output in cell.get("outputs", ())]
    assert len(text) < LARGEST and any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not re.search(r"""[\s"'(=]/[a-z]+/\w""", text)  # an absolute path
