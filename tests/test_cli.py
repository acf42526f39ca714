"""What commands share: exit codes, arguments, devices."""

import argparse
import logging
import sys

import pytest
import torch

from taming.cli import add_device_options, autocast, run_command, select_device, split_dotlist, str2bool
from taming.config import ConfigError, load_config


@pytest.fixture(autouse=True)
def untouched_logging(monkeypatch):
    """Neither import path nor log levels outlive a test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    library, level = logging.getLogger("taming"), logging.getLogger("taming").level
    yield
    library.setLevel(level)


def raising(error):
    def main(argv):
        raise error

    return main


def test_a_command_s_status_and_arguments():
    seen = []
    assert run_command(seen.append, ["-r", "x"]) == 0
    assert seen == [["-r", "x"]]
    assert run_command(lambda argv: 3, []) == 3


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("size 3 is odd,\n  must be even"), "size 3 is odd, must be even"),
        (ConfigError("a.yaml: model.target is missing"), "a.yaml: model.target is missing"),
        (FileNotFoundError(2, "No such file or directory", "some/training.txt"), "some/training.txt: No such file or"),
        (ImportError("pip install taming-transformers[clip]"), "pip install taming-transformers[clip]"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_user_s_mistake_is_one_line_and_status_2(capsys, monkeypatch, error, line):
    monkeypatch.delenv("TAMING_DEBUG", raising=False)
    assert run_command(raising(error), []) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {line}")
    assert output.err.count("\n") == 1


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("TAMING_DEBUG", "1")
    with pytest.raises(ValueError, match="odd"):
        run_command(raising(ValueError("odd")), [])
    monkeypatch.setenv("TAMING_DEBUG", "0")
    assert run_command(raising(ValueError("odd")), []) == 2


def test_bugs_keep_their_traceback_and_interruption_its_status():
    with pytest.raises(TypeError):
        run_command(raising(TypeError("bug")), [])
    assert run_command(raising(KeyboardInterrupt()), []) == 130


def test_modules_in_the_current_folder_can_be_imported(tmp_path, monkeypatch):
    (tmp_path / "beside_the_config.py").write_text("value = 5")
    monkeypatch.chdir(tmp_path)

    def main(argv):
        import beside_the_config

        return beside_the_config.value

    assert run_command(main, []) == 5


@pytest.mark.parametrize(("rank", "level"), [("0", logging.INFO), ("1", logging.ERROR)])
def test_only_the_first_process_reports(monkeypatch, rank, level):
    monkeypatch.setenv("LOCAL_RANK", rank)
    run_command(lambda argv: 0, [])
    assert logging.getLogger("taming.config").getEffectiveLevel() == level


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", "--name", default="")
    parser.add_argument("-b", "--base", nargs="*", default=[])
    parser.add_argument("-t", "--train", type=str2bool, nargs="?", const=True, default=False)
    parser.add_argument("--no-test", type=str2bool, nargs="?", const=True, default=False)
    parser.add_argument("--max_epochs", type=int)
    parser.add_argument("--overwrite", action="store_true")
    return parser


def test_booleans():
    assert all(str2bool(text) for text in ("yes", "TRUE", "t", "Y", "1"))
    assert not any(str2bool(text) for text in ("no", "False", "F", "n", "0"))
    with pytest.raises(argparse.ArgumentTypeError, match="maybe"):
        str2bool("maybe")


@pytest.mark.parametrize(
    ("argv", "expected", "overrides"),
    [
        ("-b a.yaml b.yaml m.x=1", {"base": ["a.yaml", "b.yaml"]}, ["m.x=1"]),
        ("-t m.x=1", {"train": True}, ["m.x=1"]),
        ("-t m.x=1 -b a.yaml m.x=2 --no-test m.x=3 m.y=", {"no_test": True}, ["m.x=1", "m.x=2", "m.x=3", "m.y="]),
        ("--no-test False m.x=1", {"no_test": False}, ["m.x=1"]),
        ("-n a=b m.x=1", {"name": "a=b"}, ["m.x=1"]),
        ("--nam a=b m.x=1", {"name": "a=b"}, ["m.x=1"]),
        ("--overwrite m.x=1", {"overwrite": True}, ["m.x=1"]),
        ("--max_epochs=3 m.x=-1", {"max_epochs": 3}, ["m.x=-1"]),
        ("", {"base": [], "train": False}, []),
    ],
)
def test_overrides_may_stand_anywhere(parser, argv, expected, overrides):
    options, items = split_dotlist(parser, argv.split())
    assert items == overrides
    assert {key: getattr(options, key) for key in expected} == expected


def test_a_file_with_an_equals_sign_in_its_name_is_a_file(parser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1.yaml").write_text("a: 1")
    options, overrides = split_dotlist(parser, ["-b", "lr=1.yaml", "b=2"])
    assert load_config(options.base, overrides) == {"a": 1, "b": 2}


def test_an_override_may_be_longer_than_a_file_name(parser):
    item = f"data={{target: a.B, params: {{files: [{'x, ' * 2000}]}}}}"
    assert split_dotlist(parser, ["-t", item])[1] == [item]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--max_epohcs", "5"], ("--max_epohcs", "did you mean --max_epochs?")),
        (["--max_epohcs=5"], ("--max_epohcs=5", "did you mean --max_epochs?")),
        (["max_epochs"], ("max_epochs", "did you mean --max_epochs?")),
        (["stray"], ("stray is neither an option nor an override",)),
    ],
)
def test_stray_arguments_are_errors(parser, argv, parts):
    with pytest.raises(ConfigError) as error:
        split_dotlist(parser, argv)
    assert all(part in str(error.value) for part in ("command line", *parts))


def test_the_process_s_own_arguments_by_default(parser, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "-n", "x", "a.b=1"])
    options, overrides = split_dotlist(parser)
    assert (options.name, overrides) == ("x", ["a.b=1"])


def test_devices(monkeypatch):
    assert select_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device("auto") == torch.device("cuda")
    assert select_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"--device cuda:2: this machine has 2 such"):
        select_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert select_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(ValueError, match=f"--device {name}: this machine has 0 .*--device cpu"):
            select_device(name)


@pytest.mark.parametrize("name", ["gpu", "0", "meta", "cuda:x", ""])
def test_device_names_that_mean_nothing(name):
    with pytest.raises(ValueError, match=f"--device {name}: expected auto, cpu, cuda, cuda:N or mps"):
        select_device(name)


def test_device_options_and_precision():
    parser = argparse.ArgumentParser()
    add_device_options(parser)
    options = parser.parse_args([])
    assert (options.device, options.precision) == ("auto", "32")
    product = torch.ones(2, 2)
    for precision, dtype in {"32": torch.float32, "bf16": torch.bfloat16}.items():
        options = parser.parse_args(["--device", "cpu", "--precision", precision])
        with autocast(select_device(options.device), options.precision):
            assert (product @ product).dtype == dtype
    without = argparse.ArgumentParser()
    add_device_options(without, precision=False)
    assert not hasattr(without.parse_args([]), "precision")
