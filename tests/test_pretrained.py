"""Published models: the table, where they are looked for, how they come, and what is said if they do not."""

import hashlib
import importlib.util
import io
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from file_server import serving
from tiny_configs import first_stage

from taming.checkpoint import CheckpointError
from taming.cli import run_command
from taming.config import instantiate_from_config
from taming.pretrained import fetch, find, verify
from taming.published import MODELS, PublishedModel, RemoteFile, published
from taming.runs import load_model, resolve_run
from taming.trusted_targets import MARK

SCRIPT = Path(__file__).parents[1] / "scripts" / "download_model.py"
SPEC = importlib.util.spec_from_file_location("download_model", SCRIPT)
download_model = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(download_model)

MILLIONS = {
    "cin_transformer": 1411,
    "ffhq_transformer": 802,
    "coco_transformer": 651,
    "open_images_scene_transformer": 1046,
}
"""Published numbers of parameters, to the digits that are published 1400, 801, 651 and 1000."""

CONFIG_YAML = b"model:\n  target: torch.nn.Identity\n"


def tiny_model():
    return first_stage(resolution=4, n_embed=8)


def checkpoint():
    """The bytes of a checkpoint of the tiny model."""
    content = io.BytesIO()
    torch.save({"state_dict": instantiate_from_config(tiny_model()).state_dict(), "global_step": 3}, content)
    return content.getvalue()


CHECKPOINT = checkpoint()
SHA256 = hashlib.sha256(CHECKPOINT).hexdigest()


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """The current folder and the home folder are empty, and $TAMING_MODELS is not set."""
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TAMING_MODELS", raising=False)
    return tmp_path


@pytest.fixture
def folder(places):
    """Where the models of the tests are downloaded to."""
    return places / "home" / ".cache" / "taming" / "tiny-folder"


@pytest.fixture
def table(monkeypatch):
    """A function that makes a model of these files the only one."""

    def use(*files, **changes):
        model = {"name": "tiny", "folder": "tiny-folder", "description": "a test", "config": tiny_model, "kind": "any"}
        monkeypatch.setattr("taming.published.MODELS", (PublishedModel(**model | changes, files=files),))

    return use


@pytest.fixture
def tiny(server, table):
    """The model `tiny` of two files on the server; a function that changes the checkpoint's known SHA-256."""

    def use(sha256=None):
        config = RemoteFile("configs/model.yaml", server.put("/configs/model.yaml", CONFIG_YAML))
        table(config, RemoteFile("checkpoints/last.ckpt", server.put("/ckpts/last.ckpt", CHECKPOINT), sha256))

    use()
    return use


def place(folder, name="checkpoints/last.ckpt", content=b"placed"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


def files(folder):
    """All but the mark of a downloaded folder."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MARK)


def archive(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return content.getvalue()


def test_names_and_addresses():
    names = [name for model in MODELS for name in {model.name, model.folder, *model.aliases}]
    assert len(names) == len(set(names))
    assert all(published(name).name == model.name for model in MODELS for name in (model.name, model.folder))
    addresses = [file.url for model in MODELS for file in model.files] + [model.page for model in MODELS]
    assert all(address.startswith("https://") for address in addresses)
    assert published("vqgan_gumbel_openimages_f8").name == "vqgan_gumbel_f8"
    (_, weights) = published("2020-11-09T13-31-51_sflckr").files
    assert weights.url.endswith("/d/73487ab6e5314cb5adba/files/?p=%2Fcheckpoints%2Flast.ckpt&dl=1")


DISTINCT = {repr(model.config()): model.name for model in MODELS if model.config is not None}


@pytest.mark.parametrize("name", DISTINCT.values())
def test_configs_build(name):
    config = published(name).config()
    if "transformer_config" in config["params"]:
        config["params"]["transformer_config"]["params"]["n_layer"] = 1
    with torch.device("meta"):
        model = instantiate_from_config(config)
    if hasattr(model, "transformer"):
        assert model.transformer.config.vocab_size == model.first_stage_model.quantize.n_e


@pytest.mark.parametrize("name", MILLIONS)
def test_transformers_have_the_published_number_of_parameters(name):
    with torch.device("meta"):
        transformer = instantiate_from_config(published(name).config()["params"]["transformer_config"])
    assert round(sum(p.numel() for p in transformer.parameters()) / 1e6) == MILLIONS[name]


def test_an_unknown_name():
    with pytest.raises(ValueError, match="'vqgan_gumble_f8' is no published model; did you mean vqgan_gumbel_f8"):
        fetch("vqgan_gumble_f8")
    with pytest.raises(ValueError, match="known are vqgan_imagenet_f16_1024, "):
        published("?")


def test_places_in_their_order(places, table, monkeypatch):
    table()
    monkeypatch.setenv("TAMING_MODELS", str(places / "models"))
    assert find("tiny") is None
    roots = [places / "home/.cache/taming", Path("logs"), places / "models"]
    for root, file in zip(roots, ("ckpts/last.ckpt", "checkpoints/epoch=1.ckpt", "checkpoints/last.ckpt"), strict=True):
        place(root / "tiny-folder", file)
        assert find("tiny") == find("tiny-folder") == fetch("tiny") == root / "tiny-folder"


def test_paths_are_found_as_they_are(places):
    assert find(places) == places
    assert find("no/such/path") is None


def test_an_empty_folder_is_no_model(folder, table):
    table()
    place(folder, "configs/model.yaml")
    place(folder, "checkpoints/last.ckpt.part")
    assert find("tiny") is None


def test_download_to_a_run_folder(server, folder, tiny, caplog):
    caplog.set_level("INFO", logger="taming")
    assert fetch("tiny") == find("tiny") == folder
    assert files(folder) == ["checkpoints/last.ckpt", "checkpoints/last.ckpt.sha256", "configs/model.yaml"]
    assert (folder / "configs/model.yaml").read_bytes() == CONFIG_YAML
    assert (folder / "checkpoints/last.ckpt.sha256").read_text() == f"{SHA256}  last.ckpt\n"
    assert SHA256 in caplog.text
    fetch("tiny")
    assert len(server.asked) == 2


def test_roots(places, tiny, monkeypatch):
    assert fetch("tiny", root=places / "there") == places / "there" / "tiny-folder"
    assert find("tiny") is None
    monkeypatch.setenv("TAMING_MODELS", str(places / "models"))
    assert fetch("tiny") == find("tiny") == places / "models" / "tiny-folder"


def test_a_config_that_was_placed_stays(folder, tiny):
    place(folder, "configs/model.yaml", b"mine")
    fetch("tiny")
    assert (folder / "configs/model.yaml").read_bytes() == b"mine"


def test_an_interrupted_download_goes_on(server, folder, tiny):
    server.cut_after = 1000
    with pytest.raises(OSError, match=f"only 1000 of {len(CHECKPOINT)} bytes came"):
        fetch("tiny")
    assert find("tiny") is None
    server.cut_after = None
    fetch("tiny")
    assert [wanted for path, wanted in server.asked if path == "/ckpts/last.ckpt"] == [None, "bytes=1000-"]
    assert (folder / "checkpoints/last.ckpt").read_bytes() == CHECKPOINT


def test_the_known_checksum(folder, tiny):
    tiny(sha256="0" * 64)
    with pytest.raises(OSError, match=f"tiny: cannot download .*{SHA256} instead of 0000"):
        fetch("tiny")
    assert find("tiny") is None
    tiny(sha256=SHA256)
    fetch("tiny")
    assert verify("tiny") == {folder / "checkpoints/last.ckpt": True}


def test_an_address_that_does_not_answer(server, folder, tiny):
    del server.files["/ckpts/last.ckpt"]
    with pytest.raises(OSError, match="404") as error:
        fetch("tiny")
    for part in ("tiny: ", "/ckpts/last.ckpt", "https://github.com/CompVis", str(folder / "checkpoints/last.ckpt")):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_login_page_is_no_config(server, folder, tiny):
    server.content_type = "text/html"
    with pytest.raises(OSError, match=r"web page.*model\.yaml$"):
        fetch("tiny")
    assert files(folder) == []


def test_a_model_without_addresses(folder, table):
    table(page="https://example.org/models")
    with pytest.raises(FileNotFoundError) as error:
        fetch("tiny")
    for part in ("https://example.org/models", *(str(folder / name) for name in ("checkpoints/last.ckpt", "configs"))):
        assert part in str(error.value)


def zipped(server, table, members):
    content = members if isinstance(members, bytes) else archive(members)
    table(RemoteFile("tiny.zip", server.put("/tiny.zip", content)))


def test_an_archive_with_a_checkpoint_only(server, folder, table):
    zipped(server, table, {"model.ckpt": CHECKPOINT})
    assert fetch("tiny") == folder
    assert files(folder) == ["checkpoints/last.ckpt", "checkpoints/last.ckpt.sha256", "configs/model.yaml"]
    loaded = load_model(resolve_run(folder))
    assert loaded.global_step == 3 and loaded.config.model.base_learning_rate == 4.5e-6
    assert verify("tiny") == {folder / "checkpoints/last.ckpt": True}


def test_members_of_an_archive_land_in_the_folder_only(server, places, folder, table):
    members = {"../../up.ckpt": CHECKPOINT, "/abs/own.yaml": CONFIG_YAML, "../run.py": b"", "folder/": b""}
    zipped(server, table, members)
    fetch("tiny")
    assert files(folder) == ["checkpoints/last.ckpt", "checkpoints/last.ckpt.sha256", "configs/own.yaml"]
    assert files(places) == [f"home/.cache/taming/tiny-folder/{name}" for name in files(folder)]


@pytest.mark.parametrize(
    "content",
    [{"a.yaml": CONFIG_YAML}, {"a.ckpt": b"", "b.ckpt": b""}, b"no archive", archive({"a.ckpt": b"x"})[:-30]],
    ids=["no checkpoint", "two checkpoints", "no archive", "truncated"],  # not its bytes, which hold the time
)
def test_another_archive_is_discarded(server, folder, table, content):
    zipped(server, table, content)
    with pytest.raises(OSError, match=r"tiny: .*tiny\.zip: not the archive that was expected.*discarded"):
        fetch("tiny")
    assert files(folder) == []


def test_a_damaged_member_is_not_kept(server, folder, table):
    content = bytearray(archive({"a.ckpt": b"x" * 1000}))
    content[500] ^= 1
    zipped(server, table, bytes(content))
    with pytest.raises(OSError, match="CRC"):
        fetch("tiny")
    assert find("tiny") is None


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def test_verify_finds_damage(folder, tiny):
    fetch("tiny")
    path = damage(folder / "checkpoints/last.ckpt")
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))}: damaged or replaced.* instead of {SHA256}"):
        verify("tiny")


def test_fetch_finds_a_checkpoint_that_was_written_to_since(folder, tiny):
    fetch("tiny")
    path, record = (folder / "checkpoints" / name for name in ("last.ckpt", "last.ckpt.sha256"))
    os.utime(record, (0, 0))
    assert fetch("tiny") == folder
    assert record.stat().st_mtime > 0  # it is not read again next time
    damage(path)
    os.utime(record, (0, 0))
    with pytest.raises(CheckpointError, match="damaged or replaced"):
        fetch("tiny")
    record.unlink()
    assert fetch("tiny") == folder


def test_verify_without_anything_to_compare_with(folder, table):
    table()
    with pytest.raises(FileNotFoundError, match="tiny: not found"):
        verify("tiny")
    place(folder, "ckpts/last.ckpt")
    assert verify("tiny") == {folder / "ckpts/last.ckpt": False}


def test_command(folder, tiny, capsys):
    assert run_command(download_model.main, ["tiny"]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert run_command(download_model.main, ["--verify", "tiny"]) == 0
    assert capsys.readouterr().out.endswith("last.ckpt: intact\n")
    damage(folder / "checkpoints/last.ckpt")
    assert run_command(download_model.main, ["--verify", "tiny"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    shutil.rmtree(folder)
    assert run_command(download_model.main, ["tiny", "--root", "logs"]) == 0
    assert files(Path("logs"))[0] == "tiny-folder/checkpoints/last.ckpt"


def test_command_lists_all(capsys):
    download_model.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [model.name for model in MODELS]
