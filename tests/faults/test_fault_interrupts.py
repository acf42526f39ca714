"""Drills: Ctrl-C, once and twice, in every phase of a run."""

import pytest
from faulty_runs import leftovers, target
from tiny_runs import last_checkpoint, names, run_folders

TESTED = ["data.params.test=${data.params.validation}", "--val_check_interval", "2"]


def interrupted(where, **params):
    return f"model={target('InterruptedModel', where=where, **params)}"


@pytest.mark.parametrize(
    ("where", "while_saving", "step"),
    [
        ("training_step", False, 1),
        ("training_step", True, 1),
        ("nowhere", True, 2),
        ("validation_step", False, 2),
        ("test_step", False, 4),
    ],
)
def test_ctrl_c_saves_and_the_run_can_go_on(config, command, where, while_saving, step):
    model = interrupted(where, while_saving=while_saving)
    status, out, err = command("-b", config, "-t", "--max_epochs", "1", *TESTED, model)
    assert status not in (0, None) and "Traceback" not in out + err
    assert last_checkpoint()["global_step"] == step and leftovers() == []
    (logdir,) = run_folders()
    status, _, _ = command("-r", str(logdir), "-t", interrupted("nowhere", while_saving=False))
    assert (status, last_checkpoint()["global_step"]) == (0, 4)


@pytest.mark.parametrize(
    "argument", [interrupted("__init__"), interrupted("sanity check"), f"data.params.train={target('InterruptedData')}"]
)
def test_ctrl_c_before_the_first_step_leaves_nothing(config, command, argument):
    status, out, err = command("-b", config, "-t", argument)
    assert status not in (0, None) and "Traceback" not in out + err
    assert run_folders() == []


def test_ctrl_c_before_the_first_step_of_a_resumed_run_leaves_it_as_it_was(config, command):
    command("-b", config, "-t", "--max_epochs", "1")
    (logdir,) = run_folders()
    before = names(logdir / "checkpoints")
    status, _, _ = command("-r", str(logdir), "-t", f"data.params.train={target('InterruptedData')}")
    assert status not in (0, None)
    assert names(logdir / "checkpoints") == before and last_checkpoint()["global_step"] == 4 and leftovers() == []
