"""From archives to folders: complete, resumable, safe; and what is said where the data cannot be had."""

import inspect
import logging
import os
import sys
import tarfile
from types import SimpleNamespace

import pytest
from tiny_imagenet import (
    CONTENT,
    RELPATHS,
    be_offline,
    image_bytes,
    place,
    place_folders,
    synset_tar,
    tar,
    train_archive,
    validation_archive,
)

from taming.data import imagenet_preparation
from taming.data.imagenet import ImageNetTrain, ImageNetValidation
from taming.data.imagenet_preparation import cache_root


@pytest.fixture(autouse=True)
def asked(tmp_path, monkeypatch):
    return be_offline(tmp_path, monkeypatch)


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def place_synsets(root):
    lines = [f"{name} {synset}\n" for synset, names in CONTENT.items() for name in names]
    (root / "validation_synset.txt").write_text("".join(lines))


def prepared(cls, root):
    """Whether the split is complete in its folder, with nothing left over besides the archive's own files."""
    data = cls()
    assert data.relpaths == RELPATHS
    assert (root / "filelist.txt").read_bytes() == "".join(f"{path}\n" for path in RELPATHS).encode()
    assert files(root / "data") == RELPATHS
    assert all((root / "data" / path).read_bytes() == image_bytes(path[4:]) for path in RELPATHS)
    assert {path.name for path in root.iterdir()} == {*cls.FILES, "data", "filelist.txt", ".ready"}
    return True


def test_train_archive_of_archives(monkeypatch, caplog):
    root = place(ImageNetTrain, train_archive(), monkeypatch)
    assert prepared(ImageNetTrain, root)
    assert not [record for record in caplog.records if "holds" in record.message]


def test_validation_archive_is_sorted_into_synsets(monkeypatch):
    root = place(ImageNetValidation, validation_archive(), monkeypatch)
    place_synsets(root)
    assert prepared(ImageNetValidation, root)


def test_an_archive_may_be_a_link(monkeypatch, tmp_path):
    root = place(ImageNetTrain, train_archive(), monkeypatch)
    (root / "ILSVRC2012_img_train.tar").rename(tmp_path / "elsewhere.tar")
    (root / "ILSVRC2012_img_train.tar").symlink_to(tmp_path / "elsewhere.tar")
    assert prepared(ImageNetTrain, root)
    assert (tmp_path / "elsewhere.tar").exists()


def test_an_interrupted_training_archive_is_continued(monkeypatch):
    root = place(ImageNetTrain, train_archive(), monkeypatch)
    extractall, extracted = tarfile.TarFile.extractall, []

    def interrupted(archive, path, **options):
        extracted.append(path.name)
        if len(extracted) == 2:
            archive.extract(archive.getnames()[0], path, **options)
            raise KeyboardInterrupt
        extractall(archive, path, **options)

    monkeypatch.setattr(tarfile.TarFile, "extractall", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ImageNetTrain()
    assert not (root / "data").exists() and not (root / ".ready").exists()
    assert {path.name for path in (root / "data.partial").iterdir()} == {"n03", "n01.partial", "n01.tar"}
    assert prepared(ImageNetTrain, root)
    assert extracted == ["n03.partial", "n01.partial", "n01.partial", "n02.partial"]


@pytest.mark.parametrize("cls", [ImageNetTrain, ImageNetValidation])
def test_an_archive_interrupted_while_copying_is_continued(cls, monkeypatch):
    root = place(cls, train_archive() if cls is ImageNetTrain else validation_archive(), monkeypatch)
    if cls is ImageNetValidation:
        place_synsets(root)
    copy, copied = imagenet_preparation.shutil.copyfileobj, []

    def interrupted(source, target):
        copied.append(target.name)
        if len(copied) == 2:
            target.write(source.read(7))
            raise KeyboardInterrupt
        copy(source, target)

    monkeypatch.setattr(imagenet_preparation.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cls()
    names = files(root / "data.partial")
    assert len(names) == (2 if cls is ImageNetTrain else 1) and not any("part" in name for name in names)
    assert prepared(cls, root)
    assert len(copied) == (3 if cls is ImageNetTrain else 5) + 1


def test_what_killed_processes_leave_goes(monkeypatch):
    root = place(ImageNetTrain, train_archive(), monkeypatch)
    (root / "data.partial" / "n01.partial").mkdir(parents=True)
    (root / "data.partial" / "n01.partial" / "n01_stale.JPEG").touch()
    (root / "data.partial" / ".n01.tar.123.part").touch()
    (root / "data.partial" / "n01.tar").write_bytes(b"only the beginning")
    assert prepared(ImageNetTrain, root)


LINK = tarfile.TarInfo("n01_9.JPEG")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"
DEVICE = tarfile.TarInfo("n01_9.JPEG")
DEVICE.type = tarfile.CHRTYPE


@pytest.mark.parametrize(
    "archive",
    [
        tar([("../../evil.tar", synset_tar(["n01_9.JPEG"]))]),
        tar([("n01.tar", tar([("../../../evil.JPEG", b"x")]))]),
        tar([("n01.tar", tar([LINK]))]),
        tar([("n01.tar", tar([DEVICE]))]),
        tar([("n01.tar", synset_tar(["n01_9.JPEG"])), DEVICE]),
    ],
    ids=["outer name", "inner name", "link", "device", "outer device"],
)
def test_unsafe_members_are_refused(archive, monkeypatch, tmp_path):
    root = place(ImageNetTrain, archive, monkeypatch)
    with pytest.raises(ValueError, match=r"\.tar: nothing more is extracted, it has an unsafe member") as caught:
        ImageNetTrain()
    assert "\n" not in str(caught.value)
    assert not (root / "data").exists() and not list(tmp_path.rglob("evil*"))


def test_unsafe_members_of_the_validation_archive(monkeypatch, tmp_path):
    root = place(ImageNetValidation, tar([("../n01_9.JPEG", b"x")]), monkeypatch)
    place_synsets(root)
    with pytest.raises(ValueError, match="unsafe member"):
        ImageNetValidation()
    (root / "validation_synset.txt").write_text("n01_9.JPEG ../../n01\n")
    with pytest.raises(ValueError, match="expected '<file name> <synset>', not"):
        ImageNetValidation()
    assert not list(tmp_path.rglob("n01_9*"))


@pytest.mark.parametrize("archive", [tar([("n01.tar", synset_tar(["n01_9.JPEG"])[:900])]), b"no archive"])
def test_damaged_archives(archive, monkeypatch):
    root = place(ImageNetTrain, archive, monkeypatch)
    with pytest.raises(OSError, match=r"\.tar: damaged or no tar archive"):
        ImageNetTrain()
    assert not (root / "data").exists()


def test_archives_of_something_else(monkeypatch):
    place(ImageNetTrain, synset_tar(["n01_9.JPEG"]), monkeypatch)
    with pytest.raises(ValueError, match=r"img_train\.tar: holds no archives <synset>\.tar"):
        ImageNetTrain()
    root = place(ImageNetValidation, validation_archive(), monkeypatch)
    (root / "validation_synset.txt").write_text("n01_9.JPEG n01\n")
    with pytest.raises(ValueError, match=r"img_val\.tar: holds n01_10\.JPEG whose synset is not given \(4 such"):
        ImageNetValidation()


@pytest.mark.parametrize("cls", [ImageNetTrain, ImageNetValidation])
def test_too_small_a_disk_is_found_before_extraction(cls, monkeypatch):
    root = place(cls, train_archive() if cls is ImageNetTrain else validation_archive(), monkeypatch)
    place_synsets(root)
    monkeypatch.setattr(imagenet_preparation.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"img_\w+\.tar: extracting .* needs (\d+) bytes, the disk has 1000 free"):
        cls()
    assert not files(root / "data.partial")


def test_folders_placed_by_hand_need_no_archive(caplog):
    root = place_folders(ImageNetTrain)
    (root / "data" / "n01" / "too" / "deep").mkdir(parents=True)
    (root / "data" / "n01" / "too" / "deep.JPEG").touch()
    (root / "data" / "n01" / "notes.txt").touch()
    assert ImageNetTrain().relpaths == RELPATHS
    assert "holds 5 images, the whole split has 1281167" in caplog.text
    assert (root / ".ready").exists()
    (root / "data" / "n01" / "n01_9.JPEG").unlink()  # a prepared folder is not looked through again
    assert ImageNetTrain().relpaths == RELPATHS


def test_folders_without_images():
    root = cache_root(ImageNetTrain.NAME)
    (root / "data").mkdir(parents=True)
    (root / "data" / "flat.JPEG").touch()
    with pytest.raises(FileNotFoundError, match=r"ImageNetTrain: no images in .*data; expected .*/<synset>/<name>"):
        ImageNetTrain()
    assert not (root / ".ready").exists() and not (root / "filelist.txt").exists()


def test_marker_without_list():
    root = place_folders(ImageNetTrain)
    ImageNetTrain()
    (root / "filelist.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"filelist\.txt is missing; delete .*\.ready"):
        ImageNetTrain()


def test_cache_is_below_home_without_a_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root("x") == tmp_path / ".cache" / "autoencoders" / "data" / "x"


def torrents(monkeypatch, get):
    """academictorrents stands in, and silences the process as the real one does."""

    def silencing(*arguments, **options):
        logging.getLogger().setLevel(logging.CRITICAL)
        return get(*arguments, **options)

    monkeypatch.setattr(imagenet_preparation, "_academictorrents", lambda: SimpleNamespace(get=silencing))


def test_archives_come_by_torrent(monkeypatch):
    root = place(ImageNetTrain, train_archive(), monkeypatch)
    archive = root / "ILSVRC2012_img_train.tar"
    archive.write_bytes(b"the beginning of an earlier download")

    def get(at_hash, datastore):
        assert (at_hash, datastore) == ("a306397ccf9c2ead27155983c254227c0fd938e2", str(root))
        archive.write_bytes(train_archive())
        return os.path.relpath(archive)

    torrents(monkeypatch, get)
    level = logging.getLogger().level
    assert prepared(ImageNetTrain, root)
    assert logging.getLogger().level == level


def failing(*_, **__):
    raise KeyError("peers")


@pytest.mark.parametrize("get", [failing, lambda *_, **__: "/elsewhere/archive.tar"], ids=["fails", "elsewhere"])
def test_archives_that_cannot_be_had(get, monkeypatch):
    torrents(monkeypatch, get)
    level = logging.getLogger().level
    with pytest.raises(RuntimeError) as caught:
        ImageNetValidation()
    assert isinstance(caught.value, FileNotFoundError)
    root = cache_root(ImageNetValidation.NAME)
    for part in (
        *("taming.data.imagenet.ImageNetValidation", "6744924160 bytes", "5d6d0df7ed81efd49ca99ea4737e0ae5e3a5f2e5"),
        *(str(root / "ILSVRC2012_img_val.tar"), f"{root / 'data'}/<synset>/<name>.JPEG"),
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert logging.getLogger().level == level


def test_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.undo()
    monkeypatch.delattr(inspect, "getargspec", raising=False)
    monkeypatch.setitem(sys.modules, "academictorrents", None)
    with pytest.raises(ImportError, match=r"pip install 'taming-transformers\[imagenet\]'"):
        imagenet_preparation._academictorrents()
    assert inspect.getargspec is inspect.getfullargspec
    del inspect.getargspec


def test_synsets_of_the_validation_images_must_be_had(monkeypatch, asked):
    place(ImageNetValidation, validation_archive(), monkeypatch)
    with pytest.raises(FileNotFoundError, match=r"validation_synset\.txt is missing .*heibox"):
        ImageNetValidation()
    assert asked == [ImageNetValidation.VS_URL]
