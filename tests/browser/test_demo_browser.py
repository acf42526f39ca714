"""The demo in a real browser, Debian's Chromium, driven by Playwright.

TAMING_DEMO_SCREENSHOT names a file for a picture of the page; TAMING_DEMO_RUN a run to show in it instead of an
untrained one.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tiny_demo
from PIL import Image

pytest.importorskip("streamlit", reason="the demo needs the extra app")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra test, is missing")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium here; Debian's package is called chromium", allow_module_level=True)

ROOT = Path(__file__).parents[2]
PATIENCE = 300_000
"""Milliseconds for whatever the page has to do on a busy machine."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the page is served while the tests run."""
    run = os.environ.get("TAMING_DEMO_RUN") or tiny_demo.save_run(
        tmp_path_factory.mktemp("demo") / "run", "segmentation"
    )
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", "scripts/sample_conditional.py"]
    command += ["--server.port", str(port), "--server.headless", "true", "--", "-r", run, "--device", "cpu"]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    server = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE
    )
    try:
        wait_for(f"http://localhost:{port}/_stcore/health", server)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for(health, server):
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stdout.read().decode()
        try:
            with urllib.request.urlopen(health, timeout=1):
                return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("the server does not answer")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        sync_api.expect.set_options(timeout=PATIENCE)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1360, "height": 1200})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    button(page, "Sample").wait_for()
    yield page
    page.close()


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def sampled(page):
    """Wait for the end of a run."""
    page.get_by_role("button", name="Download image").wait_for()
    sync_api.expect(button(page, "Sample")).to_be_enabled()


def set_number(page, label, value):
    field = page.get_by_label(label, exact=True)
    field.fill(str(value))
    field.press("Enter")
    page.wait_for_function("document.querySelector('[data-testid=stStatusWidget]') === null")


def test_sample(page):
    before = page.locator("img").count()
    assert before >= 4, "image, reconstruction, conditioning, start"
    set_number(page, "Seed", 3)
    button(page, "Sample").click()
    sampled(page)
    assert page.locator("img").count() == before + 1
    assert page.get_by_text("Step: (").count() == 1 and page.get_by_text("seed 3").count() == 1
    name = os.environ.get("TAMING_DEMO_SCREENSHOT")
    if name:
        page.screenshot(path=name)


def test_stop(page):
    set_number(page, "Update every", 1)
    shape = page.get_by_text("Sampling shape (")
    before = shape.inner_text()
    page.get_by_role("slider").press("End")  # to 4.0, of which the sample takes a while
    sync_api.expect(shape).not_to_have_text(before)
    button(page, "Sample").click()
    sync_api.expect(button(page, "Stop")).to_be_enabled()
    page.get_by_text("Step: (").wait_for()
    button(page, "Stop").click()
    page.get_by_text("stopped after").wait_for()
    sync_api.expect(button(page, "Stop")).to_be_disabled()


def test_uploads(page, tmp_path):
    (tmp_path / "notes.png").write_bytes(b"no picture at all")
    Image.fromarray(np.full((64, 96, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    page.get_by_text("Upload", exact=True).first.click()
    chooser = page.locator("input[type=file]").first
    chooser.set_input_files(tmp_path / "notes.png")
    page.get_by_text("this is no image").wait_for()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "photo.png")
    page.get_by_text("this is no image").wait_for(state="detached")
    button(page, "Sample").click()
    sampled(page)
    assert page.get_by_text("photo.png, seed").count() == 1
