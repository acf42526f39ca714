"""The published schedule, and those of torch by config."""

import pytest
import torch
from omegaconf import OmegaConf

from taming.config import ConfigError
from taming.lr_scheduler import LambdaWarmUpCosineScheduler, build_schedule


def test_published_gumbel_schedule():
    schedule = LambdaWarmUpCosineScheduler(0, lr_min=1e-6, lr_max=0.9, lr_start=0.9, max_decay_steps=1000001)
    assert [schedule(n) for n in (0, 500000, 2000000)] == pytest.approx([0.9, 0.450001207, 1e-6], rel=1e-8)
    assert schedule.last_lr == pytest.approx(1e-6)


def test_warm_up_is_linear_and_the_decay_a_half_cosine():
    schedule = LambdaWarmUpCosineScheduler(10, lr_min=0.0, lr_max=1.0, lr_start=0.5, max_decay_steps=30)
    assert [schedule.schedule(n) for n in (0, 5, 10, 20, 30, 99)] == pytest.approx([0.5, 0.75, 1.0, 0.5, 0.0, 0.0])


def test_no_span_to_decay_over():
    """Decision D10: the end value instead of a division by zero."""
    schedule = LambdaWarmUpCosineScheduler(5, lr_min=0.1, lr_max=1.0, lr_start=0.0, max_decay_steps=5)
    assert schedule(5) == pytest.approx(0.1)


def test_verbosity(caplog):
    caplog.set_level("INFO")
    schedule = LambdaWarmUpCosineScheduler(0, 0.0, 1.0, 0.0, 10, verbosity_interval=2)
    for n in range(4):
        schedule(n)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["step 0", "step 2"]


WARM_UP = {
    "target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler",
    "params": {"warm_up_steps": 2, "lr_start": 0.0, "lr_max": 1.0, "lr_min": 0.0, "max_decay_steps": 4},
}


def of_torch(name, **params):
    return {"target": f"torch.optim.lr_scheduler.{name}", "params": params}


SCHEDULES = {
    "function": (WARM_UP, [0, 0.5, 1, 0.5, 0]),
    "StepLR": (of_torch("StepLR", step_size=2, gamma=0.5), [1, 1, 0.5, 0.5, 0.25]),
    "MultiStepLR": (of_torch("MultiStepLR", milestones=[1, 3], gamma=0.5), [1, 0.5, 0.5, 0.25, 0.25]),
    "LinearLR": (of_torch("LinearLR", start_factor=0.5, total_iters=2), [0.5, 0.75, 1, 1, 1]),
    "CosineAnnealingLR": (of_torch("CosineAnnealingLR", T_max=4), [1, 0.8535534, 0.5, 0.1464466, 0]),
    "OneCycleLR": (of_torch("OneCycleLR", max_lr=2.0, total_steps=5, anneal_strategy="linear", pct_start=0.4), None),
    "CyclicLR": (of_torch("CyclicLR", base_lr=0.5, max_lr=1.0, step_size_up=2), [0.5, 0.75, 1, 0.75, 0.5]),
    "LambdaLR": (of_torch("LambdaLR", lr_lambda=WARM_UP), [0, 0.5, 1, 0.5, 0]),
    "SequentialLR": (
        of_torch(
            "SequentialLR",
            schedulers=[of_torch("ConstantLR", factor=0.5, total_iters=9), of_torch("StepLR", step_size=1, gamma=0.5)],
            milestones=[2],
        ),
        [0.5, 0.5, 1, 0.5, 0.25],
    ),
    "ChainedScheduler": (
        of_torch("ChainedScheduler", schedulers=[of_torch("ExponentialLR", gamma=0.5), WARM_UP]),
        None,
    ),
}


def optimizer():
    return torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=1.0, betas=(0.5, 0.9))


def rates(schedule, count):
    """The next rates."""
    result = []
    for _ in range(count):
        result.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return result


@pytest.mark.parametrize("as_node", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_any_kind_go_on_from_what_a_checkpoint_holds(tmp_path, name, as_node):
    config, expected = SCHEDULES[name]
    config = OmegaConf.create(config) if as_node else config
    whole = rates(build_schedule(optimizer(), config), 5)
    assert expected is None or whole == pytest.approx(expected)
    first = build_schedule(optimizer(), config)
    assert rates(first, 2) == whole[:2]
    states = {"lr_schedulers": first.state_dict(), "optimizer": first.optimizer.state_dict()}
    torch.save(states, tmp_path / "states")
    states = torch.load(tmp_path / "states", weights_only=True)
    second = build_schedule(optimizer(), config)
    second.load_state_dict(states["lr_schedulers"])
    second.optimizer.load_state_dict(states["optimizer"])
    assert rates(second, 3) == whole[2:]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (of_torch("StepLRR", step_size=1), ["scheduler_config.target", "StepLRR", "StepLR?"]),
        (of_torch("StepLR", stepsize=1), ["scheduler_config.params.stepsize", "step_size"]),
        (of_torch("StepLR"), ["scheduler_config.params.step_size", "missing", "StepLR"]),
        (of_torch("ReduceLROnPlateau"), ["scheduler_config.target", "metric"]),
        ({"target": "torch.optim.Adam"}, ["scheduler_config.target", "torch.optim.Adam", "function of the step"]),
        ({"target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler"}, ["scheduler_config.params.warm_up_steps"]),
        ({"target": "builtins.dict"}, ["scheduler_config.target", "function of the step"]),
        ({"params": {}}, ["scheduler_config.target", "missing"]),
        (
            of_torch("OneCycleLR", max_lr=1.0, total_steps=0),
            ["scheduler_config.params", "OneCycleLR", "total_steps"],
        ),
        (
            of_torch("ChainedScheduler", schedulers=[of_torch("StepLR", step_size=2), of_torch("StepL", step_size=2)]),
            ["scheduler_config.params.schedulers[1].target", "StepLR?"],
        ),
    ],
)
@pytest.mark.parametrize("as_node", [False, True])
def test_what_is_no_schedule_is_said_in_one_line(config, words, as_node):
    config = OmegaConf.create({"model": {"params": {"scheduler_config": config}}}) if as_node else config
    with pytest.raises(ConfigError) as caught:
        build_schedule(optimizer(), config.model.params.scheduler_config if as_node else config)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
