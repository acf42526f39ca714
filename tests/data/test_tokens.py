"""Pre-computed codes: as files, as a data set, and in the place of images in a second stage."""

import json
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_codes import Pictures, batch, build
from tiny_configs import first_stage

from taming.data.seeded import SeededViews
from taming.data.token_files import TokenCache, TokenMetadata, read_metadata, write_metadata
from taming.data.tokens import CachedTokens
from taming.extraction import plan_extraction, run_extraction
from taming.models.cached_batches import cached_codes, cached_examples, tokenizer_hash

COORD = {
    "cond_stage_key": "coord",
    "cond_stage_config": {"target": "taming.modules.misc.coord.CoordStage", "params": {"n_embed": 8, "down_factor": 2}},
}
LAYOUT = {
    "cond_stage_key": "objects_bbox",
    "cond_stage_config": {
        "target": "taming.models.dummy_cond_stage.DummyCondStage",
        "params": {"conditional_key": "objects_bbox"},
    },
}
CONDITIONINGS = {
    "class": {},
    "unconditional": {"cond_stage_config": "__is_unconditional__", "sos_token": 5},
    "coordinates": COORD,
    "layout": LAYOUT,
    "first stage": {"cond_stage_key": "other", "cond_stage_config": "__is_first_stage__"},
    "smaller": {
        "cond_stage_key": "other",
        "cond_stage_config": first_stage(resolution=8, n_embed=8),
        "downsample_cond_size": 4,
    },
}


def extract(model, folder, dataset=None, **options):
    dataset = Pictures(augment=True) if dataset is None else dataset
    options = {"views": 2, "shard_size": 3, "batch_size": 4, "command": "the command", **options}
    run_extraction(plan_extraction(model, dataset, folder, **options), progress=False)
    return folder


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """Seven examples in two views, three to a shard."""
    return extract(build(), tmp_path_factory.mktemp("codes") / "train")


def test_items(extracted):
    dataset = CachedTokens(extracted, view=1)
    item = dataset[6]
    assert len(dataset) == 7 and len(list(dataset)) == 7
    assert {key: (value.dtype, value.shape) for key, value in item.items() if key.endswith("codes")} == {
        "image_codes": (torch.int64, (16,)),
        "cond_codes": (torch.int64, (1,)),
    }
    assert (item["index"], item["token_cache"], item["cond_codes"].item()) == (6, str(extracted), 0)


def test_codes_are_those_of_each_view_in_row_major_order(extracted):
    model = build()
    views = SeededViews(Pictures(augment=True), seed=0)
    stored = []
    for view in (0, 1):
        x, _ = model.get_xc(batch({index: views[index, view] for index in range(7)}, range(7)))
        _, _, info = model.first_stage_model.encode(x)
        stored.append(batch(CachedTokens(extracted, view=view), range(7))["image_codes"])
        assert torch.equal(stored[view], info[2].view(7, 16))
    assert (stored[0] != stored[1]).any(dim=1).all() and stored[0].unique().numel() > 2


def test_a_random_view_follows_the_worker_seed(extracted):
    dataset = CachedTokens(extracted)
    choices = [CachedTokens(extracted, view=view)[0]["image_codes"] for view in (0, 1)]

    def draws(seed):
        random.seed(seed)
        items = [dataset[0]["image_codes"] for _ in range(12)]
        return [next(view for view in (0, 1) if torch.equal(item, choices[view])) for item in items]

    assert draws(1) == draws(1) and set(draws(1)) == {0, 1} and draws(1) != draws(2)


@pytest.mark.parametrize("view", [2, -1, True, "first", None])
def test_views_that_are_not_there(extracted, view):
    with pytest.raises(ValueError, match=r"view is .*expected random or a number below 2"):
        CachedTokens(extracted, view=view)


def test_it_reaches_other_processes_without_its_content(extracted):
    dataset = CachedTokens(extracted, view=0)
    expected = dataset[3]["image_codes"]
    content = pickle.dumps(dataset)
    assert len(content) < 4000 and torch.equal(pickle.loads(content)[3]["image_codes"], expected)
    with pytest.raises(IndexError):
        dataset[7]


def metadata(**changes):
    shapes = {"image_tokens": 4, "latent_shape": [3, 2, 2], "cond_tokens": 1, "cond_shape": [1]}
    numbers = {"examples": 3, "views": 1, "shard_size": 2, "seed": 0, "vocabulary": 8}
    texts = {"split": "train", "precision": "32", "tokenizer": "0", "command": "the command"}
    return TokenMetadata(**{**shapes, **numbers, **texts, "data": {}, "model": {}, "versions": {}, **changes})


@given(st.integers(1, 2**32))
def test_codes_are_stored_in_the_smallest_type_that_holds_them(vocabulary):
    dtype = metadata(vocabulary=vocabulary).dtype
    assert dtype.kind == "u" and np.iinfo(dtype).max >= vocabulary - 1
    assert dtype.itemsize == 1 or np.iinfo(f"u{dtype.itemsize // 2}").max < vocabulary - 1


@given(st.integers(1, 50), st.integers(1, 20))
def test_every_example_is_in_one_shard(examples, shard_size):
    facts = metadata(examples=examples, shard_size=shard_size)
    assert [i for shard in range(facts.n_shards) for i in facts.examples_of(shard)] == list(range(examples))


def test_metadata_survive_the_file(tmp_path):
    write_metadata(tmp_path / "new", metadata())
    assert read_metadata(tmp_path / "new") == metadata()


@pytest.mark.parametrize(
    ("content", "part"),
    [("{", "tokens.json: not the metadata of codes"), ("[]", "not the metadata"), ('{"format": 9}', "format 9")],
)
def test_other_metadata(tmp_path, content, part):
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(ValueError, match=part) as caught:
        CachedTokens(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_metadata(extracted, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pre-computed codes here.*extract_codes\.py"):
        CachedTokens(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"did you mean {extracted}\?"):
        CachedTokens(extracted.parent)


def test_missing_shards_are_named_with_the_command_to_go_on(tmp_path):
    folder = extract(build(), tmp_path)
    for name in ("00000.cond.npy", "00002.image.npy"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"2 of 3 shards are missing \(00000, 00002\).*with: the command"):
        CachedTokens(folder)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path):
    path.write_bytes(b"")


def of_other_shape(path):
    np.save(path, np.load(path)[:, :, :-1])


@pytest.mark.parametrize("damage", [truncated, emptied, of_other_shape])
def test_damaged_shards_are_found_and_written_again(tmp_path, damage):
    folder = extract(build(), tmp_path)
    path = folder / "00001.image.npy"
    before = path.read_bytes()
    damage(path)
    with pytest.raises(ValueError, match=r"00001\.image\.npy: damaged .*again with: the command") as caught:
        CachedTokens(folder)
    assert "\n" not in str(caught.value)
    extract(build(), folder)
    assert path.read_bytes() == before


@pytest.mark.parametrize("params", CONDITIONINGS.values(), ids=CONDITIONINGS)
@pytest.mark.parametrize("training", [False, True], ids=["validation", "training"])
def test_the_loss_is_that_of_the_images_bit_for_bit(tmp_path, monkeypatch, params, training):
    model, dataset = build(**params), Pictures()
    images, codes = batch(dataset), batch(CachedTokens(extract(model, tmp_path, dataset)))
    model.train(training)
    torch.manual_seed(1)
    expected = model.shared_step(images, 0)
    for stage in {model.first_stage_model, model.cond_stage_model}:
        monkeypatch.setattr(stage, "encode", None, raising=False)
    torch.manual_seed(1)
    assert model.shared_step(codes, 0) == expected
    model.first_stage_model.encoder = None  # checked before: from now on nobody asks for the weights
    model.shared_step(codes, 0).backward()
    assert model.transformer.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("params", CONDITIONINGS.values(), ids=CONDITIONINGS)
def test_codes_can_be_shown(tmp_path, params):
    model, dataset = build(**params), Pictures()
    images, codes = batch(dataset), batch(CachedTokens(extract(model, tmp_path, dataset)))
    shown, expected = (model.log_images(b) for b in (codes, images))
    assert shown.keys() == expected.keys() - {"conditioning"}
    for key in shown.keys() - {"inputs", "samples_half", "samples_nopix"}:
        torch.testing.assert_close(shown[key], expected[key], rtol=1e-3, atol=1e-4)
    assert torch.equal(shown["inputs"], shown["reconstructions"])


def test_the_first_examples_only(extracted):
    codes = batch(CachedTokens(extracted, view=0), range(7))
    examples = cached_examples(build(), codes, n=3)
    assert [len(examples.z_indices), len(examples.c_indices), examples.zshape] == [3, 3, (3, 4, 4, 4)]


def changed(model, name):
    """The model with one number of its weights changed."""
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] += 1
    return model


@pytest.mark.parametrize("part", ["encoder.conv_in.weight", "quantize.embedding.weight", "quant_conv.bias"])
def test_another_tokenizer_is_refused(extracted, part):
    model = changed(build(), f"first_stage_model.{part}")
    hashes = [tokenizer_hash(build())[:12], tokenizer_hash(model)[:12]]
    with pytest.raises(ValueError, match=rf"{hashes[0]}, but this model has {hashes[1]}.*--views 2") as caught:
        model.shared_step(batch(CachedTokens(extracted)), 0)
    assert "python scripts/extract_codes.py" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [{"sos_token": 3}, {"sos_token": 5, "first_stage_key": "other"}])
def test_another_start_token_or_picture_is_another_tokenizer(other):
    unconditional = CONDITIONINGS["unconditional"]
    assert tokenizer_hash(build(**unconditional)) != tokenizer_hash(build(**(unconditional | other)))


def test_what_no_code_depends_on_is_not_in_the_hash():
    model = build()
    expected = tokenizer_hash(model)
    assert tokenizer_hash(changed(model, "transformer.head.weight").train()) == expected
    model.first_stage_model.loss = torch.nn.Linear(2, 2)
    model.first_stage_model.to(memory_format=torch.channels_last)
    assert tokenizer_hash(model) == expected


def test_weights_in_half_precision_are_not_compared(extracted, caplog):
    cached_codes(build().bfloat16(), batch(CachedTokens(extracted)))
    assert "half precision" in caplog.text


@pytest.mark.parametrize(
    ("params", "parts"),
    [
        ({"vocab_size": 4}, ["vocabulary of 8", "vocab_size 4"]),
        ({"block_size": 15}, ["1 conditioning and 16 image tokens (4 x 4 latents)", "block_size 15"]),
        ({"H": 2}, ["16 image tokens", "the permuter orders 8"]),
    ],
)
def test_a_transformer_of_another_size_is_refused(extracted, params, parts):
    model = build()
    for name, value in params.items():
        if name == "H":
            model.permuter = type(model.permuter)(H=value, W=4)
        else:
            holder = model.transformer.config if name == "vocab_size" else model.transformer
            setattr(holder, name, value)
    with pytest.raises(ValueError) as caught:
        model.shared_step(batch(CachedTokens(extracted)), 0)
    message = str(caught.value)
    assert message.startswith(str(extracted)) and all(part in message for part in parts) and "\n" not in message


def test_codes_of_ones_own_need_no_folder():
    model = build()
    codes = {"image_codes": torch.randint(8, (2, 16)), "cond_codes": torch.tensor([[0], [2]])}
    assert torch.isfinite(model.shared_step(codes, 0))


def test_random_numbers_of_a_view_are_its_own():
    views = SeededViews(Pictures(augment=True), seed=3)
    random.seed(0)
    state = random.getstate(), torch.get_rng_state()
    first = views[2, 1]["image"]
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
    random.random(), np.random.rand(), torch.rand(1)
    assert torch.equal(views[2, 1]["image"], first)
    others = [views[2, 0], views[1, 1], SeededViews(views.dataset, seed=4)[2, 1]]
    assert not any(torch.equal(other["image"], first) for other in others)


class OfAllSizes(Pictures):
    def __getitem__(self, index):
        item = super().__getitem__(index)
        return item | {"image": item["image"].repeat(1 + index // 4, 1, 1)}


def test_pictures_of_different_sizes_are_refused(tmp_path):
    model = build(permuter_config=None)
    with pytest.raises(ValueError, match=r"data\.params\.train: latents .*\[4, 8, 4\].*\[4, 4, 4\].*one size"):
        extract(model, tmp_path, OfAllSizes(), views=1, shard_size=4)
    assert (tmp_path / "00000.image.npy").exists() and not (tmp_path / "00001.image.npy").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"views": 3}, "views=2, not 3"),
        ({"seed": 1}, "seed=0, not 1"),
        ({"shard_size": 2}, "shard_size=3, not 2"),
        ({"precision": "bf16"}, "precision=32, not bf16"),
        ({"data": {"a": 1}}, "data={}, not {'a': 1}"),
        ({"dataset": Pictures(4)}, "examples=7, not 4"),
    ],
)
def test_a_folder_of_another_job_is_left_alone(extracted, options, part):
    before = {path.name: path.read_bytes() for path in extracted.iterdir()}
    with pytest.raises(ValueError, match="keep that, or extract to another folder") as caught:
        extract(build(), extracted, **options)
    assert part in str(caught.value)
    assert {path.name: path.read_bytes() for path in extracted.iterdir()} == before


def test_a_folder_of_another_tokenizer_or_of_nobody(extracted, tmp_path):
    with pytest.raises(ValueError, match=r"made with tokenizer=[0-9a-f]{12}, not [0-9a-f]{12}; keep"):
        extract(build(seed=1), extracted)
    folder = extract(build(), tmp_path)
    (folder / "tokens.json").unlink()
    with pytest.raises(ValueError, match=r"shards without tokens\.json"):
        extract(build(), folder)


@pytest.mark.parametrize("name", ["views", "shard_size", "batch_size"])
def test_numbers_out_of_range(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be positive, not 0"):
        extract(build(), tmp_path, **{name: 0})


def test_metadata_say_what_made_the_codes(extracted):
    facts = read_metadata(extracted)
    assert (facts.latent_shape, facts.cond_shape, facts.views, facts.n_shards) == ([4, 4, 4], [1], 2, 3)
    assert facts.versions["torch"] == torch.__version__ and facts.tokenizer == tokenizer_hash(build())
    assert json.loads((extracted / "tokens.json").read_text())["vocabulary"] == 8
    assert replace(facts, vocabulary=257).dtype == np.uint16 and TokenCache(extracted).metadata == facts
