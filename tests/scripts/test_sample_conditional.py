"""scripts/sample_conditional.py as Streamlit runs it, without a browser."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_demo
import torch
from omegaconf import OmegaConf
from PIL import Image
from script_modules import SCRIPTS, load_script
from tiny_pages import SCRIPT, labelled, press_sample

from taming.cli import run_command

pytest.importorskip("streamlit", reason="the demo needs the extra app")

from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import StopException
from streamlit.testing.v1 import AppTest


def in_order(block):
    """What the page shows, from its beginning: kind of element and its label, or its text."""
    return [
        (element.type, getattr(element, "label", None) or str(getattr(element, "value", "")))
        for element in block
        if not hasattr(element, "children")
    ]


def assert_in_order(block, *expected):
    shown = iter(in_order(block))
    for kind, beginning in expected:
        assert any(found == kind and text.startswith(beginning) for found, text in shown), (kind, beginning)


def test_order_labels_and_defaults(open_page, runs):
    page = open_page("segmentation", splits=("validation", "train"))
    run = runs("segmentation", splits=("validation", "train"))
    assert not page.exception
    assert_in_order(
        page.sidebar,
        ("text", str(Path(run, "checkpoints", "last.ckpt"))),
        ("text", f"Global step: {tiny_demo.STEP}"),
        ("text", "Options"),
        ("radio", "Split"),
        ("number_input", "Example Index (Size: 2)"),
        ("slider", "Scale Factor"),
        ("checkbox", "Image Completion"),
        ("number_input", "Seed"),
    )
    assert_in_order(
        page.main,
        ("warning", "model"),
        ("text", "Image: (1, 3, 16, 16)"),
        ("image", ""),
        ("text", "Reconstruction: (1, 3, 16, 16)"),
        ("image", ""),
        ("text", "segmentation: (1, 9, 16, 16)"),
        ("image", ""),
        ("info", "Setting idx to c_indices"),
        ("image", ""),
        ("number_input", "Temperature"),
        ("number_input", "Top k"),
        ("checkbox", "Sample"),
        ("number_input", "Update every"),
        ("text", "Sampling shape (4,4)"),
        ("checkbox", "animate"),
        ("text", "Sampled"),
        ("button", "Sample"),
    )
    defaults = {element.label: element.value for element in [*page.number_input, *page.checkbox, *page.slider]}
    assert defaults == {
        "Example Index (Size: 2)": 0,
        "Scale Factor": 1.0,
        "Image Completion": False,
        "Seed": -1,
        "Top p": 1.0,
        "Shorter side (pixels)": 16,
        "Temperature": 1.0,
        "Top k": 100,
        "Sample": True,
        "Update every": 75,
        "animate": False,
    }
    scale = labelled(page.slider, "Scale Factor")
    assert (scale.min, scale.max, scale.step) == (0.5, 4.0, 0.25)
    assert page.radio[0].options == ["train", "validation"] and page.radio[0].value == "train"
    assert labelled(page.number_input, "Update every").min == labelled(page.number_input, "Top k").min == 1


def test_there_is_no_sampling_here():
    for path in [SCRIPT, *(SCRIPTS.parent / "taming" / "demo").glob("*.py")]:
        assert not any(word in path.read_text() for word in ("softmax", "multinomial", "topk", "top_k_top_p"))


@pytest.mark.parametrize("kind", tiny_demo.STAGES)
def test_every_conditioning_is_sampled(open_page, kind):
    page = open_page(kind)
    labelled(page.number_input, "Seed").set_value(5).run()
    result = press_sample(page)
    assert result.is_finished and result.image.shape == (16, 16, 3) and result.seed == 5
    assert any(text.value == "Step: (3,3) | Local: (3,3) | Crop: (0:4,0:4)" for text in page.text)
    assert any(text.value.startswith("Time: ") for text in page.text)
    assert [warning.value for warning in page.info if "c_indices" in warning.value] == (
        ["Setting idx to c_indices"] if kind in ("segmentation", "depth", "coord", "image") else []
    )
    again = press_sample(page)
    assert np.array_equal(again.image, result.image)


def test_pixels_are_those_of_make_samples(open_page, runs, tmp_path):
    page = open_page("depth")
    arguments = ["-r", runs("depth"), "--outdir", str(tmp_path / "out"), "--seed", "5", "--scale_factor", "1.5"]
    load_script("make_samples").main([*arguments, "--top_k", "7", "--top_p", "0.9", "--temperature", "1.25"])
    labelled(page.number_input, "Seed").set_value(5)
    labelled(page.number_input, "Top k").set_value(7)
    labelled(page.number_input, "Top p").set_value(0.9)
    labelled(page.number_input, "Temperature").set_value(1.25)
    labelled(page.slider, "Scale Factor").set_value(1.5)
    labelled(page.number_input, "Example Index (Size: 3)").set_value(2)
    result = press_sample(page)
    (folder,) = (tmp_path / "out").iterdir()
    made = np.asarray(Image.open(folder / "samples" / "000002.png"))
    assert made.shape == result.image.shape == (24, 24, 3) and np.abs(made.astype(int) - result.image).max() <= 1


def test_pixels_are_those_of_sample_fast(open_page, runs, tmp_path):
    page = open_page("class_label")
    run = runs("class_label")
    load_script("sample_fast").main(
        ["-r", run, "-n", "2", "--classes", "3", "--seed", "5", "-k", "100", "-o", str(tmp_path)]
    )
    labelled(page.number_input, "Seed").set_value(5)
    labelled(page.number_input, "Class").set_value(3)
    labelled(page.number_input, "Example Index (Size: 3)").set_value(1)
    result = press_sample(page)
    made = np.asarray(Image.open(next((tmp_path / "samples").rglob("3/000001.png"))))
    assert np.abs(made.astype(int) - result.image).max() <= 1


def test_a_random_seed_is_shown(open_page):
    page = open_page("unconditional")
    seeds = {press_sample(page).seed for _ in range(2)}
    assert len(seeds) == 2 and any("seed" in caption.value for caption in page.caption)


def test_greedy_needs_no_seed(open_page):
    page = open_page("unconditional")
    labelled(page.checkbox, "Sample").uncheck()
    assert np.array_equal(press_sample(page).image, press_sample(page).image)


def test_completion_keeps_what_is_asked_for(open_page):
    page = open_page("unconditional")
    labelled(page.checkbox, "Image Completion").check().run()
    assert not page.exception and not page.info
    keep = labelled(page.radio, "Keep")
    assert keep.options == ["the first half", "all but a rectangle", "a rectangle only"]
    press_sample(page)
    keep.set_value("all but a rectangle").run()
    press_sample(page)
    labelled(page.number_input, "Top (%)").set_value(80).run()
    assert "the rectangle is empty: top 80" in page.error[0].value.replace("\\", "")
    labelled(page.number_input, "Top (%)").set_value(0).run()
    assert not page.error
    press_sample(page)


def test_the_index_is_clamped_when_the_split_becomes_smaller(open_page):
    page = open_page("unconditional", splits=("validation", "train"))
    labelled(page.radio, "Split").set_value("validation").run()
    labelled(page.number_input, "Example Index (Size: 3)").set_value(2).run()
    labelled(page.radio, "Split").set_value("train").run()
    assert not page.exception and labelled(page.number_input, "Example Index (Size: 2)").value == 1


def test_top_k_beyond_the_vocabulary_is_no_filter(open_page):
    page = open_page("unconditional")
    labelled(page.number_input, "Top k").set_value(10**6)
    assert press_sample(page).is_finished


def test_redrawing(open_page, monkeypatch):
    drawn = []
    original = DeltaGenerator.image
    monkeypatch.setattr(DeltaGenerator, "image", lambda *args, **options: drawn.append(1) or original(*args, **options))
    page = open_page("unconditional")
    counts = []
    for every in (4, 16, 75):
        labelled(page.number_input, "Update every").set_value(every)
        drawn.clear()
        press_sample(page)
        counts.append(len(drawn))
    assert [count - counts[-1] for count in counts] == [3, 0, 0], "cells 0, 4, 8, 12 and the end; 0 and the end"


def test_animation(open_page):
    pytest.importorskip("imageio_ffmpeg", reason="the extra app brings it")
    page = open_page("unconditional")
    labelled(page.checkbox, "animate").check()
    labelled(page.number_input, "Update every").set_value(4).run()
    assert not Path("sampling.mp4").exists(), "nothing is written before Sample is pressed"
    result = press_sample(page)
    assert Path("sampling.mp4").read_bytes() == result.video and result.video[4:8] == b"ftyp"
    assert [path.name for path in Path().iterdir()] == ["sampling.mp4"]


def test_a_run_that_is_stopped_leaves_its_last_picture_and_no_video(open_page, monkeypatch):
    pytest.importorskip("imageio_ffmpeg", reason="the extra app brings it")
    page = open_page("unconditional")
    labelled(page.checkbox, "animate").check()
    labelled(page.number_input, "Update every").set_value(4).run()
    original = DeltaGenerator.image
    seen = []

    def stops_at_the_third(self, *args, **options):
        if "result" in page.session_state:
            seen.append(1)
        if len(seen) == 3:
            raise StopException
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DeltaGenerator, "image", stops_at_the_third)
        labelled(page.button, "Sample").click().run()
    page.run()
    result = page.session_state["result"]
    assert not result.is_finished and 0 < result.n_done < 16 and result.video is None
    assert not list(Path().iterdir()) and any("stopped after" in caption.value for caption in page.caption)
    assert press_sample(page).is_finished


def test_animation_without_the_package(open_page, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    page = open_page("unconditional")
    labelled(page.checkbox, "animate").check()
    labelled(page.button, "Sample").click().run()
    assert not page.exception and "pip install" in page.error[0].value
    labelled(page.checkbox, "animate").uncheck()
    labelled(page.button, "Sample").click().run()
    assert not page.error and page.session_state["result"].is_finished


def test_other_data(open_page):
    data = tiny_demo.config_of("class_label", length=1)["data"]
    page = open_page("class_label", "--ignore_base_data", f"data={json.dumps(data)}")
    assert labelled(page.number_input, "Example Index (Size: 1)").value == 0 and not page.exception
    assert any(text.value.startswith("class_label: 0 (") for text in page.text)


def test_data_that_cannot_be_had_are_no_obstacle_to_an_unconditional_model(open_page):
    page = open_page("unconditional", "data.params.validation.params.world=another")
    assert "No examples" in page.warning[-1].value and not page.exception
    assert press_sample(page).title == "no example"
    page = open_page("depth", "data.params.validation.params.world=another")
    assert "no example with depth" in page.error[0].value and not page.exception


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "--device tpu"),
        (["--bse", "x.yaml"], "did you mean --base"),
        (["--precision", "8"], "invalid choice"),
        (["-r"], "expected one argument"),
        (["-r", "nowhere"], "nowhere: no such run folder"),
        (["model.params.cond_stage_key=nothing"], "the model reads 'nothing'"),
        (["model.target=taming.models.vqgan.VQMdel"], "did you mean taming.models.vqgan.VQModel"),
    ],
)
def test_mistakes_are_shown_in_the_page(open_page, arguments, message):
    page = open_page("depth", *arguments)
    assert not page.exception and message in page.error[0].value.replace("\\", "")


def test_a_first_stage_alone_is_told_apart(open_page, tmp_path):
    run = Path(tiny_demo.save_run(tmp_path / "run", "unconditional"))
    OmegaConf.save({"model": tiny_demo.stage()}, run / "configs" / "2021-project.yaml")
    state_dict = tiny_demo.tiny_model("unconditional").first_stage_model.state_dict()
    torch.save(state_dict, run / "checkpoints" / "last.ckpt")
    page = open_page("unconditional", "-r", str(run))
    assert "has no transformer to sample from" in page.error[0].value.replace("\\", "")


def test_random_weights_without_a_run(runs, monkeypatch):
    config = Path(runs("unconditional"), "configs", "2021-project.yaml")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "-b", str(config), "--precision", "bf16"])
    page = AppTest.from_file(str(SCRIPT), default_timeout=60).run()
    assert page.sidebar.text[0].value == "no checkpoint: random weights"
    assert press_sample(page).is_finished


def test_as_a_command_it_tells_how_to_start_it(capsys):
    script = load_script("sample_conditional")
    assert run_command(script.main, ["-r", "logs/run"]) == 2
    assert "start it with: streamlit run scripts/sample_conditional.py -- -r logs/<run>" in capsys.readouterr().err
    assert run_command(script.main, ["--nonsense"]) == 2
    with pytest.raises(SystemExit) as caught:
        script.main(["-h"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(option in shown for option in ("--resume", "--base", "--config", "--ignore_base_data", "--device"))
