"""Reconstructions as files: what is written, going on, and how good they are."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_configs import ddconfig, first_stage
from torch.utils.data import Dataset

from scripts import evaluate
from taming.cli import run_command
from taming.config import instantiate_from_config
from taming.data.datamodule import DataModuleFromConfig
from taming.evaluation import measures
from taming.evaluation.reconstructions import measure_reconstructions, plan_reconstructions, run_reconstructions
from taming.models.dvae import DVAE
from taming.models.vqgan import VQModel, VQSegmentationModel
from taming.shards import Shard


class Pictures(Dataset):
    """Smooth images (16, 16, channels), moved at random by up to 3 pixels, and label maps."""

    def __init__(self, size=5, channels=3):
        coarse = torch.rand(size, channels, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.images = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bicubic").clamp(-1, 1)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index].roll(int(torch.randint(4, ())), dims=-1).permute(1, 2, 0)
        return {"image": image, "segmentation": image.repeat(1, 1, 2)}


def data(*, size=5, channels=3, batch_size=2):
    config = {"target": f"{__name__}.Pictures", "params": {"size": size, "channels": channels}}
    module = DataModuleFromConfig(batch_size=batch_size, num_workers=0, validation=config)
    module.setup()
    return module


@pytest.fixture
def model():
    torch.manual_seed(0)
    return instantiate_from_config(first_stage(resolution=16, n_embed=8)).eval()


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.suffix != ".json"}


def pixels(path):
    return np.asarray(Image.open(path))


def test_files_hold_what_the_model_makes_of_the_data(model, tmp_path):
    job = plan_reconstructions(model, data(), tmp_path / "out", run="run", global_step=7)
    assert job.describe() == "split validation: 5 images, 5 to be reconstructed by VQModel of run"
    assert not (tmp_path / "out").exists(), "planning writes nothing"
    folder = run_reconstructions(job, progress=False)
    kinds = {"originals": "png", "reconstructions": "png", "codes": "npy"}
    assert set(files(folder)) == {f"{kind}/{i:06}.{suffix}" for kind, suffix in kinds.items() for i in range(5)}
    original = torch.from_numpy(pixels(folder / "originals" / "000003.png").copy())
    assert original.shape == (16, 16, 3)
    x = original.permute(2, 0, 1)[None] / 127.5 - 1
    codes = np.load(folder / "codes" / "000003.npy")
    assert codes.dtype == np.int32 and codes.shape == (64,)
    with torch.no_grad():
        decoded = model.decode_code(torch.from_numpy(codes).long().view(1, 8, 8))
        near = (model(x)[0] - decoded).abs().mean()
    shown = torch.from_numpy(pixels(folder / "reconstructions" / "000003.png").copy()).permute(2, 0, 1)
    assert torch.equal(shown, ((decoded[0] + 1) * 127.5).clamp(0, 255).to(torch.uint8)) and near < 0.1
    manifest = json.loads((folder / "sampling.json").read_text())
    assert (manifest["run"], manifest["global_step"], manifest["n_codes"]) == ("run", 7, 8)
    assert manifest["data"]["params"] == {"size": 5, "channels": 3}


def test_going_on_and_sharing_make_the_same_files(model, tmp_path):
    """The data are augmented at random, but an image does not depend on who makes it, and when."""
    whole = files(run_reconstructions(plan_reconstructions(model, data(), tmp_path / "a"), progress=False))
    for path in ("originals/000001.png", "reconstructions/000004.png"):
        (tmp_path / "a" / path).unlink()
    job = plan_reconstructions(model, data(batch_size=3), tmp_path / "a")
    assert job.remaining == [1, 4]
    assert files(run_reconstructions(job, progress=False)) == whole
    for index in range(2):
        shared = plan_reconstructions(model, data(), tmp_path / "b", shard=Shard(index, 2))
        run_reconstructions(shared, progress=False)
    assert files(tmp_path / "b") == whole
    few = plan_reconstructions(model, data(), tmp_path / "c", num_samples=2)
    assert len(files(run_reconstructions(few, progress=False))) == 6


def test_a_folder_is_of_one_model(model, tmp_path):
    run_reconstructions(plan_reconstructions(model, data(), tmp_path, run="one"), progress=False)
    with pytest.raises(ValueError, match="made with run=one, not two"):
        plan_reconstructions(model, data(), tmp_path, run="two")
    (tmp_path / "sampling.json").unlink()
    with pytest.raises(ValueError, match=r"holds samples, but no sampling.json"):
        plan_reconstructions(model, data(), tmp_path, run="two")


def test_other_first_stages(model, tmp_path):
    class Second(torch.nn.Module):
        first_stage_model = model

    torch.manual_seed(0)
    dvae = DVAE(n_hid=4, n_init=6, n_blk_per_group=1, vocab_size=11).eval()
    for name, stage in (("transformer", Second()), ("dvae", dvae)):
        folder = run_reconstructions(plan_reconstructions(stage, data(), tmp_path / name), progress=False)
        assert len(files(folder)) == 15
    gray = VQModel(
        ddconfig(in_channels=1, out_ch=1), {"target": "torch.nn.Identity"}, n_embed=8, embed_dim=4, image_key="image"
    ).eval()
    folder = run_reconstructions(plan_reconstructions(gray, data(channels=1), tmp_path / "gray"), progress=False)
    shown = pixels(folder / "originals" / "000000.png")
    assert shown.shape == (16, 16, 3) and np.array_equal(shown[..., 0], shown[..., 2])


def test_models_and_data_that_do_not_fit(model, tmp_path):
    labels = VQSegmentationModel(
        6, ddconfig(in_channels=6, out_ch=6), {"target": "torch.nn.Identity"}, 8, 4, image_key="segmentation"
    )
    with pytest.raises(ValueError, match="reads 6 channels, label maps perhaps"):
        plan_reconstructions(labels, data(), tmp_path)
    with pytest.raises(ValueError, match="a Linear neither is nor has a first stage"):
        plan_reconstructions(torch.nn.Linear(1, 1), data(), tmp_path)
    model.image_key = "depth"
    with pytest.raises(ValueError, match="the model reads 'depth', but the data have only image, segmentation"):
        run_reconstructions(plan_reconstructions(model, data(), tmp_path), progress=False)
    with pytest.raises(ValueError, match="num_samples must be positive"):
        plan_reconstructions(model, data(), tmp_path, num_samples=0)


def test_figures_are_those_of_the_files(model, tmp_path):
    folder = run_reconstructions(plan_reconstructions(model, data(), tmp_path), progress=False)
    report = measure_reconstructions(folder, lpips=lambda x, y: (x - y).abs().mean(dim=(1, 2, 3)), batch_size=2)
    x, y = (
        torch.stack([torch.from_numpy(pixels(path).copy()) for path in sorted((folder / kind).glob("*.png"))])
        .permute(0, 3, 1, 2)
        .div(127.5)
        .sub(1)
        for kind in ("originals", "reconstructions")
    )
    codes = torch.stack([torch.from_numpy(np.load(path)) for path in sorted((folder / "codes").glob("*.npy"))])
    expected = {
        "psnr_db": measures.psnr(x, y).mean().item(),
        "ssim": measures.ssim(x, y).mean().item(),
        "lpips": (x - y).abs().mean().item(),
        "codebook_usage": measures.codebook_usage(codes, 8),
        "codebook_perplexity": measures.perplexity(codes),
    }
    assert report["metrics"] == pytest.approx(expected, rel=1e-5)
    assert report["images"] == 5 and report["sampling"]["n_codes"] == 8 and report["options"]["lpips"]
    assert measure_reconstructions(folder, batch_size=5)["metrics"]["ssim"] == pytest.approx(expected["ssim"], rel=1e-5)


def test_without_codes_there_are_no_figures_of_the_codebook(model, tmp_path):
    folder = run_reconstructions(plan_reconstructions(model, data(), tmp_path), progress=False)
    (folder / "codes" / "000000.npy").unlink()
    assert measure_reconstructions(folder)["metrics"].keys() == {"psnr_db", "ssim"}


def test_folders_that_cannot_be_measured(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"scripts/make_reconstructions.py makes them"):
        measure_reconstructions(tmp_path)
    folder = run_reconstructions(plan_reconstructions(model, data(), tmp_path), progress=False)
    (folder / "originals" / "000002.png").unlink()
    with pytest.raises(ValueError, match=r"1 images are without their partner, such as 000002.png"):
        measure_reconstructions(folder)
    Image.new("RGB", (20, 16)).save(folder / "originals" / "000002.png")
    with pytest.raises(ValueError, match="images of several sizes"):
        measure_reconstructions(folder)
    with pytest.raises(ValueError, match="20x16 as originals and 16x16 as reconstructions"):
        measure_reconstructions(folder, batch_size=1)


def test_the_command_tells_a_wrong_folder_before_a_network_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evaluate.LPIPS, "from_pretrained", lambda: pytest.fail("a network was loaded"))
    assert run_command(evaluate.main, ["reconstructions", str(tmp_path / "none")]) == 2
    assert "scripts/make_reconstructions.py makes them" in capsys.readouterr().err
