"""Downloads: complete or absent, continued, checked; known weight files."""

import hashlib
import os
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from file_server import serving

from taming import util
from taming.util import download, get_ckpt_path, md5_hash, sha256_hash

CONTENT = random.Random(0).randbytes(5000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def url(server):
    return server.put("/a/file.bin", CONTENT)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "folder" / "file.bin"


def failure(url, target, **options):
    """The message of a download that must fail; it names address and file, and leaves none under the final name."""
    with pytest.raises(OSError, match=re.escape(f"cannot download {url} to {target}: ")) as error:
        download(url, target, **options)
    assert not target.exists() and "\n" not in str(error.value)
    return str(error.value)


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_whole_file(server, url, target, tells_length):
    server.tells_length = tells_length
    assert download(url, target, sha256=SHA256) == SHA256
    assert target.read_bytes() == CONTENT and names(target) == ["file.bin"]


def test_a_file_of_this_machine(tmp_path, target):
    source = tmp_path / "source.bin"
    source.write_bytes(CONTENT)
    assert download(source.as_uri(), target) == sha256_hash(source)


def test_a_cut_transfer_is_continued_from_where_it_stopped(server, url, target):
    server.cut_after = 2000
    assert "only 2000 of 5000 bytes came" in failure(url, target)
    assert names(target) == ["file.bin.part"]
    assert "only 4000 of 5000 bytes came" in failure(url, target)
    download(url, target, sha256=SHA256)
    assert [wanted for _, wanted in server.asked] == [None, "bytes=2000-", "bytes=4000-"]
    assert names(target) == ["file.bin"]


def test_a_server_without_ranges_makes_it_start_anew(server, url, target):
    server.cut_after = 2000
    failure(url, target)
    server.cut_after, server.knows_ranges = None, False
    download(url, target, sha256=SHA256)
    assert server.asked[-1][1] == "bytes=2000-" and target.read_bytes() == CONTENT


def test_a_server_that_sends_another_part(server, url, target):
    server.cut_after = 2000
    failure(url, target)
    server.content_range = "bytes 0-4999/5000"
    assert "asked for the bytes from 2000 on" in failure(url, target)
    assert (target.parent / "file.bin.part").read_bytes() == CONTENT[:2000]


@pytest.mark.parametrize(("left", "n_requests"), [(CONTENT, 1), (CONTENT + b"more", 2)], ids=["all", "too much"])
def test_what_is_left_of_an_attempt_that_had_all(server, url, target, left, n_requests):
    target.parent.mkdir()
    (target.parent / "file.bin.part").write_bytes(left)
    download(url, target, sha256=SHA256)
    assert len(server.asked) == n_requests and names(target) == ["file.bin"]


def test_a_wrong_checksum_discards_the_file(url, target):
    assert f"is {SHA256} instead of {'0' * 64}" in failure(url, target, sha256="0" * 64)
    assert names(target) == []


def test_the_file_there_survives_a_failure(server, url, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    server.cut_after = 10
    with pytest.raises(OSError, match="only 10 of 5000"):
        download(url, target)
    assert target.read_bytes() == b"old"


def test_without_resume_nothing_is_left_or_taken(server, url, target):
    target.parent.mkdir()
    (target.parent / "file.bin.part").write_bytes(b"x" * 100)
    server.cut_after = 2000
    failure(url, target, resume=False)
    assert names(target) == ["file.bin.part"] and server.asked[0][1] is None


def test_addresses_that_do_not_answer(server, url, target):
    assert "404" in failure(url + ".gone", target)
    server.server_close()
    server.shutdown()
    assert "refused" in failure(url, target)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [(b"Please log in", "text/html; charset=utf-8"), (b"\n<!DOCTYPE html><title>x", "application/octet-stream")],
)
def test_a_web_page_is_no_file(server, target, content, content_type):
    server.content_type = content_type
    assert "web page" in failure(server.put("/login", content), target)
    assert names(target) == []


def test_a_full_disk_is_seen_before_the_transfer(url, target, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=7))
    assert "5000 bytes are needed, but the disk has only 7 left" in failure(url, target)


def test_an_interrupt_keeps_what_came(url, target, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(util, "sha256_hash", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download(url, target)
    assert (target.parent / "file.bin.part").read_bytes() == CONTENT


def test_what_a_killed_process_left_is_continued_but_not_what_another_writes(server, url, target):
    target.parent.mkdir()
    killed, running = (target.parent / f"file.bin.{digit * 32}.part" for digit in "ab")
    killed.write_bytes(CONTENT[:3000])
    running.write_bytes(CONTENT[:4000])
    long_ago = time.time() - 2 * util.ABANDONED_AFTER
    os.utime(killed, (long_ago, long_ago))
    download(url, target, sha256=SHA256)
    assert server.asked[-1][1] == "bytes=3000-"
    assert names(target) == ["file.bin", running.name]


def test_several_at_once(server, url, target):
    server.cut_after = 2500
    failure(url, target)
    server.cut_after = None
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: download(url, target, sha256=SHA256), range(8))) == [SHA256] * 8
    assert target.read_bytes() == CONTENT and names(target) == ["file.bin"]


def test_known_weights(server, tmp_path, monkeypatch):
    url = server.put("/vgg.pth", CONTENT)
    monkeypatch.setitem(util.URL_MAP, "vgg_lpips", url)
    monkeypatch.setitem(util.MD5_MAP, "vgg_lpips", hashlib.md5(CONTENT).hexdigest())
    path = get_ckpt_path("vgg_lpips", tmp_path)
    assert path == str(tmp_path / "vgg.pth") and md5_hash(path) == util.MD5_MAP["vgg_lpips"]
    (tmp_path / "vgg.pth").write_bytes(b"damaged")
    get_ckpt_path("vgg_lpips", tmp_path)
    assert len(server.asked) == 1
    get_ckpt_path("vgg_lpips", tmp_path, check=True)
    assert len(server.asked) == 2 and (tmp_path / "vgg.pth").read_bytes() == CONTENT
    server.put("/vgg.pth", b"other")
    (tmp_path / "vgg.pth").unlink()
    with pytest.raises(OSError, match=re.escape(url)):
        get_ckpt_path("vgg_lpips", tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AssertionError, match="unknown weights"):
        get_ckpt_path("vgg", tmp_path)
