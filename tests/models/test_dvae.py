"""OpenAI's dVAE: figures of the published code, its files read without running them, use as a first stage."""

import functools
import pickle
import re
import sys
import zipfile
from types import ModuleType

import pytest
import torch
from parity import agree, cases, describe, fill, inputs, names
from torch import nn

from taming.checkpoint import CheckpointError
from taming.config import instantiate_from_config
from taming.models.dvae import DVAE, map_pixels, read_network, unmap_pixels
from taming.sampling.samples import latent_shape, sample_images

SMALL = {"n_hid": 4, "n_init": 6, "n_blk_per_group": 1, "vocab_size": 11}
CASES = cases("dvae")

pytestmark = pytest.mark.filterwarnings("ignore:Couldn't retrieve source code for container")


def kind_of(key):
    return "normal" if key == "decoder.blocks.input.w" else {"w": "weight", "b": "bias"}[key.rsplit(".", 1)[-1]]


def filled(model, salt):
    """`model` with the weights that tests/reference/dvae.json describes."""
    state = {
        key: torch.from_numpy(fill.fill(salt + key, value.shape, kind_of(key)))
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture
def model():
    return filled(DVAE(**SMALL), "test")


@pytest.mark.parametrize("name", names("dvae", "dvae/one", "dvae/two"))
def test_published_figures(name):
    case = CASES[name]
    model = filled(DVAE(**case["kwargs"]), case["salt"])
    tensors = inputs(case)
    with torch.no_grad():
        codes = model.quantize.embed_code(tensors["codes"])
        got = {
            "logits": model.encoder(map_pixels((tensors["x"] + 1) / 2)),
            "indices": model.encode(tensors["x"])[2][2],
            "distribution": model.decoder(codes),
            "reconstruction": model.decode_code(tensors["codes"]),
            "...": None,
        }
    agree(case["outputs"], got, rtol=1e-4, atol=1e-5)


def test_published_names_and_shapes():
    case = CASES["dvae/published-sizes"]
    with torch.device("meta"):
        model = DVAE()
    assert {key: describe(value) for key, value in model.state_dict().items()} == case["state_dict"]
    assert (model.quantize.n_e, model.quantize.e_dim, model.quantize.re_embed) == (8192, 128, 8192)


def test_pixels_return_from_their_mapping():
    x = torch.linspace(0, 1, 11)
    assert torch.allclose(unmap_pixels(map_pixels(x)), x, atol=1e-6)
    assert map_pixels(x).aminmax() == (pytest.approx(0.1), pytest.approx(0.9))
    assert unmap_pixels(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


def test_first_stage_interface(model):
    x = torch.from_numpy(fill.fill("x", (2, 3, 16, 24), "image"))
    quant, loss, (_, _, indices) = model.encode(x)
    assert quant.shape == (2, 6, 2, 3) and indices.shape == (2, 2, 3) and loss == 0
    reconstructions, _, same = model(x, return_pred_indices=True)
    assert torch.equal(same, indices) and torch.equal(model.decode_code(indices), reconstructions)
    assert torch.equal(model.quantize.get_codebook_entry(indices.flatten(), shape=(2, 2, 3, 6)), quant)
    assert reconstructions.shape == x.shape and reconstructions.abs().max() <= 1


def test_gradients_reach_the_latents(model):
    quant = torch.zeros(1, 6, 2, 2, requires_grad=True)
    model.decode(quant).sum().backward()
    assert quant.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(1, 3, 16, 20), (1, 1, 16, 16), (3, 16, 16)])
def test_images_that_do_not_fit(model, shape):
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        model.encode(torch.zeros(shape))


def test_a_transformer_on_it():
    net2net = instantiate_from_config(
        {
            "target": "taming.models.cond_transformer.Net2NetTransformer",
            "params": {
                "first_stage_config": {"target": "taming.models.dvae.DVAE", "params": SMALL | {"resolution": 16}},
                "cond_stage_config": "__is_unconditional__",
                "transformer_config": {
                    "target": "taming.modules.transformer.mingpt.GPT",
                    "params": {"vocab_size": 11, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 8},
                },
            },
        }
    ).eval()
    assert latent_shape(net2net) == (6, 2, 2)
    x = torch.from_numpy(fill.fill("x", (2, 3, 16, 16), "image"))
    shared = net2net.shared_step({"image": x.permute(0, 2, 3, 1)}, 0)
    shared.backward()
    assert net2net.transformer.head.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in net2net.first_stage_model.parameters())
    quant, tokens = net2net.encode_to_z(x)
    assert torch.equal(net2net.decode_to_img(tokens, quant.shape), net2net.first_stage_model(x)[0])
    images, _ = sample_images(net2net, [(None, 0), (None, 1)], seed=0)
    assert images.shape == x.shape


class Foreign:
    """Not among what a network's file may hold."""


class Payload:
    """Would make a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def dall_e(monkeypatch):
    """Stand-ins for the modules and classes that the published files name; gives the classes by name."""
    places = {
        "Encoder": "dall_e.encoder",
        "EncoderBlock": "dall_e.encoder",
        "Decoder": "dall_e.decoder",
        "DecoderBlock": "dall_e.decoder",
        "Conv2d": "dall_e.utils",
    }
    for name in ("dall_e", *places.values()):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    classes = {name: type(name, (nn.Module,), {"__module__": module}) for name, module in places.items()}
    for name, module in places.items():
        setattr(sys.modules[module], name, classes[name])
    return classes


def as_published(module, classes, kind):
    """A copy of our encoder or decoder in the published classes, with what else their objects hold."""
    if isinstance(module, (nn.ReLU, nn.MaxPool2d, nn.Upsample, nn.Identity)):
        return module
    published = {"Encoder": kind, "Decoder": kind, "Block": f"{kind}Block", "Conv": "Conv2d", "Codebook": "Conv2d"}
    name = published.get(type(module).__name__)
    copy = classes[name]() if name else nn.Sequential()
    copy.device, copy.make = torch.device("cpu"), functools.partial(nn.ReLU, inplace=False)
    for key, value in module.named_parameters(recurse=False):
        setattr(copy, key, nn.Parameter(value.detach().clone(), requires_grad=False))
    for key, child in module.named_children():
        copy.add_module(key, as_published(child, classes, kind))
    return copy


def save_published(model, folder, classes, **options):
    for part in ("encoder", "decoder"):
        network = as_published(getattr(model, part), classes, part.capitalize())
        torch.save(network, folder / f"{part}.pkl", **options)
    return folder


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_published_files(model, dall_e, tmp_path, monkeypatch, zipped):
    save_published(model, tmp_path, dall_e, _use_new_zipfile_serialization=zipped)
    for module in [name for name in sys.modules if name.split(".")[0] == "dall_e"]:
        monkeypatch.delitem(sys.modules, module)
    loaded = DVAE(ckpt_path=str(tmp_path), **SMALL)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_half_precision_and_shared_views(dall_e, tmp_path):
    network = dall_e["Encoder"]()
    both = torch.arange(6).half()
    network.w, network.b = nn.Parameter(both[:4].view(2, 2).t()), nn.Parameter(both[4:])
    for zipped in (True, False):
        torch.save(network, tmp_path / "encoder.pkl", _use_new_zipfile_serialization=zipped)
        weights = read_network(tmp_path / "encoder.pkl")
        assert weights["w"].tolist() == [[0, 2], [1, 3]] and weights["b"].tolist() == [4, 5]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_other_objects_are_refused_by_name(dall_e, tmp_path, zipped):
    network, file = dall_e["Encoder"](), tmp_path / "encoder.pkl"
    network.extra = Foreign()
    torch.save(network, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(file))}: refused.* {__name__}\.Foreign"):
        read_network(file)
    network.extra = Payload(tmp_path / "made")
    torch.save(network, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused.*open"):
        read_network(file)
    assert not (tmp_path / "made").exists()


def test_plain_pickles_are_not_run(tmp_path):
    file = tmp_path / "encoder.pkl"
    file.write_bytes(pickle.dumps(Payload(tmp_path / "made")))
    with pytest.raises(CheckpointError, match="refused"):
        read_network(file)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_damaged_files(model, dall_e, tmp_path, zipped):
    file = save_published(model, tmp_path, dall_e, _use_new_zipfile_serialization=zipped) / "encoder.pkl"
    content = file.read_bytes()
    for damaged in (b"", b"<html></html>", content[: len(content) // 2], content[:-100]):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{re.escape(str(file))}: truncated.*{len(damaged)} bytes"):
            read_network(file)


def test_a_file_without_a_network(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "encoder.pkl")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_network(tmp_path / "encoder.pkl")


def test_a_flipped_byte_in_the_weights(model, dall_e, tmp_path):
    file = save_published(model, tmp_path, dall_e) / "encoder.pkl"
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size if "/data/" in info.filename else 0)
    content = bytearray(file.read_bytes())
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated"):
        read_network(file)


def test_missing_files_are_named_with_their_addresses(model, dall_e, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        DVAE(ckpt_path=str(tmp_path), **SMALL)
    for part in ("encoder", "decoder"):
        assert f"https://cdn.openai.com/dall-e/{part}.pkl" in str(error.value)
    assert str(tmp_path / "encoder.pkl") in str(error.value)
    save_published(model, tmp_path, dall_e)
    (tmp_path / "decoder.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"decoder\.pkl: no such file; download \S+/decoder\.pkl to"):
        DVAE(ckpt_path=str(tmp_path), **SMALL)


@pytest.mark.parametrize(
    ("option", "value", "key"), [("n_hid", 8, "blocks.input.w"), ("n_blk_per_group", 2, "block_2"), ("n_init", 5, "w")]
)
def test_files_of_another_size(model, dall_e, tmp_path, option, value, key):
    save_published(model, tmp_path, dall_e)
    with pytest.raises(
        CheckpointError, match=rf"coder\.pkl: \S*{key}.* in the file, .* in the model; check .*{option}"
    ):
        DVAE(ckpt_path=str(tmp_path), **(SMALL | {option: value}))
