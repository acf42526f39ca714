"""What people give the page in the place of an example's: images, maps, layouts, captions."""

import json

import numpy as np
import pytest
import tiny_demo
from PIL import Image
from script_modules import load_script
from tiny_pages import labelled, png, press_sample, shown, upload

pytest.importorskip("streamlit", reason="the demo needs the extra app")

LAYOUT = json.dumps(tiny_demo.LAYOUT).encode()
CAPTION = "a heath with a car"


def difference(path, image):
    """The largest one of any value, in levels."""
    return np.abs(np.asarray(Image.open(path)).astype(int) - image).max()


def test_uploads(open_page):
    page = open_page("segmentation")
    upload(
        page, "Conditioning: segmentation", "map.png", png((np.arange(24 * 16) % 9).astype(np.uint8).reshape(16, 24))
    )
    assert any(text.value == "segmentation: (1, 9, 16, 24)" for text in page.text)
    result = press_sample(page)
    assert result.image.shape == (16, 24, 3) and result.title == "map.png"
    upload(page, "Image", "photo.png", png(np.full((40, 80, 3), 200, np.uint8)))
    labelled(page.checkbox, "Image Completion").check().run()
    assert press_sample(page).title == "photo.png, map.png"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.png", b"not an image", "notes.png: this is no image"),
        ("half.png", png(np.zeros((50, 50, 3), np.uint8))[:60], "half.png"),
        ("huge.png", bytes(21 * 2**20), "huge.png: 21 MB are too many"),
    ],
    ids=["wrong type", "corrupt", "huge"],
)
def test_the_page_survives_bad_uploads(open_page, name, content, message):
    page = open_page("unconditional")
    upload(page, "Image", name, content)
    assert not page.exception and message in shown(page.error)[0]
    upload(page, "Image")
    assert not page.error and press_sample(page).is_finished


@pytest.mark.parametrize(("scale", "side"), [(1.0, 16), (2.0, 32)])
def test_a_layout_gives_the_pixels_of_make_scene_samples(open_page, runs, tmp_path, scale, side):
    """In one window and in several; that command rounds pixels, as published, and the page cuts them off."""
    page = open_page("objects_bbox")
    upload(page, "Layout: objects_bbox", "mine.json", LAYOUT)
    labelled(page.slider, "Scale Factor").set_value(scale)
    labelled(page.number_input, "Seed").set_value(5)
    result = press_sample(page)
    assert result.title == "mine.json" and result.image.shape == (side, side, 3)
    (tmp_path / "mine.json").write_bytes(LAYOUT)
    arguments = ["-r", runs("objects_bbox"), "--outdir", str(tmp_path / "out"), "--seed", "5", "-N", "1"]
    load_script("make_scene_samples").main(
        [*arguments, "-R", f"{side},{side}", "--layout", str(tmp_path / "mine.json"), "--device", "cpu"]
    )
    (row,) = (tmp_path / "out").rglob("mine_*.png")
    tile = np.asarray(Image.open(row))[2 : 2 + side, 2 : 2 + side]
    assert np.abs(tile.astype(int) - result.image).max() <= 1


def test_the_page_survives_bad_layouts(open_page):
    page = open_page("objects_bbox")
    for content, message in (
        (b"not JSON", "bad.json is not valid JSON"),
        (b'{"objects": []}', "bad.json: expected a list of at least one object"),
        (LAYOUT.replace(b"ball", b"bell"), "class 'bell' is none of the data set's; did you mean ball?"),
        (json.dumps({"objects": tiny_demo.LAYOUT["objects"] * 2}).encode(), "has 4 objects, but the model reads 3"),
        (bytes(2 * 2**20), "bytes are too many for a layout"),
    ):
        upload(page, "Layout: objects_bbox", "bad.json", content)
        assert not page.exception and message in shown(page.error)[0]
    upload(page, "Layout: objects_bbox")
    assert not page.error and press_sample(page).is_finished


def test_a_layout_without_data_is_answered(open_page):
    page = open_page("objects_bbox", "data.params.validation.params.world=another")
    assert "no example with objects_bbox" in shown(page.error)[0] and not page.exception
    upload(page, "Layout: objects_bbox", "mine.json", LAYOUT)
    assert "mine.json: only a data set says what the classes of a layout are" in shown(page.error)[0]


def test_a_caption_gives_the_pixels_of_sample_text(open_page, runs, tmp_path):
    page = open_page("caption_bytes")
    labelled(page.text_input, "Caption").set_value(CAPTION)
    labelled(page.number_input, "Seed").set_value(5)
    labelled(page.number_input, "Example Index (Size: 3)").set_value(1)
    result = press_sample(page)
    assert result.title == f'validation, example 1, "{CAPTION}"'
    assert any(text.value == f"caption_bytes: {CAPTION}" for text in page.text)
    arguments = ["-r", runs("caption_bytes"), "-o", str(tmp_path), "--prompt", CAPTION, "--seed", "5"]
    load_script("sample_text").main([*arguments, "-n", "2", "--batch_size", "1", "--device", "cpu"])
    (path,) = tmp_path.rglob("000001.png")
    assert difference(path, result.image) <= 1, "windows may round otherwise than the decoder"
    labelled(page.text_input, "Caption").set_value("   ").run()
    assert any(text.value.startswith("caption_bytes: a ") and CAPTION not in text.value for text in page.text)


def test_captions_that_are_cut_or_odd(open_page):
    page = open_page("caption_bytes")
    field = labelled(page.text_input, "Caption")
    field.set_value("two trees " * 40).run()
    assert any("of which the model reads the first 8." in text for text in shown(page.warning))
    assert press_sample(page).is_finished
    field.set_value("\u72ac <b>*_~`$x$ \0").run()
    assert press_sample(page).is_finished and not page.exception


def test_a_caption_needs_no_data(open_page):
    page = open_page("caption_bytes", "data.params.validation.params.world=another")
    assert "no example with caption_bytes" in shown(page.error)[0] and not page.exception
    labelled(page.text_input, "Caption").set_value(CAPTION).run()
    assert press_sample(page).title == f'no example, "{CAPTION}"'
