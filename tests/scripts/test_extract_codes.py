"""scripts/extract_codes.py from a config or a run to codes, and training from them."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tiny_codes import batch, build, config, extract_codes, files, write_config
from tiny_runs import fit, run_folders

from taming import extraction
from taming.cli import run_command
from taming.config import load_config
from taming.data.tokens import CachedTokens
from taming.training import train

AUGMENT = "data.params.train.params.augment=true"


@pytest.fixture(autouse=True)
def second_stage(tmp_path, monkeypatch):
    """second.yaml, and the weights that it names, in the current, otherwise empty folder."""
    monkeypatch.chdir(tmp_path)
    return write_config(tmp_path)


def extract(*arguments, outdir="codes"):
    """Run the command on second.yaml; the files that it leaves."""
    extract_codes.main(["-b", "second.yaml", "-o", outdir, *arguments])
    return files(Path(outdir))


def codes_only(content):
    return {name: data for name, data in content.items() if name.endswith(".npy")}


def losses(result):
    metrics = {key: value.item() for key, value in result.trainer.callback_metrics.items() if "loss" in key}
    assert metrics
    return metrics


def test_training_from_codes_equals_training_from_images(capsys):
    content = extract()
    names = {f"{split}/{name}" for split in ("train", "validation") for name in ("00000.cond.npy", "00000.image.npy")}
    assert content.keys() == names | {"train/tokens.json", "validation/tokens.json", "config.yaml"}
    shown = capsys.readouterr().out
    assert "codes/train: 7 images x 1 views, 4 x 4 latents, 16 image and 1 conditioning tokens" in shown
    assert "python main.py --base codes/config.yaml -t True" in shown
    section = OmegaConf.create(shown[shown.index("data:") :])
    assert section.data == load_config(["codes/config.yaml"]).data
    steps = ["--max_steps", "3", "model.params.pkeep=0.7"]
    from_images, from_codes = fit("second.yaml", *steps), fit("codes/config.yaml", *steps)
    assert losses(from_codes) == losses(from_images)
    weights = [result.model.transformer.state_dict() for result in (from_images, from_codes)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    images = {path.name.split("_gs")[0] for path in (from_codes.logdir / "images").rglob("*.png")}
    assert images == {"inputs", "reconstructions", "samples_half", "samples_nopix", "samples_det"}


def test_a_run_can_be_continued_from_codes_and_with_images():
    extract("--split", "train")
    first = fit("codes/config.yaml", "--max_steps", "2")
    assert type(first.datamodule.datasets["validation"]).__name__ == "Pictures"
    second = train(["-r", str(first.logdir), "-t", "--accelerator", "cpu", "--max_steps", "3"])
    assert second.trainer.global_step == 3


def test_a_run_gives_the_codes_of_its_own_weights():
    expected = codes_only(extract())
    run = fit("second.yaml", "--max_steps", "1")
    Path("first.ckpt").unlink()
    extract_codes.main(["-r", str(run.logdir), "-o", "of the run"])
    assert codes_only(files(Path("of the run"))) == expected
    assert [path for path in run_folders() if path != run.logdir] == []


def test_a_whole_model_to_start_from_holds_the_tokenizer_too():
    expected = codes_only(extract())
    fit("second.yaml", "--max_steps", "1")
    (run,) = run_folders()
    overrides = [f"model.params.ckpt_path={run}/checkpoints/last.ckpt"]
    overrides += ["model.params.first_stage_config.params.ckpt_path=null", "model.params.ignore_keys=[transformer]"]
    assert codes_only(extract(*overrides, outdir="from the whole")) == expected


def test_conditioning_keeps_its_size_in_training():
    content = OmegaConf.load("second.yaml")
    params = {"n_embed": 8, "down_factor": 2}
    content.model.params.cond_stage_config = {"target": "taming.modules.misc.coord.CoordStage", "params": params}
    content.model.params.update({"cond_stage_key": "coord", "downsample_cond_size": 6})
    OmegaConf.save(content, "second.yaml")
    extract()
    assert CachedTokens("codes/train").cache.metadata.cond_shape == [1, 3, 3]


def test_several_processes_write_the_files_of_one(monkeypatch, capsys):
    options = ["--views", "3", "--shard_size", "2", AUGMENT]
    expected = extract(*options)
    assert len(codes_only(expected)) == 2 * (4 + 2)
    parts = [extract(*options, "--shard", f"{i}/2", outdir="parts") for i in (1, 0)]
    assert len(codes_only(parts[0])) == 2 * (2 + 1)
    shown = capsys.readouterr().out.split("parts/train")[1]
    assert "2 of 4 shards are left to other processes" in shown and "main.py" not in shown
    workers = extract(*options, "--num_workers", "2", outdir="workers")
    for rank in ("1", "0"):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2")):
            monkeypatch.setenv(name, value)
        torchrun = extract(*options, outdir="torchrun")
    assert codes_only(parts[1]) == codes_only(workers) == codes_only(torchrun) == codes_only(expected)
    assert parts[1]["train/tokens.json"].count(b"--shard ") == 0


def test_views_differ_in_training_data_only():
    extract("--views", "2", AUGMENT)
    views = [batch(CachedTokens("codes/train", view=view), range(7))["image_codes"] for view in (0, 1)]
    assert (views[0] != views[1]).any(dim=1).all()
    assert CachedTokens("codes/validation").cache.metadata.views == 1


def test_what_an_interruption_leaves_can_be_continued(capsys):
    options = ["--views", "2", "--shard_size", "2", AUGMENT]
    expected = extract(*options)
    extract(*options, "--split", "validation", outdir="stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "write_shard", stopping(extraction.write_shard))
        arguments = ["-b", "second.yaml", "-o", "stopped", *options]
        assert run_command(extract_codes.main, arguments) == 130
    assert {path.name for path in Path("stopped/train").iterdir()} == {
        "tokens.json",
        "00000.image.npy",
        "00000.cond.npy",
    }
    OmegaConf.save(extraction.training_config(OmegaConf.load("second.yaml"), Path("stopped")), "cached.yaml")
    with pytest.raises(ValueError, match=r"stopped/train: 3 of 4 shards are missing .*-o stopped --views 2") as caught:
        fit("cached.yaml", "--max_steps", "1")
    assert "\n" not in str(caught.value) and not run_folders()
    assert codes_only(extract(*options, outdir="stopped")) == codes_only(expected)


def stopping(write):
    """A write_shard that works once."""
    written = []

    def write_once(*arguments):
        if written:
            raise KeyboardInterrupt
        written.append(write(*arguments))

    return write_once


def test_a_half_written_file_never_has_its_name(monkeypatch):
    def half(file, array):
        file.write(b"\x93NUMPY")
        raise OSError(28, "No space left on device", "codes")

    with monkeypatch.context() as patch:
        patch.setattr("taming.data.token_files.np.save", half)
        with pytest.raises(OSError):
            extract()
    assert set(files(Path("codes"))) == {"train/tokens.json"}
    assert len(codes_only(extract())) == 4


def test_training_with_another_first_stage_is_refused_before_it_begins():
    extract("--views", "2")
    torch.save({"state_dict": build(seed=1).first_stage_model.state_dict()}, "first.ckpt")
    with pytest.raises(
        ValueError, match=r"codes/train: codes of the tokenizer [0-9a-f]{12}, but this model has"
    ) as caught:
        fit("codes/config.yaml", "--max_steps", "1")
    assert "extract_codes.py --base <configs of this run>" in str(caught.value) and "--views 2" in str(caught.value)
    assert not run_folders()


def test_codes_of_another_weight_of_the_first_stage_do_not_mix():
    extract()
    torch.save({"state_dict": build(seed=1).first_stage_model.state_dict()}, "first.ckpt")
    with pytest.raises(ValueError, match="made with tokenizer="):
        extract()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--split", "tset"], ["split 'tset'", "train, validation"]),
        (["--views", "0"], ["views must be positive, not 0"]),
        (["--batch_size", "0"], ["batch_size=0"]),
        (["--shard", "2/2"], ["shard 2/2"]),
        (["--device", "tpu"], ["--device tpu"]),
        (["model.params.cond_stage_key=clas_label"], ["no 'clas_label'", "'class_label'"]),
        (["model.params.cond_stage_config.params.n_classes=2"], ["class label 2 is out of range"]),
        (["model.params.first_stage_config.params.ckpt_path=gone.ckpt"], ["ckpt_path = gone.ckpt: not found"]),
        (["data.params.train.params.length=3"], ["data.params.train.params.length", "no such parameter"]),
        (["-b", "stage.yaml"], ["model.target", "no second stage"]),
        (["-b", "no_data.yaml"], ["data: this section is missing"]),
        (["-b"], ["give the config of a transformer with -b/--base, or its run with -r/--resume"]),
        (["-r", "nothing"], ["nothing: no such run folder"]),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, parts):
    stage = {"model": config()["params"]["first_stage_config"], "data": OmegaConf.load("second.yaml").data}
    OmegaConf.save(stage, "stage.yaml")
    OmegaConf.save({"model": config()}, "no_data.yaml")
    base = [] if arguments[0] in ("-b", "-r") else ["-b", "second.yaml"]
    assert run_command(extract_codes.main, [*base, *arguments, "-o", "codes"]) == 2
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown.startswith("error: ") and all(part in shown for part in parts)
    assert not codes_only(files(Path()))


def test_random_weights_and_low_precision_are_pointed_out(caplog, capsys):
    extract("model.params.first_stage_config.params.ckpt_path=null", "--precision", "bf16")
    assert "the weights of the tokenizer are random" in caplog.text
    assert "precision bf16: about 4 %" in capsys.readouterr().err
