"""scripts/extract_segmentation.py with networks of a few lines: maps, resuming, failures and mistakes."""

import importlib.util
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from paired_figures import write
from PIL import Image

from taming.cli import run_command
from taming.data import segmenters
from taming.data.segmenters import Segmenter, load_deeplab_v2, load_deeplab_v3
from taming.data.sflckr import SegmentationBase

SCRIPT = Path(__file__).parents[2] / "scripts" / "extract_segmentation.py"
SPEC = importlib.util.spec_from_file_location("extract_segmentation", SCRIPT)
extract_segmentation = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(extract_segmentation)
CPU = torch.device("cpu")
ENTRIES = ["norway/a.jpg", "norway/b.jpeg", "lakes/c.jpg"]
IMAGES = Path("data/sflckr_images")


def red_or_blue(x):
    """In the place of DeepLab v2: blue, green, red (1, 3, h, w) -> logits (1, 3, h, w), so that blue is class 0."""
    return x.clone()


@pytest.fixture(autouse=True)
def loaded(tmp_path, monkeypatch):
    """Three images of 12 x 8 pixels, the left half red, the right half blue; the weights that are asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPLAB_CKPT", raising=False)
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, :6, 0] = pixels[:, 6:, 2] = 255
    for entry in ENTRIES:
        write(IMAGES / entry, pixels)
    Path("data/sflckr_examples.txt").write_text("\n".join(ENTRIES))
    loaded = []

    def load(weights, device):
        loaded.append(weights)
        return Segmenter(red_or_blue, device)

    monkeypatch.setattr(extract_segmentation, "load_deeplab_v2", load)
    return loaded


def extract(*arguments, outdir="maps"):
    """Run the command on the CPU with weights of some name; its status."""
    return run_command(extract_segmentation.main, [outdir, "--ckpt", "w.pth", "--device", "cpu", *arguments])


def maps(outdir="maps"):
    return sorted(path.relative_to(outdir).as_posix() for path in Path(outdir).rglob("*.png"))


HALVES = np.repeat([[2] * 6 + [0] * 6], 8, axis=0)


def test_maps_of_the_list(loaded):
    assert extract() == 0
    assert maps() == ["lakes/c.png", "norway/a.png", "norway/b.png"]
    with Image.open("maps/norway/b.png") as image:
        assert (image.mode, image.size) == ("L", (12, 8))
        np.testing.assert_array_equal(np.asarray(image), HALVES)
    assert loaded == ["w.pth"]
    data = SegmentationBase("data/sflckr_examples.txt", IMAGES, "maps")
    np.testing.assert_array_equal(data[1]["segmentation"].argmax(axis=2), HALVES)


def test_maps_are_kept_unless_told_otherwise(loaded, capsys):
    Path("maps/lakes").mkdir(parents=True)
    Image.fromarray(np.full((8, 12), 7, np.uint8)).save("maps/lakes/c.png")
    assert extract() == 0
    assert np.asarray(Image.open("maps/lakes/c.png")).max() == 7
    assert "1 of 3 maps are there, 2 to make" in capsys.readouterr().out
    assert extract() == 0 and len(loaded) == 1
    assert extract("--overwrite") == 0
    np.testing.assert_array_equal(np.asarray(Image.open("maps/lakes/c.png")), HALVES)


def test_other_images_and_weights_from_the_environment(loaded, monkeypatch):
    monkeypatch.setenv("DEEPLAB_CKPT", "env.pth")
    Path("mine.txt").write_text("a.jpg\n")
    arguments = ["maps", "--data_csv", "mine.txt", "--data_root", str(IMAGES / "norway"), "--device", "cpu"]
    assert run_command(extract_segmentation.main, arguments) == 0
    assert (maps(), loaded) == (["a.png"], ["env.pth"])


def test_broken_images_are_skipped_and_listed(capsys):
    (IMAGES / "norway/a.jpg").write_bytes(b"nothing")
    (IMAGES / "norway/b.jpeg").unlink()
    assert extract() == 1
    assert maps() == ["lakes/c.png"]
    shown = capsys.readouterr()
    assert "1 maps written to maps" in shown.out
    summary = shown.err.split("2 images without a map:\n")[1].splitlines()
    assert ["norway/a.jpg" in line for line in summary] == [True, False]
    assert "b.jpeg" in summary[1] and "it is listed in data/sflckr_examples.txt" in summary[1]


def test_an_image_beyond_the_network_is_one_of_the_failures(monkeypatch, capsys):
    def small_only(x):
        if x.shape[2] > 8:
            raise RuntimeError("out of memory\nsee elsewhere")
        return x

    write(IMAGES / "norway/a.jpg", np.zeros((9, 9, 3)))
    monkeypatch.setattr(extract_segmentation, "load_deeplab_v2", lambda *_: Segmenter(small_only, CPU))
    assert extract() == 1
    assert len(maps()) == 2
    assert "norway/a.jpg: out of memory see elsewhere" in capsys.readouterr().err


def test_torchvision_needs_no_weights(monkeypatch):
    monkeypatch.setattr(
        extract_segmentation, "load_deeplab_v3", lambda device: Segmenter(red_or_blue, device, bgr=False)
    )
    assert run_command(extract_segmentation.main, ["maps", "--network", "deeplabv3", "--device", "cpu"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("maps/lakes/c.png")), 2 - HALVES)


@pytest.mark.parametrize(
    ("arguments", "listed", "message"),
    [
        (["--ckpt", ""], "", "deeplabv2 needs its weights: download https://github.com/kazuto1011/deeplab-pytorch"),
        (["--data_csv", "none.txt"], "", "--data_csv: file not found: none.txt"),
        (["--segmentation_size", "0"], "", "--segmentation_size 0: must be positive"),
        (["--device", "cuda:99"], "", "--device cuda:99"),
        ([], "../x.jpg", "../x.jpg: list paths relative to --data_root, without .."),
        ([], "/x.jpg", "/x.jpg: list paths relative to --data_root"),
        ([], "norway/a.png", "norway/a.jpg and norway/a.png have the same map maps/norway/a.png; rename"),
    ],
)
def test_mistakes_are_one_line(arguments, listed, message, capsys, loaded):
    with open("data/sflckr_examples.txt", "a") as file:
        file.write(f"\n{listed}\n")
    assert extract(*arguments) == 2
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown.startswith("error: ") and message in shown
    assert not loaded and not Path("maps").exists()


def test_what_the_network_sees():
    seen = []

    def network(x):
        seen.append(x)
        return torch.cat([x[:, :2, ::2, ::2], -x[:, :2, ::2, ::2]], dim=1)

    image = np.random.default_rng(0).uniform(-1, 1, (8, 12, 3)).astype(np.float32)
    labels = Segmenter(network, CPU)(image)
    assert (labels.shape, labels.dtype) == ((8, 12), np.uint8)
    expected = (image.astype(np.float64) * 127.5 + 127.5)[:, :, ::-1] - np.array([104.008, 116.669, 122.675])
    np.testing.assert_allclose(seen[0][0].permute(1, 2, 0), expected, atol=1e-4)
    segmenter = Segmenter(network, CPU, bgr=False, mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 4.0), align_corners=False)
    assert segmenter(image, 4).shape == (8, 12)
    assert seen[1].shape == (1, 3, 4, 6)
    gray = np.zeros((8, 12, 3), np.float32)
    segmenter(gray, 16)
    torch.testing.assert_close(seen[2][0, :, 3, 5], (127.5 - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([2.0, 2, 4]))


def test_logits_are_enlarged_with_aligned_corners():
    logits = torch.tensor([[[[0.0, 3.0]], [[1.0, 1.0]]]]).expand(1, 2, 2, 2)  # equal at a third of the way
    image = np.zeros((2, 7, 3), np.float32)
    labels = [Segmenter(lambda x: logits, CPU, align_corners=corners)(image)[0].tolist() for corners in (True, False)]
    assert labels == [[1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]]


def test_deeplab_v2_gets_the_weights_of_the_file(monkeypatch):
    called = []

    def load(*arguments, **options):
        called.append((arguments, options))
        return torch.nn.Conv2d(3, 182, 1)

    monkeypatch.setattr(torch.hub, "load", load)
    source = torch.nn.Conv2d(3, 182, 1)
    torch.save(source.state_dict(), "w.pth")
    segmenter = load_deeplab_v2("w.pth", CPU)
    assert called[0][0] == (segmenters.DEEPLAB_V2, "deeplabv2_resnet101")
    assert called[0][1]["n_classes"] == 182
    assert torch.equal(segmenter.network.weight, source.weight) and not segmenter.network.training
    torch.save(torch.nn.Conv2d(3, 183, 1).state_dict(), "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: no weights of DeepLab v2 with 182 classes"):
        load_deeplab_v2("w.pth", CPU)
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        load_deeplab_v2("none.pth", CPU)


class TinyDeepLab(torch.nn.Conv2d):
    """As torchvision's: a mapping comes out."""

    def forward(self, x):
        return {"out": super().forward(x), "aux": None}


def test_deeplab_v3_is_torchvisions_with_its_weights(monkeypatch):
    source, asked = TinyDeepLab(3, 21, 1), {}

    def build(**options):
        asked.update(options)
        return TinyDeepLab(3, options["num_classes"], 1)

    def download(url, **options):
        asked.update(options)
        return source.state_dict()

    monkeypatch.setattr("torchvision.models.segmentation.deeplabv3_resnet101", build)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    segmenter = load_deeplab_v3(CPU)
    assert asked["weights_backbone"] is None and asked["weights_only"] is True
    image = np.random.default_rng(0).uniform(-1, 1, (8, 12, 3)).astype(np.float32)
    x = ((torch.from_numpy(image) + 1) / 2 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = source(x.permute(2, 0, 1)[None])["out"][0].argmax(0)
    np.testing.assert_array_equal(segmenter(image), expected)


def test_a_network_that_cannot_be_downloaded_is_named(monkeypatch, tmp_path, capsys):
    def unreachable(*_, **__):
        raise URLError("name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\n")
    places = ["--data_csv", str(tmp_path / "list.txt"), "--data_root", str(tmp_path)]
    command = [str(tmp_path / "maps"), "--network", "deeplabv3", *places]
    assert run_command(extract_segmentation.main, command) == 2
    message = capsys.readouterr().err
    assert "torchvision's weights of DeepLab v3 could not be downloaded (name or service not known)" in message
    assert str(torch.hub.get_dir()) in message and not (tmp_path / "maps").exists()
