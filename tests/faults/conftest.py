"""What the drills share: main.py as a command, a config in an empty folder, and a disk that is small."""

import logging
import shutil
import signal
import subprocess

import pytest
from tiny_runs import write_config

import main
from taming.cli import run_command


@pytest.fixture
def command(capsys):
    """A function that runs main.py with arguments, on the CPU: (exit status, stdout, stderr)."""
    root = logging.getLogger()
    handlers, on_interrupt = root.handlers[:], signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background

    def run(*arguments):
        capsys.readouterr()
        try:
            status = run_command(main.main, [*arguments, "--accelerator", "cpu"])
        except SystemExit as exit_:  # of Lightning, after Ctrl-C
            status = exit_.code
        return status, *capsys.readouterr()

    yield run
    root.handlers[:] = handlers
    signal.signal(signal.SIGINT, on_interrupt)


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """An empty disk of 1 MiB as the current folder, with a config file; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk takes the right to mount one")
    with monkeypatch.context() as patch:
        patch.chdir(disk)
        write_config(disk)
        yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
