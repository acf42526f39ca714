"""What tests share: one thread per process, since the models are tiny, a user's own module, a folder of images."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from reference import fill

torch.set_num_threads(1)
settings.register_profile("taming", deadline=None)  # other work on the machine is no failure
settings.load_profile("taming")


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A function that writes a module of the user's own into the current folder; `main` cannot be imported."""
    monkeypatch.setitem(sys.modules, "main", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The config file of a tiny run in the current, otherwise empty folder."""
    from tiny_runs import write_config  # Lightning, which few tests need, takes seconds

    monkeypatch.chdir(tmp_path)
    return write_config(tmp_path)


@pytest.fixture
def gumbel_noise(monkeypatch):
    """A function after which Gumbel noise is drawn from a name, -log(E) of the named exponential noise."""

    def use(name):
        def exponential(tensor):
            return tensor.copy_(torch.from_numpy(fill.fill(name, tuple(tensor.shape), "exponential")))

        monkeypatch.setattr(torch.Tensor, "exponential_", exponential)

    return use


@pytest.fixture
def image_folder(tmp_path):
    """Twelve smooth pictures of 80 x 72 pixels in two subfolders."""
    rng = np.random.default_rng(0)
    for index in range(12):
        folder = tmp_path / "images" / ("left", "right")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        corners = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        corners.resize((80, 72), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return tmp_path / "images"
