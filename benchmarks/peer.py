"""The published implementation, as PyPI packages it, beside ours in one process.

Both packages are named `taming`, so the peer lives in a folder of its own and is `taming` inside a context only. What
it imports and today's packages lack is supplied from outside; nothing of it is changed.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import torch
import torchvision
from pytorch_lightning.utilities.rank_zero import rank_zero_only

PACKAGE = "taming-transformers-rom1504"
VERSION = "0.0.6"
LINEAR_WEIGHTS = Path("taming/modules/autoencoder/lpips/vgg.pth")
"""Where the peer's LPIPS looks for its linear layers, seen from the current folder."""
LPIPS_CHANNELS = (64, 128, 256, 512, 512)


def install(folder: Path) -> Path:
    """Install the peer into `folder` with pip, without its dependencies, unless it is there; the folder.

    Raises OSError if pip fails.
    """
    if not (folder / "taming").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        result = subprocess.run([*pip, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise OSError(f"could not install {PACKAGE}: {reason}; give --peer a folder that pip installed it into")
        importlib.invalidate_caches()
    return folder


@contextmanager
def installed(folder: Path | None) -> Iterator["Peer"]:
    """The peer in `folder`, or in a temporary one that goes afterwards."""
    with tempfile.TemporaryDirectory() as temporary:
        yield Peer(install(folder or Path(temporary)))


class Peer:
    """The peer's modules. In `with peer.active(): ...` the name `taming` means the peer's; ours come back after it.

    Classes taken and objects built inside work outside too, except where they import something of theirs only then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        ours = take_out_modules()
        supplied = stand_ins()
        hidden = {name: sys.modules[name] for name in supplied if name in sys.modules}
        sys.modules.update(self._modules | supplied)
        sys.path.insert(0, str(self.folder))
        try:
            yield
        finally:
            self._modules = take_out_modules()
            for name in supplied:
                del sys.modules[name]
            sys.path.remove(str(self.folder))
            sys.modules.update(ours | hidden)

    def get(self, path: str) -> type:
        """The peer's object of this dotted path."""
        with self.active():
            module, name = path.rsplit(".", 1)
            return getattr(importlib.import_module(module), name)

    def build(self, path: str, config: Mapping, *, mixin: type | None = None) -> torch.nn.Module:
        """An object of the class `path`, with `mixin` in front of it, and with LPIPS weights of no meaning."""
        cls = self.get(path)
        if mixin is not None:
            cls = type(cls.__name__, (mixin, cls), {})
        with self.active(), untrained_lpips(), redirect_stdout(None):
            return cls(**config)


def take_out_modules() -> dict[str, ModuleType]:
    """Remove all modules of any `taming` from those that Python knows; what was removed."""
    names = [name for name in sys.modules if name.split(".")[0] == "taming"]
    return {name: sys.modules.pop(name) for name in names}


def stand_ins() -> dict[str, ModuleType]:
    """Modules that the peer imports and this environment lacks, with the names that it takes from them."""
    contents = {
        "pytorch_lightning.utilities.distributed": {"rank_zero_only": rank_zero_only},  # moved by Lightning 2
        "requests": {},  # for downloads
    }
    missing = {name: names for name, names in contents.items() if importlib.util.find_spec(name) is None}
    missing["transformers"] = {"top_k_top_p_filtering": top_k_top_p_filtering}  # removed from it since
    modules = {name: ModuleType(name) for name in missing}
    for name, module in modules.items():
        vars(module).update(missing[name])
    return modules


def top_k_top_p_filtering(
    logits: torch.Tensor, top_k: int = 0, top_p: float = 1.0, filter_value: float = -torch.inf
) -> torch.Tensor:
    """What transformers 4.3 did: also at top_p = 1 the vocabulary is sorted."""
    if top_k > 0:
        logits = logits.masked_fill(logits < logits.topk(min(top_k, logits.shape[-1])).values[..., -1:], filter_value)
    if 0 <= top_p <= 1:
        ordered, order = logits.sort(descending=True)
        outside = ordered.softmax(dim=-1).cumsum(dim=-1) > top_p
        outside = outside.roll(1, dims=-1)
        outside[..., 0] = False
        logits = logits.masked_fill(outside.scatter(-1, order, outside), filter_value)
    return logits


@contextmanager
def untrained_lpips() -> Iterator[None]:
    """A context in which LPIPS can be built without network: its files are there, with arbitrary numbers."""

    def vgg16(*_, **__):
        return SimpleNamespace(features=network(weights=None, init_weights=False).features)

    network = torchvision.models.vgg16
    with tempfile.TemporaryDirectory() as folder, chdir(folder), patch.object(torchvision.models, "vgg16", vgg16):
        os.makedirs(LINEAR_WEIGHTS.parent)
        linear = {f"lin{i}.model.1.weight": torch.ones(1, width, 1, 1) for i, width in enumerate(LPIPS_CHANNELS)}
        torch.save(linear, LINEAR_WEIGHTS)
        yield
