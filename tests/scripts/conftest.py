"""Pages of the demo that tests open."""

import sys

import pytest
import tiny_demo
from tiny_pages import SCRIPT


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A function from a kind of conditioning, and options of its config, to a run, the same for all tests."""
    made = {}

    def run_of(kind, **options):
        key = (kind, *options.items())
        if key not in made:
            made[key] = tiny_demo.save_run(tmp_path_factory.mktemp("runs") / kind, kind, **options)
        return made[key]

    return run_of


@pytest.fixture
def open_page(runs, tmp_path, monkeypatch):
    """A function that opens the page of a run of some kind, in an empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    from streamlit.testing.v1 import AppTest

    def open_(kind, *arguments, **options):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "-r", runs(kind, **options), "--device", "cpu", *arguments])
        return AppTest.from_file(str(SCRIPT), default_timeout=60).run()

    return open_
