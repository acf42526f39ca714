"""Token caches of any shape, layouts of any tokens, and run folders of any content."""

import json
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taming.data.conditional_builder.objects_bbox import ObjectsBoundingBoxConditionalBuilder as BoxBuilder
from taming.data.conditional_builder.objects_center_points import ObjectsCenterPointsConditionalBuilder as PointBuilder
from taming.data.token_files import TokenCache, TokenMetadata, read_metadata, shard_path, write_metadata, write_shard
from taming.runs import CHECKPOINT_FOLDERS, resolve_run

bounded = settings(derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def metadata(draw):
    small = st.integers(1, 6)
    sizes = {name: draw(small) for name in ("examples", "views", "shard_size", "image_tokens", "cond_tokens")}
    words = {
        name: draw(st.text(string.printable[:-6] + "é\u4e2d", max_size=5))
        for name in ("split", "precision", "tokenizer", "command")
    }
    sections = {
        name: draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)) for name in ("data", "model")
    }
    shapes = {"latent_shape": [4, 2, 2], "cond_shape": [1], "versions": {}}
    vocabulary = draw(st.sampled_from([2, 256, 257, 65536, 65537]))
    return TokenMetadata(**sizes, **words, **sections, **shapes, seed=draw(st.integers()), vocabulary=vocabulary)


def written(folder, facts):
    """Random codes (examples, views, tokens) by kind, written in shards."""
    rng = np.random.default_rng(0)
    tokens = {"image": facts.image_tokens, "cond": facts.cond_tokens}
    codes = {kind: rng.integers(0, facts.vocabulary, (facts.examples, facts.views, n)) for kind, n in tokens.items()}
    for kind in codes:
        codes[kind].flat[:2] = facts.vocabulary - 1, 0
    write_metadata(folder, facts)
    for shard in range(facts.n_shards):
        part = {kind: array[facts.examples_of(shard)].reshape(-1, tokens[kind]) for kind, array in codes.items()}
        write_shard(folder, facts, shard, part)
    return codes


@bounded
@given(facts=metadata())
def test_token_caches_there_and_back(tmp_path_factory, facts):
    folder = tmp_path_factory.mktemp("codes")
    codes = written(folder, facts)
    assert read_metadata(folder) == facts
    cache = TokenCache(folder)
    assert len(cache) == facts.examples
    for kind, array in codes.items():
        got = [[cache.codes(i, view, kind) for view in range(facts.views)] for i in range(facts.examples)]
        assert np.array_equal(got, array)


@bounded
@given(facts=metadata(), place=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_damage_in_the_head_of_a_shard_is_found(tmp_path_factory, facts, place, byte, cut):
    folder = tmp_path_factory.mktemp("codes")
    codes = written(folder, facts)
    path = shard_path(folder, 0, "image")
    content = bytearray(path.read_bytes())
    head = len(content) - codes["image"][facts.examples_of(0)].size * facts.dtype.itemsize
    content[int(place * (head - 1))] = byte
    path.write_bytes(content[: int(place * len(content))] if cut else content)
    try:
        cache = TokenCache(folder)
        assert np.array_equal(cache.codes(0, 0, "image"), codes["image"][0, 0])  # it was padding, or the same byte
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@bounded
@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_other_metadata_is_one_line(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("codes")
    Path(folder, "tokens.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokens\.json: not the metadata") as caught:
        read_metadata(folder)
    assert "\n" not in str(caught.value)


@bounded
@given(
    st.sampled_from([BoxBuilder, PointBuilder]),
    st.integers(1, 9),
    st.integers(1, 5),
    st.tuples(*[st.booleans()] * 3),
    st.randoms(use_true_random=False),
)
def test_any_tokens_are_a_layout(kind, classes, objects, switches, random):
    """What a transformer draws need not be what a builder builds."""
    builder = kind(classes, objects, 16 * classes + 1 + random.randint(0, 200), *switches)
    tokens = [random.randrange(builder.no_tokens) for _ in range(builder.embedding_dim)]
    found, crop = builder.inverse_build(np.array(tokens))
    assert len(found) <= objects and (crop is None) == (not builder.encode_crop)
    for _, place in found:
        assert np.isfinite(place).all()


FILES = [f"{folder}/{name}.ckpt" for folder in CHECKPOINT_FOLDERS for name in ("last", "epoch=000003", "other")]
CONFIGS = [f"configs/{name}.yaml" for name in ("model", "now-project", "now-lightning")]
FOLDER = st.lists(st.text(string.ascii_letters + "logs .-", min_size=1, max_size=6).map(str.strip), max_size=3)


@bounded
@given(
    parents=FOLDER.map(lambda names: [name for name in names if name.strip(".")]),
    in_logs=st.booleans(),
    checkpoints=st.lists(st.sampled_from(FILES), unique=True),
    configs=st.lists(st.sampled_from(CONFIGS), unique=True),
)
def test_a_run_folder_and_a_checkpoint_in_it_are_the_same_run(tmp_path_factory, parents, in_logs, checkpoints, configs):
    folder = tmp_path_factory.mktemp("runs").joinpath(*(["logs"] if in_logs else []), *parents, "run")
    for name in (*checkpoints, *configs):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    folder.mkdir(parents=True, exist_ok=True)
    if not checkpoints:
        with pytest.raises(FileNotFoundError, match="no checkpoint"):
            resolve_run(folder)
        return
    run = resolve_run(folder)
    assert run.logdir == folder and run.name == "run" and run.checkpoint.is_file()
    lasts = [f"{place}/last.ckpt" for place in CHECKPOINT_FOLDERS if f"{place}/last.ckpt" in checkpoints]
    assert not lasts or run.checkpoint == folder / lasts[0]
    wanted = [name for name in configs if "project" in name] or [name for name in configs if "lightning" not in name]
    assert run.configs == sorted(folder / name for name in wanted)
    assert resolve_run(f"{folder}/").checkpoint == run.checkpoint
    if configs:
        assert {resolve_run(folder / name).logdir for name in checkpoints} == {folder}
