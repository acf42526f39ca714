"""The command that lists what is wrong with a config's datasets."""

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import Dataset

from scripts import check_data
from taming.cli import run_command
from taming.data.check import find_problems


def write_config(folder, **splits):
    path = folder / "config.yaml"
    targets = {
        split: {
            "target": "taming.data.custom.CustomTrain",
            "params": {"training_images_list_file": str(source), "size": 8} | params,
        }
        for split, (source, params) in splits.items()
    }
    OmegaConf.save(OmegaConf.create({"data": {"params": {"batch_size": 2, **targets}}}), path)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Four images, of which `1.png` is cut off, and a list that names `0.png` twice and one that is missing."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        Image.new("RGB", (10 + number, 9)).save(images / f"{number}.png")
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:40])
    (images / "list.txt").write_text("0.png\n2.png\r\n\n0.png\nmissing.png")
    return images


def run(capsys, *arguments):
    """(status, lines on stdout, stderr)."""
    status = run_command(check_data.main, list(arguments))
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_every_problem_of_every_split_has_a_line(folder, tmp_path, capsys, workers, on_error):
    config = write_config(
        tmp_path, train=(folder, {"on_error": on_error}), validation=(folder / "list.txt", {"on_error": on_error})
    )
    status, lines, err = run(capsys, "-b", config, "--workers", workers)
    assert (status, err) == (1, "")
    assert lines[0].startswith(f"train[1]: taming.data.custom.CustomTrain: cannot read image {folder}/1.png: ")
    assert lines[1] == "train: 1 problem"
    assert lines[2] == f"validation[2]: {folder}/0.png is also at index 0"
    assert lines[3].startswith("validation[3]: taming.data.custom.CustomTrain: file not found: missing.png; ")
    assert lines[4:] == ["validation: 2 problems"]


def test_images_that_cannot_share_a_batch(folder, tmp_path, capsys):
    (folder / "1.png").unlink()
    config = write_config(tmp_path, train=(folder, {"size": None}))
    status, lines, _ = run(capsys, "-b", config)
    assert status == 1 and lines[-1] == "train: 2 problems"
    assert "2.png comes as 9 x 12 x 3, index 0 as 9 x 10 x 3" in lines[0] and "set size" in lines[0]
    assert run(capsys, "-b", config, "data.params.batch_size=1")[:2] == (0, ["train: no problems"])
    assert run(capsys, "-b", config, "--limit", "1")[:2] == (0, ["train: no problems"])


def test_a_dataset_that_cannot_be_built_does_not_hide_the_next(folder, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n")
    config = write_config(tmp_path, train=(tmp_path / "empty.txt", {}), test=(folder, {}))
    status, lines, _ = run(capsys, "-b", config)
    assert status == 1 and len(lines) == 3, lines
    assert lines[0].startswith("train: ") and f"list file {tmp_path}/empty.txt is empty" in lines[0]
    assert run(capsys, "-b", config, "--split", "test")[1] == lines[1:]


def test_users_mistakes(folder, tmp_path, capsys):
    config = write_config(tmp_path, train=(folder, {}))
    for arguments, problem in (
        (["-b", config, "--split", "test"], "the config has no data.params.test"),
        (["-b", config, "--limit", "0"], "--limit must be positive"),
        (["-b", str(tmp_path / "no.yaml")], "no such config file"),
        (["-b", write_config(tmp_path)], "the config has no dataset"),
    ):
        status, lines, err = run(capsys, *arguments)
        assert status == 2 and problem in err and err.count("\n") == 1 and not lines
    (tmp_path / "model.yaml").write_text("model: {}")
    assert run(capsys, "-b", str(tmp_path / "model.yaml"))[0] == 2


class Faulty(Dataset):
    """Items that are wrong in all the ways in which a dataset can be."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        image = np.zeros((4, 4, 3), np.float32)
        return [
            {"image": image},
            {"image": image.astype(np.float64)},
            {"image": image + np.nan},
            {"image": image + 2},
            {"image": image, "caption": None},
            {"image": image, "path": "x"},
        ][i]


def test_items_that_are_no_examples():
    found = {problem.index: problem.message for problem in find_problems(Faulty())}
    assert list(found) == [1, 2, 3, 4, 5]
    assert "float64 instead of float32" in found[1]
    assert "values from nan to nan" in found[2] and "values from 2.0 to 2.0; expected -1 to 1" in found[3]
    assert found[4].startswith("TypeError: cannot collate batch['caption']")
    assert "other keys than that of index 0: image, path instead of image" in found[5]
