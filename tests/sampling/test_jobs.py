"""Sampling jobs: which samples, the same ones in any batches and after any interruption, and what is recorded."""

import errno
import io
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_transformers import N_CLASSES, N_CODES, STEPS, close, contents, manifest, same, tiny_model, within

from taming.files import atomic_path
from taming.images import to_uint8
from taming.sampling import samples, writers
from taming.sampling.decode import decode_reference, sample_uniforms
from taming.sampling.jobs import sample_to_folder
from taming.sampling.options import SamplingOptions
from taming.sampling.plan import plan_job
from taming.sampling.samples import latent_shape, sample_images
from taming.shards import Shard

SHAPE = (4, 4, 4)
OPTIONS = {"num_samples": 5, "classes": [0, 2, 3], "seed": 11, "top_k": 8, "progress": False}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    """The files of an undisturbed job with OPTIONS."""
    return contents(sample_to_folder(model, tmp_path_factory.mktemp("expected"), batch_size=15, **OPTIONS))


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
        plan_job(model, tmp_path, SamplingOptions(num_samples=1))


def test_unconditional_models_have_no_classes(tmp_path):
    with pytest.raises(ValueError, match="'3,4': this model is unconditional"):
        plan_job(tiny_model("__is_unconditional__"), tmp_path, SamplingOptions(num_samples=1), classes="3,4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be positive, not 0"),
        ({"seed": -1}, "seed must lie between 0 and .* not -1"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"top_p": 1.2}, "top_p must lie in"),
        ({"batch_size": 0}, "batch_size must be positive, not 0"),
        ({"top_k": "8,many"}, "top_k: '8,many' is neither a number of tokens nor a list such as"),
        ({"top_k": []}, "top_k: the list is empty"),
        ({"guidance_scale": -1.0}, "guidance_scale must be a number from 0 on, not -1.0"),
        ({"guidance_scale": 2.0}, "this model has no null_token"),
        ({"acceptance_rate": 0.0}, r"acceptance_rate must lie in \(0, 1\], not 0.0"),
        ({"acceptance_rate": 0.5}, "acceptance_rate=0.5 needs a score"),
        ({"precision": "8"}, "precision must be one of 32, bf16, 16, not 8"),
        ({"overwrite": True, "shard": Shard(0, 2)}, "overwrite with 2 processes: delete the job's folder instead"),
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
    assert same(contents(folder), expected)


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
        writers, "save_png", lambda path, image, save=writers.save_png: (made.append(path), save(path, image))
    )
    sample_to_folder(model, tmp_path, **(OPTIONS | {"seed": None}))
    assert made == [folder / "2" / "000003.png"]
    assert same(contents(folder), expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_job_goes_on(model, tmp_path, expected, monkeypatch, error):
    batches = []

    def interrupted(*args, **options):
        batches.append(args)
        if len(batches) == 4:
            raise error
        return sample_images(*args, **options)

    monkeypatch.setattr(samples, "sample_images", interrupted)
    with pytest.raises(error):
        sample_to_folder(model, tmp_path, batch_size=2, **OPTIONS)
    monkeypatch.undo()
    (folder,) = (tmp_path / "samples").glob("*/*")
    assert len(contents(folder)) == 6 and within(contents(folder), expected)
    sample_to_folder(model, tmp_path, batch_size=3, **(OPTIONS | {"seed": None}))
    assert same(contents(folder), expected)


@pytest.mark.parametrize("pending", [1, 256])
def test_an_error_of_writing_ends_the_job(model, tmp_path, monkeypatch, pending):
    def full(path, image):
        raise OSError("no space left")

    monkeypatch.setattr(writers, "PENDING_WRITES", pending)
    monkeypatch.setattr(writers, "save_png", full)
    with pytest.raises(OSError, match="no space left"):
        sample_to_folder(model, tmp_path, **OPTIONS)


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
        "guidance_scale": 1.0,
        "acceptance_rate": 1.0,
        "precision": "bf16",
        "compile": False,
        "device": "cpu",
    }


def test_a_random_seed_is_recorded_and_reused(model, tmp_path):
    options = OPTIONS | {"seed": None, "num_samples": 2}
    folder = sample_to_folder(model, tmp_path / "a", **options)
    files, seed = contents(folder), manifest(folder)["seed"]
    (folder / "0" / "000001.png").unlink()
    sample_to_folder(model, tmp_path / "a", **options)
    assert same(contents(folder), files) and manifest(folder)["seed"] == seed
    assert manifest(sample_to_folder(model, tmp_path / "b", **options))["seed"] != seed


def test_samples_and_classes_may_be_added(model, tmp_path, expected):
    sample_to_folder(model, tmp_path, **(OPTIONS | {"num_samples": 2, "classes": "0,3"}))
    folder = sample_to_folder(model, tmp_path, **(OPTIONS | {"seed": None}))
    assert same(contents(folder), expected)
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
    assert same(contents(folder), expected) and (folder / "sampling.json").read_text() == before


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


def test_images_without_a_manifest_are_not_taken_for_own_ones(model, tmp_path, expected):
    folder = sample_to_folder(model, tmp_path, **OPTIONS)
    (folder / "sampling.json").unlink()
    with pytest.raises(ValueError, match=r"holds samples, but no sampling\.json"):
        sample_to_folder(model, tmp_path, **OPTIONS)
    assert same(contents(folder), expected)


def test_a_job_that_failed_before_its_first_image_binds_nobody(model, tmp_path, expected, monkeypatch):
    monkeypatch.setattr(samples, "sample_images", None)
    with pytest.raises(TypeError):
        sample_to_folder(model, tmp_path, **(OPTIONS | {"seed": 12}))
    monkeypatch.undo()
    assert same(contents(sample_to_folder(model, tmp_path, **OPTIONS)), expected)


def test_older_manifests_know_nothing_of_newer_options(model, tmp_path, expected):
    folder = sample_to_folder(model, tmp_path, **OPTIONS)
    old = {key: value for key, value in manifest(folder).items() if key not in ("guidance_scale", "acceptance_rate")}
    (folder / "sampling.json").write_text(json.dumps(old))
    assert same(contents(sample_to_folder(model, tmp_path, **OPTIONS)), expected)
    (folder / "sampling.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"made with acceptance_rate=1\.0, not 0\.5"):
        sample_to_folder(model, tmp_path, acceptance_rate=0.5, score=lambda images, labels: labels, **OPTIONS)


def test_a_full_disk_leaves_whole_files_and_says_what_to_do(model, tmp_path, expected, monkeypatch):
    written = []

    def full(path, image, save=writers.save_png):
        if len(written) == 4:
            with atomic_path(path) as temporary:
                temporary.write_bytes(b"half a picture")
                raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        save(path, image)

    monkeypatch.setattr(writers, "save_png", full)
    monkeypatch.setattr(writers, "WRITER_THREADS", 1)
    with pytest.raises(OSError, match="the disk is full; what is finished stays there, make room") as caught:
        sample_to_folder(model, tmp_path, **OPTIONS)
    (folder,) = (tmp_path / "samples").glob("*/*")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert len(contents(folder)) == 4 and within(contents(folder), expected)
    monkeypatch.undo()
    assert same(contents(sample_to_folder(model, tmp_path, **OPTIONS)), expected)


def test_an_interruption_is_explained(model, tmp_path, monkeypatch, caplog):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(samples, "sample_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample_to_folder(model, tmp_path, **OPTIONS)
    assert "interrupted; what is finished stays in" in caplog.text


def test_killed_in_the_middle_of_a_file_it_goes_on(model, tmp_path, expected, monkeypatch):
    """SIGKILL leaves no time to tidy up: the next start removes the half-written file."""

    def slow(path, image, save=writers.save_png):
        if path.name == "000003.png":
            with atomic_path(path) as temporary:
                temporary.write_bytes(b"half a picture")
                time.sleep(60)
        save(path, image)

    monkeypatch.setattr(writers, "save_png", slow)
    process = multiprocessing.get_context("fork").Process(
        target=sample_to_folder, args=(model, tmp_path), kwargs=OPTIONS | {"batch_size": 2}
    )
    process.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.rglob(".*.part")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    monkeypatch.undo()
    (folder,) = (tmp_path / "samples").glob("*/*")
    assert any(name.endswith(".part") for name in contents(folder))
    assert same(contents(sample_to_folder(model, tmp_path, **OPTIONS)), expected)


def test_the_progress_bar_counts_what_remains_in_images_per_second(model, tmp_path, capsys):
    folder = sample_to_folder(model, tmp_path, **OPTIONS)
    for index in range(3):
        (folder / "0" / f"{index:06}.png").unlink()
    sample_to_folder(model, tmp_path, **(OPTIONS | {"progress": True}))
    shown = capsys.readouterr().err
    assert "3/3" in shown and "images/s" in shown


def test_indices_take_turns_with_several_k(model, tmp_path):
    folder = sample_to_folder(model, tmp_path, **(OPTIONS | {"top_k": "1,8,3", "batch_size": 4}))
    assert folder.parent.name == "top_k_mixed_temp_1.00_top_p_1.0" and manifest(folder)["top_k"] == [1, 8, 3]
    for index in range(5):
        images, _ = sample_images(model, [(3, index)], seed=11, top_k=(1, 8, 3)[index % 3])
        assert close(folder / "3" / f"{index:06}.png", to_uint8(images)[0])
    files = contents(folder)
    (folder / "2" / "000001.png").unlink()
    sample_to_folder(model, tmp_path, **(OPTIONS | {"top_k": (1, 8, 3), "seed": None}))
    assert contents(folder) == files
    with pytest.raises(ValueError, match=r"made with top_k=\[1, 8, 3\], not \[1, 8\]"):
        sample_to_folder(model, tmp_path, **(OPTIONS | {"top_k": "1,8"}))


def test_guidance_has_folders_of_its_own_and_changes_samples(tmp_path):
    model = tiny_model(vocab_size=N_CODES + 1, null_token=N_CODES)
    plain = contents(sample_to_folder(model, tmp_path, **OPTIONS))
    folder = sample_to_folder(model, tmp_path, guidance_scale=3, **OPTIONS)
    assert (
        folder.parent.name == "top_k_8_temp_1.00_top_p_1.0_guidance_3.0" and manifest(folder)["guidance_scale"] == 3.0
    )
    guided = contents(folder)
    assert guided.keys() == plain.keys() and guided != plain
    null = decode_reference(
        model.transformer,
        torch.full((1, 1), N_CODES),
        STEPS,
        uniforms=sample_uniforms(11, [(2, 4)], STEPS),
        top_k=8,
        n_tokens=N_CODES,
    )
    unguided = contents(sample_to_folder(model, tmp_path, guidance_scale=0, **OPTIONS))["2/000004.png"]
    assert close(io.BytesIO(unguided), to_uint8(model.decode_to_img(null, (1, *SHAPE)))[0])
