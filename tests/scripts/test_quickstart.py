"""The quick start from a folder of images to pictures and numbers, at a size that proves the path, not the recipe."""

import importlib.util
import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
from PIL import Image

from taming import quickstart
from taming.cli import run_command
from taming.evaluation import measures
from taming.quickstart import QuickStart

CONFIGS = Path(__file__).parents[2] / "configs" / "quickstart"
PICTURES = ("reconstructions.png", "samples.png", "completions.png", "losses.png")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(quickstart, "SAMPLES_PER_CLASS", 3)
    monkeypatch.setattr(quickstart, "SHOWN", 2)
    train_classifier = measures.train_classifier
    monkeypatch.setattr(measures, "train_classifier", lambda *args, **kw: train_classifier(*args, **kw, steps=2))


@pytest.fixture
def job(image_folder, tmp_path):
    return QuickStart(data=str(image_folder), outdir=tmp_path / "out", configs=CONFIGS, minutes=0.02)


def stages(outdir):
    return sorted(path.name.split("_")[1] for path in outdir.glob("logs/*"))


def test_folder_with_classes(job):
    metrics = quickstart.run(job)
    assert json.loads((job.outdir / "metrics.json").read_text()) == metrics
    assert 0 < metrics["codebook_usage"] <= 1 and metrics["nll"] > 0
    assert metrics["class_unigram_entropy"] <= metrics["unigram_entropy"]
    assert {"classifier_on_real", "classifier_on_samples"} <= metrics.keys()
    assert stages(job.outdir) == ["transformer", "vqgan"]
    assert sorted(path.parent.name for path in job.outdir.glob("samples/*/*/*/*.png")) == ["0"] * 3 + ["1"] * 3
    for name in PICTURES:
        with Image.open(job.outdir / name) as picture:
            assert min(picture.size) > 100


def test_interrupted_in_the_second_stage_it_goes_on_there(job, monkeypatch):
    """The first stage is not trained again, and the second continues from its own last checkpoint."""
    interrupted = []

    def interrupt(self, trainer, module, *_):
        if not module.automatic_optimization or trainer.global_step < 1 or interrupted:
            return
        interrupted.append(trainer.global_step)
        raise KeyboardInterrupt

    monkeypatch.setattr(pl.Callback, "on_train_batch_end", interrupt)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        quickstart.run(job)
    assert interrupted and stages(job.outdir) == ["transformer", "vqgan"]
    assert not (job.outdir / "metrics.json").exists()
    quickstart.run(job)
    assert stages(job.outdir) == ["transformer", "vqgan"], "no new run folders"
    assert (job.outdir / "metrics.json").exists()


def test_images_without_subfolders_are_unconditional_and_the_baseline_is_compared(job, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for image in Path(job.data).rglob("*.png"):
        image.rename(flat / image.name)
    metrics = quickstart.run(QuickStart(str(flat), job.outdir, CONFIGS, minutes=0.02, baseline=True))
    assert "classifier_on_samples" not in metrics
    assert {"published_recipe_psnr_db", "published_recipe_codebook_usage"} <= metrics.keys()
    assert stages(job.outdir) == ["published", "transformer", "vqgan"]
    assert len(list(job.outdir.glob("samples/*/*/*.png"))) == 3


def test_budget_scales_the_steps_of_the_config():
    base = CONFIGS / "digits_vqgan.yaml"
    job = QuickStart("digits", Path("out"), CONFIGS)
    assert quickstart.budget(job, base) == []
    steps, seconds, decay = quickstart.budget(QuickStart("digits", Path("out"), CONFIGS, minutes=2.5), base)
    whole = int(base.read_text().split("max_steps: ")[1].split()[0])
    assert steps == f"lightning.trainer.max_steps={whole // 2}" and decay.endswith(f"max_decay_steps={whole // 2}")
    assert seconds == "lightning.trainer.max_time={seconds: 63}"


def run_script(*arguments):
    spec = importlib.util.spec_from_file_location("quickstart_script", CONFIGS.parents[1] / "scripts" / "quickstart.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.set_up_console = lambda: None  # it would leave its handler on a stream that ends with this test
    return run_command(script.main, [str(argument) for argument in arguments])


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    cases = {
        ("--data", tmp_path / "nowhere"): "neither digits, photos nor an existing folder",
        ("--data", tmp_path / "empty", "--outdir", tmp_path / "out"): "no images below",
        ("--minutes", "0"): "a time budget is positive",
        ("-r", tmp_path / "nowhere"): "no quick start there",
    }
    for arguments, message in cases.items():
        assert run_script(*arguments) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_folder_with_anything_in_it_is_not_touched(tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert run_script("--outdir", tmp_path) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
