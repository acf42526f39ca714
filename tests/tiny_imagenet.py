"""ImageNet on a small scale: archives, prepared folders, and no network."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from paired_figures import write
from PIL import Image

from taming.data.depth_maps import save_depth
from taming.data.imagenet import RIN, ImageNetTrain, ImageNetValidation, str_to_indices
from taming.data.imagenet_preparation import cache_root

CONTENT = {
    "n03": ["n03_1.JPEG", "n03_2.JPEG"],
    "n01": ["n01_10.JPEG", "n01_9.JPEG"],
    "n02": ["n02_1.JPEG"],
}
RELPATHS = ["n01/n01_10.JPEG", "n01/n01_9.JPEG", "n02/n02_1.JPEG", "n03/n03_1.JPEG", "n03/n03_2.JPEG"]


def image_bytes(name, height=20, width=30):
    """A lossless image whose pixels depend on the name."""
    rng = np.random.default_rng(list(name.encode()))
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, format="PNG")
    return file.getvalue()


def tar(members):
    """The bytes of an archive of these (name, content) or ready-made members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def synset_tar(names):
    return tar([(name, image_bytes(name)) for name in names])


def train_archive(content=None):
    """The archive of a training split: one archive per synset."""
    content = CONTENT if content is None else content
    return tar([(f"{synset}.tar", synset_tar(names)) for synset, names in content.items()])


def validation_archive():
    return tar([(name, image_bytes(name)) for names in CONTENT.values() for name in names])


def place(cls, archive, monkeypatch):
    """Put an archive where a split looks for it, and let the split expect its size; the root folder."""
    root = cache_root(cls.NAME)
    root.mkdir(parents=True, exist_ok=True)
    (root / cls.FILES[0]).write_bytes(archive)
    monkeypatch.setattr(cls, "SIZES", (len(archive), *cls.SIZES[1:]))
    monkeypatch.setattr(cls, "expected_length", len(RELPATHS))
    return root


def place_folders(cls, content=None, *, height=20, width=30):
    """Put images in folders of synsets, not prepared yet; the root folder."""
    root = cache_root(cls.NAME)
    for synset, names in (CONTENT if content is None else content).items():
        (root / "data" / synset).mkdir(parents=True)
        for name in names:
            (root / "data" / synset / name).write_bytes(image_bytes(name, height, width))
    return root


def place_with_depth():
    """Both splits of 30 x 20 pixels with depth below the current folder; the images' red is their normalised depth."""
    for cls, split in ((ImageNetTrain, "train"), (ImageNetValidation, "val")):
        root = place_folders(cls)
        (root / "index_synset.yaml").write_text(
            "31: n01\n200: n03\n"
            + "".join(f"{index}: n{index + 1000}\n" for index in str_to_indices(RIN) if index not in (31, 200))
        )
        red = np.linspace(0, 255, 600).astype(np.uint8).reshape(20, 30)
        for synset, names in CONTENT.items():
            for name in names:
                write(root / "data" / synset / name, np.stack([red, red, red], axis=2))
                depth = Path(f"data/imagenet_depth/{split}/{synset}/{name.removesuffix('.JPEG')}.png")
                save_depth(depth, red.astype(np.float32) * 7 + 100)


def be_offline(tmp_path, monkeypatch):
    """Caches below `tmp_path`, which becomes the current folder, and no downloads; the addresses that are asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def download(url, path):
        asked.append(url)
        raise OSError(f"cannot download {url} to {path}: no network")

    def no_torrents():
        pytest.fail("BitTorrent was asked")

    monkeypatch.setattr("taming.data.imagenet_preparation.download", download)
    monkeypatch.setattr("taming.data.imagenet_preparation._academictorrents", no_torrents)
    return asked
