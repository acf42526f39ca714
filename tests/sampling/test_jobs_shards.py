"""Several processes make the files of one: who makes what, and how they agree on a seed."""

import json
import threading

import pytest
from tiny_transformers import contents, manifest, same, tiny_model, within

from taming.sampling import manifest as manifests
from taming.sampling.jobs import sample_to_folder
from taming.shards import Shard, find_shard, own_device

OPTIONS = {"num_samples": 5, "classes": [0, 2, 3], "seed": 11, "top_k": 8, "progress": False, "batch_size": 2}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    return contents(sample_to_folder(model, tmp_path_factory.mktemp("expected"), **OPTIONS))


def test_parts_cover_everything_once():
    parts = [list(Shard(index, 3).part(range(10))) for index in range(3)]
    assert parts == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4/4", "shard 4/4: i/n needs 0 <= i < n"),
        ("0/0", "shard 0/0"),
        ("1", "--shard 1: expected i/n, such as 0/4"),
        ("-1/4", "expected i/n"),
        ("1/4/5", "expected i/n"),
    ],
)
def test_no_such_part(text, message):
    with pytest.raises(ValueError, match=message):
        find_shard(text)


def test_torchrun_tells_which_part(monkeypatch):
    assert find_shard() == Shard(0, 1) and find_shard("1/3") == Shard(1, 3)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert find_shard() == Shard(2, 4)
    with pytest.raises(ValueError, match="the 4 processes of torchrun have their shards already"):
        find_shard("0/2")


def test_every_process_has_its_own_cuda_device(monkeypatch):
    chosen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(own_device("auto")) == str(own_device("cuda")) == "cuda:1" and str(own_device("cuda:0")) == "cuda:0"
    assert str(own_device("cpu")) == "cpu" and [str(device) for device in chosen] == ["cuda:1", "cuda:1", "cuda:0"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"cuda:2: this machine has 2 such device"):
        own_device("auto")


def test_parts_of_any_number_make_the_same_files(model, tmp_path, expected):
    """Two processes of three, then all that is left by two: nothing is made twice, nothing is forgotten."""
    folder = sample_to_folder(model, tmp_path, shard=Shard(0, 3), **OPTIONS)
    assert len(contents(folder)) == 5
    sample_to_folder(model, tmp_path, shard=Shard(2, 3), **OPTIONS)
    assert len(contents(folder)) == 10 and within(contents(folder), expected)
    for index in range(2):
        sample_to_folder(model, tmp_path, shard=Shard(index, 2), **OPTIONS)
    assert same(contents(folder), expected)


def test_processes_agree_on_a_seed_that_nobody_gave(model, tmp_path):
    options = OPTIONS | {"seed": None}
    second = threading.Thread(target=sample_to_folder, args=(model, tmp_path), kwargs=options | {"shard": Shard(1, 2)})
    second.start()
    folder = sample_to_folder(model, tmp_path, shard=Shard(0, 2), **options)
    second.join()
    together, seed = contents(folder), manifest(folder)["seed"]
    alone = sample_to_folder(model, tmp_path / "alone", **(OPTIONS | {"seed": seed}))
    assert same(together, contents(alone))


def test_a_process_without_a_first_one_gives_up(model, tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "PATIENCE", 0.1)
    monkeypatch.setattr(manifests, "POLL", 0.01)
    with pytest.raises(ValueError, match=r"sampling\.json: shard 1/2 waited for it; start shard 0 as well"):
        sample_to_folder(model, tmp_path, shard=Shard(1, 2), **OPTIONS)


def test_every_process_refuses_the_folder_of_another_job(model, tmp_path):
    sample_to_folder(model, tmp_path, **OPTIONS)
    for index in range(2):
        with pytest.raises(ValueError, match="made with seed=11, not 12"):
            sample_to_folder(model, tmp_path, shard=Shard(index, 2), **(OPTIONS | {"seed": 12}))


def test_only_the_first_writes_the_manifest(model, tmp_path):
    folder = sample_to_folder(model, tmp_path, shard=Shard(0, 2), **OPTIONS)
    (folder / "sampling.json").write_text(json.dumps(manifest(folder) | {"note": "untouched"}))
    sample_to_folder(model, tmp_path, shard=Shard(1, 2), **OPTIONS)
    assert manifest(folder)["note"] == "untouched"
