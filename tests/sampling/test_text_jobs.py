"""Samples by text: the same whatever the batches, other prompts and interruptions."""

import numpy as np
import pytest
from PIL import Image
from tiny_transformers import close, contents, manifest, same, tiny_model, within

from taming.images import to_uint8
from taming.sampling.decode import Guidance, decode, sample_uniforms
from taming.sampling.options import SamplingOptions
from taming.sampling.text_jobs import conditions_of, plan_text_job, prompt_key, prompt_name, run_text_job
from taming.shards import Shard
from taming.vocabulary import Vocabulary

PROMPTS = ["a meadow with two trees", "A heath, with a CAR!"]
LENGTH, STEPS = 6, 16
OPTIONS = {"seed": 3, "top_k": 6, "num_samples": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.txt"
    Vocabulary.train(["a meadow with two trees", "a heath with a car"] * 3, 300).write(path)
    params = {"length": LENGTH, "vocab_size": 300, "vocabulary": str(path)}
    stage = {"target": "taming.modules.misc.captions.CaptionStage", "params": params}
    sizes = {"vocab_size": 300, "block_size": LENGTH + STEPS - 1}
    return tiny_model(stage, **sizes, cond_stage_key="caption_bytes", null_token=0)


def sample(model, root, prompts=PROMPTS, **changes):
    job = plan_text_job(model, root, prompts, SamplingOptions(**(OPTIONS | changes)), global_step=70)
    return run_text_job(job, progress=False)


def images(folder):
    return {name: data for name, data in contents(folder).items() if name.endswith(".png")}


def test_a_folder_for_each_prompt(model, tmp_path):
    folder = sample(model, tmp_path)
    assert folder == tmp_path / "text" / "top_k_6_temp_1.00_top_p_1.0" / "70"
    names = [prompt_name(prompt) for prompt in PROMPTS]
    assert set(images(folder)) == {f"{name}/{index:06}.png" for name in names for index in range(2)}
    assert [(folder / name / "prompt.txt").read_text() for name in names] == [f"{prompt}\n" for prompt in PROMPTS]
    assert manifest(folder)["guidance_scale"] == 1.0 and np.asarray(
        Image.open(folder / names[0] / "000000.png")
    ).shape == (8, 8, 3)


def test_names_are_safe_and_distinct():
    assert prompt_name("A  heath,\nwith a CAR!") == prompt_name("a heath, with a car!")
    assert prompt_name("a heath, with a car!").startswith("a_heath_with_a_car_")
    odd = [prompt_name(prompt) for prompt in ("../..", "???", "犬", "x" * 500)]
    assert len(set(odd)) == 4 and all(name.replace("_", "").isalnum() and len(name) < 60 for name in odd)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_samples_are_those_of_the_decoder(model, tmp_path, scale):
    folder = sample(model, tmp_path, guidance_scale=scale, batch_size=3)
    conditions = conditions_of(model, PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        prefix = conditions[number : number + 1]
        uniforms = sample_uniforms(3, [(prompt_key(prompt), 1)], STEPS)
        guidance = None if scale == 1 else Guidance(model.null_condition(prefix), scale)
        tokens = decode(model.transformer, prefix, STEPS, uniforms=uniforms, guidance=guidance, n_tokens=12, top_k=6)
        image = to_uint8(model.decode_to_img(tokens, (1, 4, 4, 4)))[0]
        assert close(folder / prompt_name(prompt) / "000001.png", image)


def test_the_text_matters(model, tmp_path):
    folder = sample(model, tmp_path, num_samples=1)
    first, second = images(folder).values()
    assert first != second


def test_batches_other_prompts_and_interruptions_change_nothing(model, tmp_path):
    expected = contents(sample(model, tmp_path / "expected", batch_size=4))
    folder = sample(model, tmp_path, PROMPTS[1:], batch_size=1)
    assert within(images(folder), images(tmp_path / "expected" / folder.relative_to(tmp_path)))
    (folder / prompt_name(PROMPTS[1]) / "000000.png").unlink()
    sample(model, tmp_path, PROMPTS[::-1], batch_size=3, seed=None)
    assert same(contents(folder), expected)
    for index in (0, 1):
        parts = sample(model, tmp_path / "parts", shard=Shard(index, 2))
    assert same(contents(parts), expected)


def test_prompts_that_say_the_same_are_one(model, tmp_path):
    assert len(images(sample(model, tmp_path, ["A meadow", "a  meadow "]))) == 2


def test_more_samples_with_the_recorded_seed(model, tmp_path):
    folder = sample(model, tmp_path, num_samples=1, seed=None)
    before = images(folder)
    sample(model, tmp_path, num_samples=3, seed=None)
    assert within(before, images(folder)) and len(images(folder)) == 6
    with pytest.raises(ValueError, match="made with seed="):
        sample(model, tmp_path, seed=manifest(folder)["seed"] + 1)


def test_long_prompts_are_cut_with_a_warning(model, caplog):
    conditions_of(model, ["a meadow with two trees and two trees", "a meadow"])
    assert "tokens, of which the model reads the first 6" in caplog.text and len(caplog.records) == 1


def test_models_prompts_and_options_that_do_not_fit(model, tmp_path):
    with pytest.raises(ValueError, match="conditioned on 'class_label', not on captions: train one with"):
        sample(tiny_model(cond_stage_key="class_label"), tmp_path)
    with pytest.raises(ValueError, match="prompt 2 of 2 is empty"):
        sample(model, tmp_path, ["a meadow", " \n"])
    with pytest.raises(ValueError, match="no prompt"):
        sample(model, tmp_path, [])
    with pytest.raises(ValueError, match="top_k: one number of tokens"):
        sample(model, tmp_path, top_k="3,4")
    with pytest.raises(ValueError, match="guidance_scale must be a number from 0 on"):
        sample(model, tmp_path, guidance_scale=-1.0)
    assert not list(tmp_path.rglob("*.png"))
