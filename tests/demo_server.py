"""The demo as people start it, and the browser that looks at it: Debian's Chromium, driven by Playwright."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 300
"""Seconds for whatever the page has to do on a busy machine."""


@contextmanager
def served(run: str) -> Iterator[tuple[str, int]]:
    """Serve the page of a run folder; its address, and the number of the server's process."""
    port = _free_port()
    command = [sys.executable, "-m", "streamlit", "run", "scripts/sample_conditional.py"]
    command += ["--server.port", str(port), "--server.headless", "true", "--", "-r", str(run), "--device", "cpu"]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    try:
        _wait_for(f"http://localhost:{port}/_stcore/health", server)
        yield f"http://localhost:{port}", server.pid
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:  # on a busy machine it may wait for its visitors for ever
            server.kill()
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _wait_for(health: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stdout.read().decode()
        try:
            with urllib.request.urlopen(health, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@contextmanager
def chromium():
    """A browser, as Playwright has it."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        sync_api.expect.set_options(timeout=1000 * PATIENCE)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, address: str):
    """The page in a tab of its own, from before it is there until it is closed."""
    page = browser.new_page(viewport={"width": 1360, "height": 1200})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(address)
    yield page
    page.close()


def button(page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def set_number(page, label: str, value: int) -> None:
    """Fill in a number, and wait until the page has taken it."""
    field = page.get_by_label(label, exact=True)
    field.fill(str(value))
    field.press("Enter")
    page.wait_for_function("document.querySelector('[data-testid=stStatusWidget]') === null")
