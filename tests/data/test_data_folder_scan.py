"""A folder's images found again without reading folders that have not changed."""

import os
import shutil

import pytest

from taming.data import folder_scan
from taming.data.custom import CustomTrain
from taming.data.folder import FolderTrain, FolderValidation
from taming.data.folder_scan import list_images

DATASET = "some.module.Dataset"


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "images"
    for name in ("a/1.png", "a/2.JPG", "b/deep/3.webp", "b/notes.txt", "4.tif", ".hidden/5.png", "b/.6.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    os.symlink(root, root / "b" / "loop")
    return root


@pytest.fixture
def reads(monkeypatch):
    """Folders that have been read, in order."""
    folders = []
    scandir = os.scandir

    def counted(path):
        folders.append(os.path.basename(path))
        return scandir(path)

    monkeypatch.setattr(folder_scan.os, "scandir", counted)
    return folders


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr(folder_scan, "SETTLED", -1)


@pytest.mark.usefixtures("settled")
def test_only_changed_folders_are_read_again(tree, tmp_path, reads):
    cache = tmp_path / "scans" / "images.json"
    expected = ["4.tif", "a/1.png", "a/2.JPG", "b/deep/3.webp"]
    assert list_images(tree, DATASET, cache) == expected
    assert reads == ["images", "a", "b", "deep"]
    assert list_images(tree, DATASET, cache) == expected and len(reads) == 4
    (tree / "b" / "deep" / "7.png").touch()
    (tree / "a" / "1.png").unlink()
    assert list_images(tree, DATASET, cache) == ["4.tif", "a/2.JPG", "b/deep/3.webp", "b/deep/7.png"]
    assert reads[4:] == ["a", "deep"]


@pytest.mark.usefixtures("settled")
def test_new_moved_and_deleted_folders_are_noticed(tree, tmp_path):
    cache = tmp_path / "images.json"
    list_images(tree, DATASET, cache)
    (tree / "b" / "new").mkdir()
    (tree / "b" / "new" / "8.ppm").touch()
    shutil.move(tree / "a", tree / "c")
    assert list_images(tree, DATASET, cache) == list_images(tree, DATASET)
    shutil.rmtree(tree / "b")
    assert list_images(tree, DATASET, cache) == ["4.tif", "c/1.png", "c/2.JPG"]


def test_folders_that_have_just_changed_are_read_again(tree, tmp_path, reads):
    for _ in range(2):
        list_images(tree, DATASET, tmp_path / "images.json")
    assert len(reads) == 8


def test_nothing_is_written_unless_asked(tree):
    before = sorted(path for path in tree.parent.rglob("*") if not path.is_symlink())
    list_images(tree, DATASET)
    assert sorted(path for path in tree.parent.rglob("*") if not path.is_symlink()) == before


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', '{"version": 1, "folders": {"a": [1]}}', "\xff"])
def test_a_file_that_is_no_scan_is_left_alone(tree, tmp_path, content):
    (tmp_path / "other").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=f"{DATASET}: scan_cache {tmp_path / 'other'} holds no scan"):
        list_images(tree, DATASET, tmp_path / "other")
    assert (tmp_path / "other").read_text(encoding="latin-1") == content


def test_scans_of_other_versions_are_made_anew(tree, tmp_path):
    (tmp_path / "old.json").write_text('{"version": 0}')
    assert len(list_images(tree, DATASET, tmp_path / "old.json")) == 4


@pytest.mark.usefixtures("settled")
def test_datasets_take_it(tree, tmp_path, reads):
    options = {"scan_cache": tmp_path / "images.json"}
    whole = CustomTrain(8, tree, **options)
    parts = [FolderTrain(tree, 8, **options), FolderValidation(tree, 8, **options)]
    assert len(whole) == sum(map(len, parts)) == 4
    assert len(reads) == 4
