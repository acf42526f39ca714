"""Drills: the clock is put back, and runs begin in the same second."""

from datetime import datetime, timedelta

import pytest
from tiny_runs import fit, names, run_folders

from taming.training import run_plan, train
from taming.training.run_plan import new_run_name, time_stamp

NOON = datetime(2026, 3, 1, 12)


@pytest.fixture
def clock(monkeypatch):
    """A function that sets the clock to some time after noon; there it stands still."""

    def put(**ahead):
        class Stopped(datetime):
            @classmethod
            def now(cls):
                return NOON + timedelta(**ahead)

        monkeypatch.setattr(run_plan, "datetime", Stopped)

    put()
    return put


def start(logs, name, reserve=True):
    with new_run_name(logs, name, reserve=reserve) as (_, name):
        (logs / name).joinpath("configs").mkdir(parents=True)
    return name


def test_runs_are_named_in_the_order_of_their_starts(tmp_path, clock, caplog):
    started = [start(tmp_path, "_a"), start(tmp_path, "_a")]
    clock(hours=1)
    started += [start(tmp_path, "_b"), start(tmp_path, "_a")]
    assert caplog.messages == []
    clock(minutes=30)
    started += [start(tmp_path, "_a"), start(tmp_path, "_a")]
    assert started == sorted(set(started))
    assert started[-2:] == ["2026-03-01T13-00-02_a", "2026-03-01T13-00-03_a"]
    assert caplog.messages == [
        f"the clock is behind the latest run, of 2026-03-01 13:00:0{second}: time stamps count on from there"
        for second in (1, 2)
    ]


def test_a_name_that_another_process_takes_at_the_same_moment_is_not_used(tmp_path, clock, monkeypatch):
    original = run_plan.time_stamp

    def time_stamp(after):
        stamp = original(after)
        (tmp_path / f"{stamp}_a").mkdir(exist_ok=not attempts)
        attempts.append(stamp)
        monkeypatch.setattr(run_plan, "time_stamp", original)
        return stamp

    attempts = []
    monkeypatch.setattr(run_plan, "time_stamp", time_stamp)
    assert start(tmp_path, "_a") == "2026-03-01T12-00-01_a" and attempts == ["2026-03-01T12-00-00"]


def test_a_name_that_is_not_used_leaves_no_folder(tmp_path, clock):
    for reserve in (True, False):
        with new_run_name(tmp_path / "logs", "_a", reserve=reserve) as (_, name):
            assert (tmp_path / "logs" / name).exists() == reserve
    assert list(tmp_path.rglob("*_a")) == []


def test_names_that_begin_with_no_time_count_for_nothing(clock):
    assert time_stamp(after=["debug_runs", "2026-13-40T99-99-99_x", "2026-02-01T00-00-00_x"]) == "2026-03-01T12-00-00"


def test_the_configs_of_a_resumed_run_stay_in_order(config, tmp_path, monkeypatch, clock):
    logdir = fit(config, "--max_epochs", "1").logdir
    clock(hours=-1)
    for epochs in ("2", "3"):
        train(["-r", str(logdir), "-t", "--max_epochs", epochs])
    assert names(logdir / "configs")[::2] == [f"2026-03-01T12-00-0{i}-lightning.yaml" for i in (0, 1, 2)]
    assert train(["-r", str(logdir), "-t"]).trainer.max_epochs == 3, "the latest config counts"
    assert run_folders() == [logdir]
