"""What the sources call: nothing that runs or unpickles what a file says, but for a few places with their reasons."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for place in ("taming", "scripts", "benchmarks") for path in (ROOT / place).rglob("*.py"))
SOURCES.append(ROOT / "main.py")

FORBIDDEN = {
    "__import__",
    "builtins.eval",
    "builtins.exec",
    "dill",
    "eval",
    "exec",
    "importlib.import_module",
    "joblib",
    "marshal",
    "os.popen",
    "os.system",
    "pickle.Unpickler",
    "pickle.load",
    "pickle.loads",
    "runpy",
    "shelve",
    "subprocess",
    "tempfile.mktemp",
    "torch.hub.load",
    "torch.jit.load",
    "yaml.full_load",
    "yaml.load",
    "yaml.unsafe_load",
}
"""Functions, classes and modules that are not to be used at all."""

DEMANDED = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
    ".extractall": ("filter", "data"),
}
"""Functions -> the argument that makes them safe."""

ALLOWED = {
    ("benchmarks/peer.py", "subprocess"): "pip with fixed arguments, no shell",
    ("benchmarks/peer.py", "importlib.import_module"): "the peer's modules, named in the benchmarks",
    ("taming/__init__.py", "importlib.import_module"): "taming.api, lazily",
    ("taming/data/midas.py", "torch.hub.load"): "code of the repository that the user names; its weights come with it",
    ("taming/data/segmenters.py", "torch.hub.load"): "code of the repository that the source names, without weights",
    ("taming/data/utils.py", ".extractall"): "zip, beside the filtered tar: zipfile keeps members inside the folder",
    ("taming/instantiation.py", "importlib.import_module"): "targets of configs; see taming.trusted_targets",
    ("taming/trusted_targets.py", "importlib.import_module"): "modules of the packages that it trusts",
    ("taming/models/dvae.py", "pickle.Unpickler"): "its find_class gives inert stand-ins and refuses all else by name",
}


def imported(tree):
    """Names in a module -> what they stand for: `np` -> numpy, `run` -> subprocess.run."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(node, names):
    """`np.load` -> numpy.load; an attribute of anything else begins with a dot."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}" if is_path(node.value) else f".{node.attr}"
    return ""


def is_path(node):
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and is_path(node.value))


def dangers(source):
    """(line, what) of each dangerous use."""
    tree = ast.parse(source)
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, names)
            for forbidden in FORBIDDEN:
                if name == forbidden or name.startswith(f"{forbidden}."):
                    yield node.lineno, forbidden
        if isinstance(node, ast.Call):
            name = dotted(node.func, names)
            given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            for function, (argument, value) in DEMANDED.items():
                wanted = name.endswith(function) if function.startswith(".") else name == function
                if wanted and given.get(argument) != value:
                    yield node.lineno, function
            if given.get("shell") or given.get("trust_remote_code"):
                yield node.lineno, "shell"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_what_a_file_says(path):
    name = path.relative_to(ROOT).as_posix()
    found = [(line, what) for line, what in dangers(path.read_text(encoding="utf-8")) if (name, what) not in ALLOWED]
    assert not found, f"{name}: {found}"


def test_each_exception_is_still_needed():
    for name, what in ALLOWED:
        assert what in {found for _, found in dangers((ROOT / name).read_text(encoding="utf-8"))}, (name, what)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=False)",
        "from torch import load as read\nread(path)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "from pickle import loads\nloads(data)",
        "import pickle\nclass Mine(pickle.Unpickler): ...",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "eval(text)",
        "import os\nos.system(text)",
        "from subprocess import run\nrun(['ls'])",
        "function(command, shell=True)",
        "with tarfile.open(path) as archive:\n    archive.extractall(folder)",
        "tarfile.open(path).extractall(folder, filter='fully_trusted')",
    ],
)
def test_the_search_finds(source):
    assert list(dangers(source))


def test_the_search_is_not_alarmed_without_need():
    assert not list(dangers("import torch\ntorch.load(path, weights_only=True)\nmodel.eval()\njson.load(file)"))
