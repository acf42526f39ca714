"""--trained_weights of the sampling commands, on runs that averaged their weights."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tiny_configs import first_stage
from tiny_run_folders import save_run

import taming

SCRIPTS = Path(__file__).parents[2] / "scripts"
LABELS = {"target": "taming.modules.util.Labelator", "params": {"n_classes": 3}}
SIZES = {"vocab_size": 8, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 8}
MODEL = {
    "target": "taming.models.cond_transformer.Net2NetTransformer",
    "params": {
        "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": SIZES},
        "first_stage_config": first_stage(resolution=4, n_embed=8),
        "cond_stage_config": LABELS,
    },
}


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    """A run folder whose average is far from its trained weights."""
    logdir = save_run(tmp_path / "run", MODEL)
    path = Path(logdir) / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    trained = {name: -value if "transformer" in name else value for name, value in checkpoint["state_dict"].items()}
    updates = {"n_averaged": torch.tensor(42)}
    torch.save({**checkpoint, "current_model_state": trained, "averaging_state": updates}, path)
    return logdir


def test_samples_come_from_the_average_or_from_the_trained_weights(run, tmp_path, caplog):
    caplog.set_level("INFO")
    options = ["-r", run, "-n", "4", "-k", "8", "--classes", "0", "--seed", "5"]
    written = {}
    for name, choice in (("average", []), ("trained", ["--trained_weights"])):
        script("sample_fast").main([*options, "-o", str(tmp_path / name), *choice])
        files = (tmp_path / name).rglob("*.*")
        written[name] = {path.name: path.read_bytes() for path in files if path.is_file()}
    recorded = {name: json.loads(files.pop("sampling.json"))["run"] for name, files in written.items()}
    assert recorded == {"average": "run", "trained": "run (trained weights)"}
    assert written["average"].keys() == written["trained"].keys() and written["average"] != written["trained"]
    assert sum("using the average" in message for message in caplog.messages) == 1
    with pytest.raises(ValueError, match="run"):
        script("sample_fast").main([*options, "-o", str(tmp_path / "average"), "--trained_weights"])


def test_the_python_api_has_the_choice(run):
    average, trained = (
        taming.load_model(run, device="cpu", trained_weights=choice).transformer.head.weight for choice in (False, True)
    )
    assert torch.equal(average, -trained)


COMMANDS = ["sample_fast", "sample_text", "make_samples", "make_scene_samples", "make_reconstructions"]


@pytest.mark.parametrize("name", [*COMMANDS, "sample_conditional"])
def test_every_command_that_samples_has_the_choice(name):
    arguments = ["-r", "run", *(["--outdir", "out"] if name in COMMANDS else [])]
    parser = script(name).get_parser()
    assert parser.parse_args([*arguments, "--trained_weights"]).trained_weights
    assert not parser.parse_args(arguments).trained_weights
