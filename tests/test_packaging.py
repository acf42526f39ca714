"""The wheel holds all of the package, and importing it is light."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("taming/**/*.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"  # a copy: building leaves files in the tree, which the next build would take along
    shutil.copytree(ROOT / "taming", source / "taming", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


def test_every_module_of_the_wheel_imports_from_another_folder(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    names = [name.removesuffix(".__init__") for name in MODULES]
    code = f"import importlib, sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    code += f"for name in {names!r}: importlib.import_module(name)\n"
    code += "import taming; print(taming.__file__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(Path("site", "taming", "__init__.py")))


def test_wheel_metadata_is_that_of_pyproject(wheel):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = archive.read(name).decode()
    assert f"Version: {project['version']}" in metadata and "License-Expression: MIT" in metadata
    required = {
        line.removeprefix("Provides-Extra: ") for line in metadata.splitlines() if line.startswith("Provides-Extra")
    }
    assert required == set(project["optional-dependencies"])
    assert not any(part in name for name in archive.namelist() for part in ("tests/", "scripts/", "configs/"))


def test_extras_cover_what_the_readme_promises():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {
        "test",
        "app",
        "eval",
        "clip",
        "text",
        "imagenet",
        "quantizers",
        "webdataset",
        "notebook",
        "wandb",
        "benchmarks",
        "all",
    }
    (everything,) = extras["all"]
    assert set(everything.split("[")[1].rstrip("]").split(",")) == set(extras) - {"all"}


def test_importing_the_package_is_light():
    code = "import sys, taming; print([m for m in ('torch', 'numpy', 'omegaconf', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_library_imports_no_command():
    for path in ROOT.glob("taming/**/*.py"):
        lines = path.read_text().splitlines()
        assert not [line for line in lines if line.lstrip().startswith(("import main", "from main", "from scripts"))], (
            path
        )
