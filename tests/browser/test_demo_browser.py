"""The demo in a real browser, Debian's Chromium, driven by Playwright.

TAMING_DEMO_SCREENSHOT names a file for a picture of the page; TAMING_DEMO_RUN a run to show in it instead of an
untrained one.
"""

import os

import numpy as np
import pytest
import tiny_demo
from demo_server import CHROMIUM, button, chromium, opened, served, set_number
from PIL import Image

pytest.importorskip("streamlit", reason="the demo needs the extra app")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra test, is missing")
if CHROMIUM is None:
    pytest.skip("no Chromium here; Debian's package is called chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the page is served while the tests run."""
    run = os.environ.get("TAMING_DEMO_RUN") or tiny_demo.save_run(
        tmp_path_factory.mktemp("demo") / "run", "segmentation"
    )
    with served(run) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        button(page, "Sample").wait_for()
        yield page


def sampled(page):
    """Wait for the end of a run."""
    page.get_by_role("button", name="Download image").wait_for()
    sync_api.expect(button(page, "Sample")).to_be_enabled()


def test_sample(page):
    page.locator("img").nth(3).wait_for()  # image, reconstruction, conditioning, start
    before = page.locator("img").count()
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
