"""Sampling jobs: which samples, the same ones in any batches and after any interruption, and what is recorded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_configs import first_stage

from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling import jobs
from taming.sampling.jobs import latent_shape, parse_classes, plan_job, sample_images, sample_to_folder

N_CODES, N_CLASSES = 12, 4
FIRST_STAGE = first_stage(resolution=8, n_embed=N_CODES)
LABELS = {"target": "taming.modules.util.Labelator", "params": {"n_classes": N_CLASSES}}
SHAPE = (4, 4, 4)
STEPS = 16
OPTIONS = {"num_samples": 5, "classes": [0, 2, 3], "seed": 11, "top_k": 8, "progress": False}


def tiny_model(cond_stage_config=LABELS, *, vocab_size=N_CODES, **changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": vocab_size, "block_size": STEPS, "n_layer": 1, "n_head": 2, "n_embd": 16}
    model = Net2NetTransformer(
        {"target": "taming.modules.transformer.mingpt.GPT", "params": sizes}, FIRST_STAGE, cond_stage_config, **changes
    )
    for parameter in model.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    torch.nn.init.normal_(model.first_stage_model.quantize.embedding.weight)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def contents(folder):
    """Every file of a job but the manifest, hidden ones too: relative name -> bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "sampling.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    """The files of an undisturbed job with OPTIONS."""
    return contents(sample_to_folder(model, tmp_path_factory.mktemp("expected"), batch_size=15, **OPTIONS))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("3", (3,)),
        ("3,1,", (3, 1)),
        ("5-9,0", (5, 6, 7, 8, 9, 0)),
        ("1, 0-2", (1, 0, 2)),
        ([4, 2], (4, 2)),
        ("imagenet", tuple(range(10))),
        ("all", tuple(range(10))),
        (None, tuple(range(10))),
    ],
)
def test_classes(text, labels):
    assert parse_classes(text, 10) == labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "classes: 10 is out of range, the labels of this model go from 0 to 9"),
        ("8-12", "8-12 is out of range"),
        ("7-5", "7-5 is out of range"),
        ([3, -1], "'-1' is neither a label from 0 to 9"),
        ("cat", "'cat' is neither a label from 0 to 9, nor a range such as 5-9, nor all"),
        ("1,,2", "'' is neither"),
        ([], "the list is empty"),
    ],
)
def test_classes_that_the_model_does_not_know(text, message):
    with pytest.raises(ValueError, match=message):
        parse_classes(text, 10)


def test_sizes_come_from_the_model(model):
    assert latent_shape(model) == latent_shape(model, steps=16, z_height=4, z_width=4, dim_z=4) == SHAPE
    assert latent_shape(model, z_height=2, z_width=8) == (4, 2, 8)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"steps": 256}, "steps=256 does not fill a latent grid of 4 x 4: 16 do"),
        ({"dim_z": 256}, "dim_z=256, but the codebook's entries have 4 dimensions"),
        ({"z_height": 5}, "5 x 4 does not fit into block_size 16"),
        ({"z_width": 0}, "at least one row and column, not 4 x 0"),
    ],
)
def test_sizes_that_do_not_fit(model, sizes, message):
    with pytest.raises(ValueError, match=message):
        latent_shape(model, **sizes)


def test_spatial_conditioning_is_refused(tmp_path):
    model = tiny_model("__is_first_stage__", cond_stage_key="depth")
    with pytest.raises(ValueError, match=r"conditioned on 'depth', .* sample it with scripts/make_samples.py"):
        plan_job(model, tmp_path, num_samples=1)


def test_unconditional_models_have_no_classes(tmp_path):
    with pytest.raises(ValueError, match="'3,4': this model is unconditional"):
        plan_job(tiny_model("__is_unconditional__"), tmp_path, num_samples=1, classes="3,4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be positive, not 0"),
        ({"seed": -1}, "seed must lie between 0 and .* not -1"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"top_p": 1.2}, "top_p must lie in"),
        ({"batch_size": 0}, "batch_size must be positive, not 0"),
    ],
)
def test_numbers_out_of_range_leave_nothing_behind(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        sample_to_folder(model, tmp_path, **(OPTIONS | options))
    assert not list(tmp_path.iterdir())


def test_tokens_do_not_depend_on_the_batch(model):
    keys = [(index % N_CLASSES, index) for index in range(16)]
    images, tokens = sample_images(model, keys, seed=3, top_k=8)
    assert images.shape == (16, 3, 8, 8) and tokens.shape == (16, STEPS)
    parts = [sample_images(model, keys[i : i + 3], seed=3, top_k=8)[1] for i in range(0, 16, 3)]
    assert torch.equal(tokens, torch.cat(parts))
    assert len(np.unique(tokens.numpy(), axis=0)) == 16


def test_greedy_is_what_the_plain_model_gives(model):
    labels = torch.tensor([[0], [1], [3]])
    _, tokens = sample_images(model, [(0, 0), (1, 0), (3, 5)], seed=0, sample=False)
    assert torch.equal(tokens, model.sample(labels[:, :0], labels, STEPS))


def test_only_entries_of_the_codebook():
    _, tokens = sample_images(tiny_model(vocab_size=4 * N_CODES), [(0, index) for index in range(8)], seed=0)
    assert tokens.max() < N_CODES


@pytest.mark.parametrize("batch_size", [2, 5])
def test_files_do_not_depend_on_the_batch(model, tmp_path, expected, batch_size):
    folder = sample_to_folder(model, tmp_path, batch_size=batch_size, global_step=70, **OPTIONS)
    assert folder == tmp_path / "samples" / "top_k_8_temp_1.00_top_p_1.0" / "70"
    assert set(expected) == {f"{label}/{index:06}.png" for label in (0, 2, 3) for index in range(5)}
    assert contents(folder) == expected


def test_files_hold_the_images(model, tmp_path):
    folder = sample_to_folder(model, tmp_path, **OPTIONS)
    images, _ = sample_images(model, [(2, 4)], seed=11, top_k=8)
    pixels = np.asarray(Image.open(folder / "2" / "000004.png")).astype(float)
    exact = (images[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.all(np.abs(pixels - np.clip(exact - 0.5, 0, 255)) < 0.51)


def test_unconditional_files_lie_side_by_side(tmp_path):
    folder = sample_to_folder(tiny_model("__is_unconditional__"), tmp_path, num_samples=3, top_p=0.9, progress=False)
    assert folder.parent.name == "top_k_250_temp_1.00_top_p_0.9"
    assert set(contents(folder)) == {"000000.png", "000001.png", "000002.png"}


def test_only_missing_files_are_made_again(model, tmp_path, expected, monkeypatch):
    folder = sample_to_folder(model, tmp_path, **OPTIONS)
    (folder / "2" / "000003.png").unlink()
    made = []
    monkeypatch.setattr(
        jobs, "save_png", lambda path, image, save=jobs.save_png: (made.append(path), save(path, image))
    )
    sample_to_folder(model, tmp_path, **(OPTIONS | {"seed": None}))
    assert made == [folder / "2" / "000003.png"]
    assert contents(folder) == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_job_goes_on(model, tmp_path, expected, monkeypatch, error):
    batches = []

    def interrupted(*args, **options):
        batches.append(args)
        if len(batches) == 4:
            raise error
        return sample_images(*args, **options)

    monkeypatch.setattr(jobs, "sample_images", interrupted)
    with pytest.raises(error):
        sample_to_folder(model, tmp_path, batch_size=2, **OPTIONS)
    monkeypatch.undo()
    folder = plan_job(model, tmp_path, **{k: v for k, v in OPTIONS.items() if k != "progress"}).folder
    assert len(contents(folder)) == 6 and contents(folder).items() <= expected.items()
    sample_to_folder(model, tmp_path, batch_size=3, **(OPTIONS | {"seed": None}))
    assert contents(folder) == expected


@pytest.mark.parametrize("pending", [1, 256])
def test_an_error_of_writing_ends_the_job(model, tmp_path, monkeypatch, pending):
    def full(path, image):
        raise OSError("no space left")

    monkeypatch.setattr(jobs, "PENDING_WRITES", pending)
    monkeypatch.setattr(jobs, "save_png", full)
    with pytest.raises(OSError, match="no space left"):
        sample_to_folder(model, tmp_path, **OPTIONS)


def manifest(folder):
    return json.loads((folder / "sampling.json").read_text())


def test_manifest_records_the_job(model, tmp_path):
    folder = sample_to_folder(model, tmp_path, **OPTIONS, global_step=9, run="birds", precision="bf16")
    recorded = manifest(folder)
    assert recorded.pop("versions")["torch"] == torch.__version__
    assert recorded == {
        "run": "birds",
        "global_step": 9,
        "seed": 11,
        "num_samples": 5,
        "classes": [0, 2, 3],
        "temperature": 1.0,
        "top_k": 8,
        "top_p": 1.0,
        "dim_z": 4,
        "z_height": 4,
        "z_width": 4,
        "precision": "bf16",
        "device": "cpu",
    }


def test_a_random_seed_is_recorded_and_reused(model, tmp_path):
    options = OPTIONS | {"seed": None, "num_samples": 2}
    folder = sample_to_folder(model, tmp_path / "a", **options)
    files, seed = contents(folder), manifest(folder)["seed"]
    (folder / "0" / "000001.png").unlink()
    sample_to_folder(model, tmp_path / "a", **options)
    assert contents(folder) == files and manifest(folder)["seed"] == seed
    assert manifest(sample_to_folder(model, tmp_path / "b", **options))["seed"] != seed


def test_samples_and_classes_may_be_added(model, tmp_path, expected):
    sample_to_folder(model, tmp_path, **(OPTIONS | {"num_samples": 2, "classes": "0,3"}))
    folder = sample_to_folder(model, tmp_path, **(OPTIONS | {"seed": None}))
    assert contents(folder) == expected
    sample_to_folder(model, tmp_path, **(OPTIONS | {"num_samples": 1, "classes": "2"}))
    assert (manifest(folder)["num_samples"], manifest(folder)["classes"]) == (5, [0, 2, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 12}, "made with seed=11, not 12"),
        ({"temperature": 1.001}, "made with temperature=1.0, not 1.001"),
        ({"run": "dogs"}, "made with run=None, not dogs"),
        ({"shape": (4, 2, 8)}, "made with z_height=4, not 2"),
        ({"overwrite": True, "classes": "0", "seed": 12}, "made with seed=11, not 12"),
    ],
)
def test_other_options_are_refused(model, tmp_path, expected, changes, message):
    folder = sample_to_folder(model, tmp_path, **OPTIONS)
    before = (folder / "sampling.json").read_text()
    with pytest.raises(ValueError, match=message) as caught:
        sample_to_folder(model, tmp_path, **(OPTIONS | changes))
    assert str(folder / "sampling.json") in str(caught.value)
    assert contents(folder) == expected and (folder / "sampling.json").read_text() == before


def test_overwriting_all_takes_new_options(model, tmp_path, expected):
    folder = sample_to_folder(model, tmp_path, **OPTIONS)
    sample_to_folder(model, tmp_path, overwrite=True, **(OPTIONS | {"seed": 12}))
    again = contents(folder)
    assert set(again) == set(expected) and all(again[name] != expected[name] for name in expected)
    assert manifest(folder)["seed"] == 12


def test_a_broken_manifest_is_named(model, tmp_path):
    folder = sample_to_folder(model, tmp_path, **OPTIONS)
    (folder / "sampling.json").write_text("{")
    with pytest.raises(ValueError, match=r"sampling\.json: not valid JSON"):
        sample_to_folder(model, tmp_path, **OPTIONS)
