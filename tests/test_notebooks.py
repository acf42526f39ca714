"""The notebooks run from their first cell to the last on small models, and what they hold is small."""

import json
import logging
import re
import subprocess
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


@pytest.fixture(autouse=True)
def settings_that_notebooks_change(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    level = logging.getLogger("taming").level
    yield
    logging.getLogger("taming").setLevel(level)


@pytest.fixture
def scripts(tmp_path):
    """Where Jupyter starts a notebook, below a copy of the repository's folders."""
    for name in ("taming", "data", "configs"):
        (tmp_path / name).symlink_to(FOLDER.parent / name)
    (tmp_path / "scripts").mkdir()
    return tmp_path / "scripts"


@pytest.fixture
def run_notebook(scripts, monkeypatch):
    """A function that runs the code cells of a notebook in one namespace."""
    monkeypatch.chdir(scripts)

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

    return run


def cells(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]


def code_cells(name):
    return ["".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code"]


def small_settings(name, folder):
    """Settings under which a notebook takes a moment; makes the small model."""
    if name == "reconstruction_usage":
        run = save_run(folder / "run", first_stage(resolution=16, n_embed=12))
        return {"models": {"small": run}, "dalle": "nowhere", "size": 64, "device": "cpu", "lpips": False}
    run = save_run(folder / "run", transformer(LABEL_MAPS, "segmentation"))
    labels = (np.add.outer(np.arange(16), np.arange(24)) // 5 % N_LABELS).astype(np.uint8)
    Image.fromarray(labels).save(folder / "labels.png")
    return {"model": run, "label_map": str(folder / "labels.png"), "device": "cpu", "update_every": 40}


def test_conditional_sampling(run_notebook, tmp_path, capsys):
    made = run_notebook("taming-transformers", **small_settings("taming-transformers", tmp_path))
    assert made["tokens"].shape == (1, 8, 12)
    (preview,) = made["previews"]
    assert len(preview.shown) == 4, "the start, after 40 and 80 tokens, and the end"
    made_again = made["enlarged"](Image.fromarray(to_uint8(made["image"][0])))
    assert np.array_equal(np.asarray(preview.shown[-1]), np.asarray(made_again)), "the sampler makes the same"
    shown = capsys.readouterr().out
    assert "8 x 12 codes, indices (1, 96)" in shown and f"of {N_LABELS} labels occur" in shown
    assert (tmp_path / "segmentation" / "notebook_sample_95.png").is_file()


def test_reconstructions(run_notebook, tmp_path, capsys, caplog):
    made = run_notebook("reconstruction_usage", **small_settings("reconstruction_usage", tmp_path))
    assert made["comparison"].picture().shape == (3 * 64, 2 * 64, 3)
    assert made["image"].shape == (1, 3, 16, 16) and made["codes"].shape == (1, 32, 32)
    assert "| small | " in capsys.readouterr().out and "DALL-E (f8, 8192) is left out" in caplog.text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_in_jupyter_every_cell_shows_what_is_stored(name, scripts, tmp_path, monkeypatch):
    pytest.importorskip("ipykernel", reason="ipykernel, of the extra test, is missing")
    nbclient = pytest.importorskip("nbclient", reason="nbclient, of the extra test, is missing")
    from nbformat import read

    monkeypatch.setenv("TAMING_NOTEBOOK", json.dumps(small_settings(name, tmp_path)))
    notebook = read(FOLDER / f"{name}.ipynb", as_version=4)
    stored = kinds_of_outputs(notebook.cells)
    made = nbclient.execute(notebook, cwd=str(scripts), timeout=300, kernel_name="python3")
    assert kinds_of_outputs(made.cells) == stored


def kinds_of_outputs(cells):
    """Of each cell, without what is logged."""
    return [
        [output["output_type"] for output in cell.get("outputs", ()) if output["output_type"] != "stream"]
        for cell in cells
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_without_the_repository_the_first_cell_asks_for_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = code_cells(name)[0]
    exec(first, {})  # the package can be imported: nothing is needed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="paste the address of that into REPOSITORY at the top of this cell"):
        exec(first, {})


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_with_its_address_the_repository_is_cloned_once_and_installed(name, tmp_path, monkeypatch):
    commands = []

    def run(command, check):
        assert check
        commands.append(command)
        Path("taming-transformers", "taming").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(subprocess, "run", run)
    source = code_cells(name)[0].replace('REPOSITORY = ""', 'REPOSITORY = "https://example.org/r.git"')
    for _ in range(2):  # as after the kernel was started again
        monkeypatch.chdir(tmp_path)
        exec(source, {})
        assert Path.cwd() == tmp_path / "taming-transformers" == Path(sys.path[0])
    assert [command[0] == "git" for command in commands] == [True, False, False]
    assert commands[0][-2:] == ["https://example.org/r.git", "taming-transformers"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_stored_is_small_clean_and_complete(name):
    text = (FOLDER / f"{name}.ipynb").read_text()
    outputs = [output for cell in cells(name) for output in cell.get("outputs", ())]
    assert len(text) < LARGEST and any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not re.search(r"""[\s"'(=]/[a-z]+/\w""", text)  # an absolute path
