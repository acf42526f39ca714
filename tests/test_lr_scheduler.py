"""The published schedule."""

import pytest

from taming.lr_scheduler import LambdaWarmUpCosineScheduler


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
