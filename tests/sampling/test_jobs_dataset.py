"""A sample per example of a data set: the same whatever the batches and interruptions, for every conditioning."""

import random

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tiny_configs import ddconfig
from tiny_transformers import LABELS, close, contents, manifest, same, tiny_model, within

from taming.images import from_uint8, to_uint8
from taming.sampling.dataset_jobs import (
    DatasetOptions,
    Split,
    build_split,
    plan_dataset_job,
    read_batch,
    run_dataset_job,
)
from taming.sampling.decode import sample_uniforms
from taming.sampling.windowed import sample_windowed
from taming.shards import Shard

OPTIONS = {"seed": 3, "top_k": 6}
N_LABELS = 5


class Examples(torch.utils.data.Dataset):
    """Images (h, w, 3) that are random whenever they are read, with conditioning of every kind."""

    def __init__(self, size=4, height=8, width=12):
        self.size, self.height, self.width = size, height, width

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        shift = random.random() + np.random.rand() + torch.rand(()).item()
        rows, columns = np.mgrid[: self.height, : self.width]
        image = np.sin(np.stack([rows * index, columns, rows + columns], axis=-1) + shift).astype("float32")
        ramp = np.linspace(0, 1, rows.size, endpoint=False, dtype="float32").reshape(self.height, self.width, 1)
        labels = np.eye(N_LABELS, dtype="float32")[(rows + index) // 2 % N_LABELS]
        return {"image": image, "depth": -image, "coord": ramp, "segmentation": labels, "class_label": index % 4}


def split(**params):
    return Split("validation", Examples(**params), {"target": "Examples", "params": params})


@pytest.fixture(scope="module")
def model():
    return tiny_model("__is_first_stage__", block_size=32, cond_stage_key="depth")


def sample(model, root, data=None, **changes):
    progress = {"progress": False}
    job = plan_dataset_job(model, data or split(), root, DatasetOptions(**(OPTIONS | changes)), global_step=70)
    return run_dataset_job(job, **progress)


def pixels(path):
    return np.asarray(Image.open(path))


def test_folders_hold_images_of_every_example(model, tmp_path):
    folder = sample(model, tmp_path)
    assert folder == tmp_path / "000070_6_1.0"
    names = {f"{kind}/{index:06}.png" for kind in ("originals", "reconstructions", "samples") for index in range(4)}
    assert set(contents(folder)) == names
    assert pixels(folder / "samples" / "000002.png").shape == (8, 12, 3)


def test_samples_are_those_of_the_plain_windows(model, tmp_path):
    folder = sample(model, tmp_path, batch_size=4)
    for index in range(4):
        x = from_uint8(pixels(folder / "originals" / f"{index:06}.png").copy())
        job = plan_dataset_job(model, split(), tmp_path / "other", DatasetOptions(**OPTIONS))
        batch = read_batch(job.dataset, [index], 3)
        assert (batch["image"].permute(0, 3, 1, 2)[0] - x).abs().max() < 0.01
        quant, z = model.encode_to_z(batch["image"].permute(0, 3, 1, 2))
        _, c = model.encode_to_c(batch["depth"].permute(0, 3, 1, 2))
        grid = sample_windowed(
            model,
            c.view(1, 4, 6),
            (4, 6),
            top_k=6,
            uniforms=sample_uniforms(3, [(None, index)], 24).view(1, 4, 6),
            schedule="sequential",
        )
        expected = {"samples": grid, "reconstructions": z}
        for kind, tokens in expected.items():
            image = to_uint8(model.decode_to_img(tokens, quant.shape))[0]
            assert close(folder / kind / f"{index:06}.png", image), kind


def test_batches_interruptions_and_parts_change_nothing(model, tmp_path, monkeypatch):
    expected = contents(sample(model, tmp_path / "expected"))
    folder = sample(model, tmp_path, batch_size=3)
    assert same(contents(folder), expected)
    (folder / "samples" / "000001.png").unlink()
    (folder / "originals" / "000003.png").unlink()
    read = []
    monkeypatch.setattr(Examples, "__getitem__", lambda self, index, get=Examples.__getitem__: (
        read.append(index), get(self, index))[1])  # fmt: skip
    sample(model, tmp_path, seed=None)
    assert same(contents(folder), expected) and read == [1, 3]
    for index in (0, 1):
        folder = sample(model, tmp_path / "parts", shard=Shard(index, 2))
    assert same(contents(folder), expected)


def test_a_random_seed_is_recorded_and_reused(model, tmp_path):
    folder = sample(model, tmp_path, seed=None, num_samples=2)
    files, seed = contents(folder), manifest(folder)["seed"]
    assert len(files) == 6 and manifest(folder)["num_samples"] == 2
    sample(model, tmp_path, seed=None)
    assert (
        within(files, contents(folder)) and files.keys() < contents(folder).keys() and manifest(folder)["seed"] == seed
    )
    assert manifest(folder)["num_samples"] == 4


def test_the_first_half_is_kept(model, tmp_path):
    """Of 4 x 6 tokens the first 12, which are two rows; greedy, so nothing else could make it equal by chance."""
    folder = sample(model, tmp_path, half_sample=True, greedy=True, num_samples=1)
    job = plan_dataset_job(model, split(), tmp_path / "other", DatasetOptions(**OPTIONS))
    batch = {key: value for key, value in read_batch(job.dataset, [0], 3).items() if key in ("image", "depth")}
    (quant, z), (_, c) = (
        encode(batch[key].permute(0, 3, 1, 2))
        for key, encode in (("image", model.encode_to_z), ("depth", model.encode_to_c))
    )
    z, c = z.view(1, 4, 6), c.view(1, 4, 6)
    grid = sample_windowed(model, c, (4, 6), z_init=z, start=12, sample=False)
    assert torch.equal(grid[:, :2], z[:, :2]) and not torch.equal(grid, sample_windowed(model, c, (4, 6), sample=False))
    image = to_uint8(model.decode_to_img(grid, quant.shape))[0]
    assert close(folder / "samples" / "000000.png", image)


def test_scaled_images_and_a_smaller_window(model, tmp_path):
    folder = sample(model, tmp_path, scale_factor=1.5, window=3, num_samples=1)
    for kind in ("originals", "reconstructions", "samples"):
        assert pixels(folder / kind / "000000.png").shape == (12, 18, 3)
    assert (manifest(folder)["scale_factor"], manifest(folder)["window"]) == (1.5, 3)


def test_classes_and_nothing_as_conditioning(tmp_path):
    for config, key in ((LABELS, "class_label"), ("__is_unconditional__", "image")):
        model = tiny_model(config, block_size=16, cond_stage_key=key)
        assert len(contents(sample(model, tmp_path / key, num_samples=2))) == 6
        with pytest.raises(ValueError, match=f"save_conditioning: '{key}', .* is no picture"):
            sample(model, tmp_path / key, save_conditioning=True)


def test_coordinates_stay_in_their_range(tmp_path):
    stage = {"target": "taming.modules.misc.coord.CoordStage", "params": {"n_embed": 8, "down_factor": 2}}
    model = tiny_model(stage, block_size=32, cond_stage_key="coord")
    folder = sample(model, tmp_path, scale_factor=2.0, save_conditioning=True, num_samples=1)
    ramp = pixels(folder / "conditioning" / "000000.png")
    assert ramp.shape == (16, 24, 3) and ramp.min() < 10 and ramp.max() > 245


def test_label_maps_in_colours_that_do_not_depend_on_the_batch(tmp_path):
    stage = {
        "target": "taming.models.vqgan.VQSegmentationModel",
        "params": {
            "ddconfig": ddconfig(resolution=8, in_channels=N_LABELS, out_ch=N_LABELS),
            "lossconfig": {"target": "torch.nn.Identity"},
            "n_embed": 12,
            "embed_dim": 4,
            "n_labels": N_LABELS,
            "image_key": "segmentation",
        },
    }
    folders = [
        sample(
            tiny_model(stage, block_size=32, cond_stage_key="segmentation"),
            tmp_path / str(batch_size),
            batch_size=batch_size,
            save_conditioning=True,
        )
        for batch_size in (1, 4)
    ]
    assert same(contents(folders[0]), contents(folders[1]))
    picture = pixels(folders[0] / "conditioning" / "000000.png")
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 4, "eight rows of labels in pairs"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be positive, not 0"),
        ({"temperature": 0.0}, "temperature must be positive, not 0.0; .* sample=False"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"top_k": "3,4"}, "one number of tokens is expected, not 3,4"),
        ({"window": 0}, "window must be positive, not 0"),
        ({"scale_factor": -1.0}, "scale_factor must be positive"),
        ({"batch_size": 0}, "batch_size must be positive"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        DatasetOptions(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "made with seed=3, not 4"),
        ({"top_p": 0.9}, r"made with top_p=1\.0, not 0\.9"),
        ({"greedy": True}, "made with greedy=False, not True"),
        ({"data": split(width=8)}, "made with data="),
    ],
)
def test_the_folder_of_another_job_is_refused(model, tmp_path, changes, message):
    folder = sample(model, tmp_path, num_samples=1)
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        sample(model, tmp_path, **changes)
    assert contents(folder) == before


def test_a_job_that_failed_before_its_first_image_binds_nobody(model, tmp_path):
    with pytest.raises(ValueError, match="block_size 32"):
        sample(model, tmp_path, window=5)
    assert manifest(tmp_path / "000070_6_1.0")["window"] == 5
    assert manifest(sample(model, tmp_path, window=4, num_samples=1))["window"] == 4


def test_overwriting_takes_new_options(model, tmp_path):
    before = contents(sample(model, tmp_path))
    folder = sample(model, tmp_path, seed=4, overwrite=True)
    after = contents(folder)
    assert after.keys() == before.keys() and manifest(folder)["seed"] == 4
    assert not {name: data for name, data in after.items() if "samples" in name}.items() & before.items()


def test_models_and_data_that_do_not_fit(model, tmp_path):
    layouts = tiny_model(LABELS, cond_stage_key="objects_bbox")
    with pytest.raises(ValueError, match=r"layouts of objects: sample it with scripts/make_scene_samples\.py"):
        sample(layouts, tmp_path)
    other = tiny_model("__is_first_stage__", block_size=32, cond_stage_key="edges")
    with pytest.raises(ValueError, match="the model reads 'edges', but the data have only image, depth"):
        sample(other, tmp_path)
    with pytest.raises(ValueError, match="this run is a VQModel, which has no transformer"):
        sample(model.first_stage_model, tmp_path)


class OfAllSizes(Examples):
    def __getitem__(self, index):
        self.height = 8 + 2 * index
        return super().__getitem__(index)


def test_images_of_all_sizes_one_by_one(model, tmp_path):
    data = Split("validation", OfAllSizes(size=2), {})
    with pytest.raises(ValueError, match=r"examples 0 to 1: cannot collate .* try --batch_size 1"):
        sample(model, tmp_path, data=data, batch_size=2)
    folder = sample(model, tmp_path, data=data)
    assert [pixels(folder / "samples" / f"00000{i}.png").shape[0] for i in range(2)] == [8, 10]


def test_only_the_chosen_split_is_built():
    here = f"{__name__}.Examples"
    params = {
        "batch_size": 1,
        "train": {"target": here, "params": {"size": 3}},
        "validation": {"target": "taming.data.folder.FolderTrain", "params": {"root": "not/there", "size": 8}},
    }
    config = OmegaConf.create({"data": {"target": "main.DataModuleFromConfig", "params": params}})
    first = build_split(config)
    assert (first.name, len(first.dataset), first.config) == ("train", 3, {"target": here, "params": {"size": 3}})
    with pytest.raises(FileNotFoundError, match="not/there"):
        build_split(config, "validation")
    with pytest.raises(ValueError, match="split test: the data have train, validation"):
        build_split(config, "test")
    with pytest.raises(ValueError, match="data: this section is missing"):
        build_split(OmegaConf.create({"model": {}}))
