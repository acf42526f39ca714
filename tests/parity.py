"""Cases of the published implementation (tests/reference: figures only) and how to rebuild and compare them."""

import json
from functools import cache
from pathlib import Path

import torch
from reference import fill

from taming.config import get_obj_from_str

FOLDER = Path(__file__).parent / "reference"


@cache
def cases(name: str) -> dict[str, dict]:
    """All cases of one file by name."""
    return {case["case"]: case for case in json.loads((FOLDER / f"{name}.json").read_text())["cases"]}


def names(file: str, *prefixes: str) -> list[str]:
    """Names of a file's cases that begin with one of the prefixes."""
    return [name for name in cases(file) if name.startswith(prefixes)]


def build(case: dict, **changes):
    """The case's object with its weights and in its mode; its parameters must be the published ones.

    A case may list part of the state dict only; the number of parameters tells whether there is anything else.
    """
    module = get_obj_from_str(case["target"])(**(case["kwargs"] | changes))
    state = {key: describe(value) for key, value in module.state_dict().items()}
    stored = case.get("state_dict", {})
    stored = {} if isinstance(stored, str) else stored  # "as in" another case
    stored = {key: text for key, text in stored.items() if not key.endswith("attn.mask")}
    assert stored.items() <= state.items(), sorted(stored.items() - state.items())
    if "parameters" in case:
        assert sum(parameter.numel() for parameter in module.parameters()) == case["parameters"]
    fill.load(module, case["salt"])
    return module.train(case["mode"] == "train")


def describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def inputs(case: dict) -> dict[str, torch.Tensor]:
    return {name: make(spec) for name, spec in case["inputs"].items()}


def make(spec: dict) -> torch.Tensor:
    return torch.from_numpy(fill.make(spec))


def agree(stored, got, **tolerances) -> None:
    """Fail with the list of differences between stored figures and ours; `got` may hold '...' to leave out the rest."""
    differences = fill.compare(stored, got, **tolerances)
    assert not differences, "\n".join(differences[:20])


def grad_norms(module: torch.nn.Module, stored: dict, **others: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Norms of the gradients that `stored` lists, of parameters and other tensors by name; None without gradient."""
    tensors = dict(module.named_parameters()) | others
    gradients = {name: tensors[name].grad for name in stored}
    return {name: None if gradient is None else gradient.norm() for name, gradient in gradients.items()}
