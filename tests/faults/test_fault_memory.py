"""Drills: memory runs out, the loss is not finite."""

from pathlib import Path

import pytest
import torch
from faulty_runs import leftovers, target
from omegaconf import OmegaConf
from tiny_runs import last_checkpoint, run_folders

from taming.training.faults import TrainingFault, explaining_faults

ONE = "data.params.batch_size=1"


def greedy(device, **params):
    return f"model={target('GreedyModel', device=device, **params)}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([greedy("cuda")], ["2.00 GiB", "data.params.batch_size (now 2;", "--precision bf16-mixed (now 32-true)"]),
        ([greedy("cpu")], ["1152921504606846976 bytes", "data.params.batch_size (now 2;"]),
        (
            [greedy("cuda", ddconfig="{ch: 32}", transformer_config="{params: {n_layer: 1}}"), ONE],
            [
                f"set model.params.{part}.gradient_checkpointing=true"
                for part in ("ddconfig", "transformer_config.params")
            ],
        ),
        (
            [greedy("cuda", ddconfig="{gradient_checkpointing: true}"), "--precision", "bf16-mixed", ONE],
            ["room for 2.00 GiB more): make images or model smaller"],
        ),
    ],
)
def test_out_of_memory_names_what_helps_and_saves(config, command, arguments, words):
    status, out, err = command("-b", config, "-t", *arguments)
    assert status == 2 and err.startswith("error: out of memory (no room for ") and err.count("\n") == 1
    assert all(word in err for word in words), err
    assert ("batch_size" in err) != (ONE in arguments), "a batch of one cannot be smaller"
    assert "Traceback" not in out and "saved" in out
    assert last_checkpoint()["global_step"] == 2 and leftovers() == []


def test_a_debugger_finds_the_place_of_the_fault():
    config = OmegaConf.create({"data": {"params": {"batch_size": 2}}, "model": {}, "lightning": {"trainer": {}}})
    with pytest.raises(TrainingFault) as caught, explaining_faults(config, None):
        torch.empty(2**60, dtype=torch.uint8)
    assert caught.traceback[-1].path == Path(__file__)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_last_good_state(config, command):
    status, out, err = command("-b", config, "-t", f"model={target('DivergingModel')}")
    assert status == 2 and "Traceback" not in out and err.count("\n") == 1
    assert err.startswith("error: training stopped at step 2: the loss term train/rec_loss is inf; ")
    assert last_checkpoint()["global_step"] == 2
    (logdir,) = run_folders()
    assert command("-r", str(logdir), "-t", "--max_epochs", "1", "model.target=tiny_runs.TinyModel")[0] == 0
