"""scripts/make_vocabulary.py and scripts/sample_text.py, from captions to images by text."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from script_modules import load_script
from tiny_configs import first_stage
from tiny_runs import fit, run_folders

from taming.cli import run_command
from taming.vocabulary import Vocabulary

make_vocabulary, sample_text = load_script("make_vocabulary"), load_script("sample_text")
PROMPT = "a meadow with two trees"


def config(vocabulary):
    sizes = {"vocab_size": 300, "block_size": 12 + 64 - 1, "n_layer": 1, "n_head": 2, "n_embd": 16}
    stage = {"length": 12, "vocab_size": 300, "vocabulary": vocabulary}
    data = {
        split: {
            "target": f"taming.data.captions.CaptionedScenes{name}",
            "params": {"size": 16, "length": 8, "keys": ["image", "caption"]},
        }
        for split, name in (("train", "Train"), ("validation", "Validation"))
    }
    return {
        "model": {
            "base_learning_rate": 0.01,
            "target": "taming.models.cond_transformer.Net2NetTransformer",
            "params": {
                "cond_stage_key": "caption_bytes",
                "cond_drop_prob": 0.1,
                "null_token": 0,
                "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": sizes},
                "first_stage_config": first_stage(resolution=16, n_embed=12),
                "cond_stage_config": {"target": "taming.modules.misc.captions.CaptionStage", "params": stage},
            },
        },
        "data": {"target": "main.DataModuleFromConfig", "params": {"batch_size": 2, "num_workers": 0, **data}},
        "lightning": {"trainer": {"enable_progress_bar": False, "enable_model_summary": False, "max_steps": 2}},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder; the vocabulary that it was trained with is gone."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        OmegaConf.save(OmegaConf.create(config("vocabulary.txt")), "captions.yaml")
        make_vocabulary.main(["--base", "captions.yaml"])
        fit("captions.yaml")
        (logdir,) = run_folders()
    (folder / "vocabulary.txt").unlink()
    return str(folder / logdir)


def test_samples_of_prompts(run, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a coast\n\na desert with a car\n")
    arguments = ["-r", run, "-o", str(tmp_path), "--prompt", PROMPT, "--prompts", str(tmp_path / "prompts.txt")]
    options = ["-n", "2", "--seed", "4", "--guidance_scale", "2", "--batch_size", "5", "--device", "cpu"]
    sample_text.main([*arguments, *options])
    folder = tmp_path / "text" / "top_k_100_temp_1.00_top_p_1.0_guidance_2.0" / "2"
    assert len(list(folder.glob("*/*.png"))) == 6
    assert {path.read_text() for path in folder.glob("*/prompt.txt")} == {
        f"{PROMPT}\n",
        "a coast\n",
        "a desert with a car\n",
    }
    assert "3 prompts x 2 samples; seed 4" in capsys.readouterr().out
    sample_text.main([*arguments, *options])
    assert "6 of them finished; seed 4" in capsys.readouterr().out


def test_into_the_run_folder_by_default(run):
    sample_text.main(["-r", run, "--prompt", PROMPT, "-n", "1"])
    assert len(list(Path(run).glob("text/top_k_100_temp_1.00_top_p_1.0/2/a_meadow_*/000000.png"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to draw: give --prompt TEXT, or --prompts FILE"),
        (["--prompt", " "], "prompt 1 of 1 is empty"),
        (["--prompts", "nowhere.txt"], "file not found: nowhere.txt; give a text file with a prompt per line"),
        (["--prompt", PROMPT, "-n", "0"], "num_samples must be positive"),
        (["--prompt", PROMPT, "--top_k", "1,2"], "top_k: one number of tokens"),
        (["--prompt", PROMPT, "model.params.null_token=null"], "needs null_token"),
        (["--promt", PROMPT], "did you mean --prompt?"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, arguments, message):
    assert run_command(sample_text.main, ["-r", run, "-o", str(tmp_path), *arguments]) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(shown) == 1 and message in shown[0]
    assert not list(tmp_path.rglob("*.png"))


def test_vocabulary_of_a_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    OmegaConf.save(OmegaConf.create(config("made/vocabulary.txt")), "captions.yaml")
    assert run_command(make_vocabulary.main, ["--base", "captions.yaml"]) == 0
    vocabulary = Vocabulary.read("made/vocabulary.txt")
    shown = capsys.readouterr().out
    assert f"made/vocabulary.txt: {len(vocabulary)} tokens, from 8 captions" in shown and "at most" in shown
    assert run_command(make_vocabulary.main, ["--base", "captions.yaml"]) == 2
    assert "exists already; give --overwrite" in capsys.readouterr().err
    change = "model.params.cond_stage_config.params.vocab_size=262"
    assert run_command(make_vocabulary.main, ["--base", "captions.yaml", "--overwrite", change]) == 0
    assert len(Vocabulary.read("made/vocabulary.txt")) == 262


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.params.cond_stage_config=__is_unconditional__", "no stage of captions, which has a vocabulary"),
        ("data.params.train.target=taming.data.scenes.ScenesTrain", "lists no captions; see taming.data.captions"),
        ("model.params.cond_stage_config.params.vocab_size=258", "258 tokens has no room for words"),
    ],
)
def test_configs_without_captions(tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    OmegaConf.save(OmegaConf.create(config("vocabulary.txt")), "captions.yaml")
    assert run_command(make_vocabulary.main, ["--base", "captions.yaml", change]) == 2
    assert message in capsys.readouterr().err and not Path("vocabulary.txt").exists()


def test_training_without_a_vocabulary_says_how_to_make_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    OmegaConf.save(OmegaConf.create(config("vocabulary.txt")), "captions.yaml")
    assert run_command(lambda argv: fit(*argv) and None, ["captions.yaml"]) == 2
    assert "vocabulary.txt: no such vocabulary of captions; make one with: python scripts/" in capsys.readouterr().err
    assert not run_folders()
