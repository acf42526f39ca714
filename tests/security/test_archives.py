"""Archives and headers that lie: nothing lands outside the folder, and what is wrong is one line."""

import io
import json
import os
import tarfile
import zipfile

import pytest

from taming.checkpoint import CheckpointError, load_checkpoint
from taming.data.utils import unpack


def member(name, **fields):
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


UNSAFE = {
    "above": member("../outside.txt"),
    "above by a detour": member("a/b/../../../outside.txt"),
    "symbolic link outside": member("link", type=tarfile.SYMTYPE, linkname="../outside.txt"),
    "absolute symbolic link": member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link outside": member("link", type=tarfile.LNKTYPE, linkname="../outside.txt"),
    "device": member("device", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": member("device", type=tarfile.BLKTYPE),
    "pipe": member("pipe", type=tarfile.FIFOTYPE),
}


def tar(path, *members):
    mode = "w:gz" if path.suffix == ".gz" else "w"
    with tarfile.open(path, mode) as archive:
        for info in members:
            info.size = 2 if info.isreg() else 0
            archive.addfile(info, io.BytesIO(b"ok"))
    return path


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture
def folder(tmp_path):
    """A folder in another one that nothing may reach."""
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
@pytest.mark.parametrize("kind", UNSAFE)
def test_an_unsafe_member_keeps_all_from_being_extracted(folder, kind, suffix):
    path = tar(folder / f"data.{suffix}", member("harmless.txt"), UNSAFE[kind])
    with pytest.raises(ValueError, match=r"data\.tar.*it has an unsafe member") as caught:
        unpack(path)
    assert "\n" not in str(caught.value)
    assert files(folder.parent) == [f"inside/data.{suffix}"]


def test_a_link_that_a_later_member_goes_through(folder):
    path = tar(
        folder / "data.tar",
        member("link", type=tarfile.SYMTYPE, linkname=".."),
        member("link/outside.txt"),
    )
    with pytest.raises(ValueError, match="unsafe member"):
        unpack(path)
    assert files(folder.parent) == ["inside/data.tar"]


def test_absolute_names_become_relative_and_nothing_gains_rights(folder):
    unpack(tar(folder / "data.tar", member(f"{folder.parent}/outside.txt", mode=0o6777)))
    (found,) = (path for path in folder.rglob("outside.txt"))
    assert not found.stat().st_mode & 0o6022 and not (folder.parent / "outside.txt").exists()


@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt", "/outside.txt"])
def test_members_of_a_zip_stay_inside(folder, name):
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr(name, "ok")
    unpack(folder / "data.zip")
    assert all(name.startswith("inside/") for name in files(folder.parent))


def test_a_symbolic_link_in_a_zip_becomes_a_file(folder):
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr(link, "../outside.txt")
    unpack(folder / "data.zip")
    assert not os.path.islink(folder / "link")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "zip"])
@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00", b"PK\x03\x04" + bytes(40)])
def test_what_is_no_archive_is_one_line(folder, suffix, content):
    path = folder / f"data.{suffix}"
    path.write_bytes(content)
    with pytest.raises(OSError, match=f"data.{suffix}: damaged or no .* archive") as caught:
        unpack(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip_is_one_line(folder):
    path = tar(folder / "data.tar.gz", *(member(f"{index}.txt") for index in range(50)))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(OSError, match="damaged or no tar archive"):
        unpack(path)


def header(**tensors):
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


BAD_HEADERS = {
    "longer than the file": (2**40).to_bytes(8, "little") + b"{}",
    "longer than memory": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "numbers beyond the file": header(a={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
    "shape that overflows": header(a={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}) + bytes(4),
    "shape of other numbers": header(a={"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}) + bytes(4),
    "offsets backwards": header(a={"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}) + bytes(4),
    "unknown type": header(a={"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}) + bytes(4),
    "nesting": (20_000).to_bytes(8, "little") + b"[" * 20_000,
    "no text": (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
}


@pytest.mark.parametrize("kind", BAD_HEADERS)
def test_headers_of_safetensors_that_lie(tmp_path, kind):
    path = tmp_path / "model.safetensors"
    path.write_bytes(BAD_HEADERS[kind])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated, or not a checkpoint"):
        load_checkpoint(path)
