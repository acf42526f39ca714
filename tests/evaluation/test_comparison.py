"""First stages side by side."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_configs import first_stage
from tiny_run_folders import DEPTH_MAPS, LABEL_MAPS, build, save_run, transformer

from taming.evaluation import comparison
from taming.evaluation.comparison import DALLE, compare_first_stages, load_first_stages, read_squares
from taming.evaluation.measures import codebook_usage, psnr
from taming.images import from_uint8, to_uint8
from taming.models.dvae import DVAE


def images(size=48, count=2):
    x = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear")


def model(n_embed=12):
    return build(first_stage(resolution=16, n_embed=n_embed))


def test_reconstructions_and_scores_are_those_of_each_model():
    x, stages = images(), {"a": model(), "b": model(8)}
    compared = compare_first_stages(x, stages, lpips=False)
    assert compared.images is x and list(compared.reconstructions) == list(compared.scores) == ["a", "b"]
    for title, stage in stages.items():
        with torch.no_grad():
            expected = torch.cat([stage(image)[0] for image in x.split(1)])
        assert torch.allclose(compared.reconstructions[title], expected.clamp(-1, 1), atol=1e-5)
        codes = torch.cat([stage.tokenize(image) for image in x.split(1)])
        scores = compared.scores[title]
        assert scores["PSNR"] == pytest.approx(psnr(x, compared.reconstructions[title]).mean().item())
        assert scores["codes in use, %"] == 100 * codebook_usage(codes, stage.quantize.n_e)
        assert 1 <= scores["perplexity"] <= stage.quantize.n_e and -1 <= scores["SSIM"] <= 1


def test_the_picture_has_a_row_per_image_and_the_input_first():
    x = images(320)
    compared = compare_first_stages(x, {"a": model()}, lpips=False)
    picture = compared.picture()
    assert picture.shape == (640, 640, 3)
    for index in range(2):
        tile = picture[320 * index : 320 * (index + 1), :320]
        expected = to_uint8(x[index])
        assert np.array_equal(tile[48:], expected[48:]) and not np.array_equal(tile, expected), "a title is drawn on it"
        assert (tile[:48] == 255).all(axis=-1).any() and (tile[:48] == 0).all(axis=-1).any()


def test_the_table():
    scores = {"PSNR": 20.126, "SSIM": 0.5, "LPIPS": 0.25, "codes in use, %": 12.5, "perplexity": 3.14}
    compared = comparison.Comparison(images(), {}, {"VQGAN": scores})
    assert compared.table().splitlines() == [
        "| model | PSNR | SSIM | LPIPS | codes in use, % | perplexity |",
        "| --- | --- | --- | --- | --- | --- |",
        "| VQGAN | 20.13 | 0.500 | 0.250 | 12 | 3.1 |",
    ]


def test_lpips_where_its_weights_are(monkeypatch, caplog):
    class Difference(torch.nn.Module):
        def ensure_weights(self):
            pass

        def forward(self, a, b):
            return (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)

    monkeypatch.setattr(comparison, "LPIPS", Difference)
    x = images()
    compared = compare_first_stages(x, {"a": model()})
    expected = (x - compared.reconstructions["a"]).abs().mean().item()
    assert compared.scores["a"]["LPIPS"] == pytest.approx(expected, rel=1e-5)

    def missing(self):
        raise FileNotFoundError("place vgg16.pth there")

    monkeypatch.setattr(Difference, "ensure_weights", missing)
    assert "LPIPS" not in compare_first_stages(x, {"a": model()}).scores["a"]
    assert "the table has no LPIPS: place vgg16.pth there" in caplog.text


def test_models_from_run_folders_and_a_dvae_that_is_not_there(tmp_path, caplog):
    vqgan = save_run(tmp_path / "vqgan", first_stage(resolution=16, n_embed=12))
    second = save_run(tmp_path / "second", transformer(DEPTH_MAPS, "depth"))
    loaded = load_first_stages({"a": vqgan, "b": second}, tmp_path, device="cpu")
    assert list(loaded) == ["a", "b"] and type(loaded["b"]).__name__ == "VQModel"
    place = "place https://cdn.openai.com/dall-e/encoder.pkl and https://cdn.openai.com/dall-e/decoder.pkl"
    assert f"{DALLE} is left out: {place} in the folder {tmp_path}" in caplog.text


def test_a_dvae_that_is_there(tmp_path, monkeypatch):
    def small(ckpt_path):
        assert ckpt_path == str(tmp_path)
        return DVAE(n_hid=4, n_init=6, n_blk_per_group=1, vocab_size=11)

    monkeypatch.setattr(comparison, "DVAE", small)
    for name in ("encoder.pkl", "decoder.pkl"):
        (tmp_path / name).touch()
    loaded = load_first_stages({}, tmp_path, device="cpu")
    assert list(loaded) == [DALLE] and not loaded[DALLE].training
    assert compare_first_stages(images(), loaded, lpips=False).reconstructions[DALLE].shape == (2, 3, 48, 48)


def test_squares(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    squares = read_squares([tmp_path / "a.png", np.zeros((20, 30, 3), np.uint8)], 16)
    assert squares.shape == (2, 3, 16, 16) and torch.equal(squares[0], from_uint8(pixels))
    assert (squares[1] == -1).all()


def test_mistakes():
    with pytest.raises(ValueError, match="no images to compare"):
        read_squares([], 16)
    with pytest.raises(ValueError, match="no models to compare"):
        compare_first_stages(images(), {})
    with pytest.raises(ValueError, match="mine: images of 47 x 47 pixels: height and width must be multiples of 2"):
        compare_first_stages(images(47), {"mine": model()}, lpips=False)
    with pytest.raises(ValueError, match=r"maps: images of shape .* reads \(b, 5, h, w\)"):
        compare_first_stages(images(), {"maps": build(LABEL_MAPS)}, lpips=False)
