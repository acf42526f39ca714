"""Images that are made to exhaust a server, and the settings under which the demo is served."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming.demo.uploads import MAX_BYTES, SUFFIXES, read_map, read_picture

ROOT = Path(__file__).parents[2]


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *chunks, depth=8, colour=2):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


ROWS = chunk(b"IDAT", zlib.compress(bytes(16 * (1 + 3 * 16))))
"""Of a picture of 16 x 16 pixels."""
ZEROS = zlib.compress(bytes(200_000_000), 9)


def jpeg(width, height):
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, "JPEG")
    content = bytearray(content.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def tiff(width, height):
    content = io.BytesIO()
    Image.new("L", (16, 16)).save(content, "TIFF")
    content = bytearray(content.getvalue())
    (start,) = struct.unpack_from("<I", content, 4)
    for entry in range(struct.unpack_from("<H", content, start)[0]):
        place = start + 2 + 12 * entry
        tag = struct.unpack_from("<H", content, place)[0]
        if tag in (256, 257):
            struct.pack_into("<HHII", content, place, tag, 4, 1, width if tag == 256 else height)
    return bytes(content)


BOMBS = {
    "PNG of 4 billion pixels": png(65535, 65535, ROWS),
    "PNG as wide as can be": png(2**31 - 1, 1, ROWS),
    "PNG that inflates": png(8000, 6000, chunk(b"IDAT", ZEROS[: len(ZEROS) // 2])),
    "PNG without pixels": png(0, 0),
    "text that inflates": png(16, 16, chunk(b"zTXt", b"k\0\0" + ZEROS), ROWS),
    "profile that inflates": png(16, 16, chunk(b"iCCP", b"k\0\0" + ZEROS), ROWS),
    "JPEG of 4 billion pixels": jpeg(65535, 65535),
    "JPEG whose pixels are missing": jpeg(6000, 6000)[:300],
    "TIFF of 4 billion pixels": tiff(65535, 65535),
    "TIFF of more pixels than bytes": tiff(5000, 5000),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_one_line(kind):
    with pytest.raises((ValueError, OSError), match=r"^(a\.png|upload): ") as caught:
        read_picture("a.png", BOMBS[kind], 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key, n_channels", [("segmentation", 4), ("depth", 1)])
def test_bombs_as_conditioning(key, n_channels):
    for kind in ("PNG of 4 billion pixels", "TIFF of 4 billion pixels", "text that inflates"):
        with pytest.raises((ValueError, OSError)):
            read_map("a.png", BOMBS[kind], 16, key=key, n_channels=n_channels)


def test_formats_with_a_language_of_their_own_are_not_read():
    content = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(content, "EPS")  # PostScript, which Ghostscript would run
    with pytest.raises(ValueError, match="no image"):
        read_picture("a.eps", content.getvalue(), 16)
    assert not {"eps", "pdf", "svg"} & set(SUFFIXES)


SHOWN = """
import os, sys
from streamlit import config
page, *folders = sys.argv[1:]
config._main_script_path = page
for folder in folders:
    os.chdir(folder)
    config.get_config_options(force_reparse=True)
    names = ("address", "maxUploadSize", "enableXsrfProtection", "enableCORS")
    print(*(config.get_option(f"server.{name}") for name in names))
"""


def test_the_demo_is_for_this_machine_wherever_it_is_started(tmp_path):
    """Streamlit reads the settings beside the page; those in the user's home are not to count here."""
    pytest.importorskip("streamlit", reason="the demo needs the extra app")
    places = [ROOT / "scripts" / "sample_conditional.py", ROOT, ROOT / "scripts", tmp_path]
    shown = subprocess.run(
        [sys.executable, "-c", SHOWN, *map(str, places)],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(shown.stdout.splitlines()) == {f"localhost {MAX_BYTES >> 20} True True"}
