"""Captions as conditioning tokens; the vocabulary travels with the weights."""

import copy

import pytest
import torch

from taming.checkpoint import load_weights
from taming.modules.misc.captions import CaptionStage
from taming.vocabulary import END, PAD, Vocabulary, text_bytes

TEXTS = ["a meadow with two trees", "a heath with a car and two houses"] * 4


def as_bytes(*texts):
    return torch.from_numpy(text_bytes(texts))


@pytest.fixture
def path(tmp_path):
    Vocabulary.train(TEXTS, 290).write(tmp_path / "vocabulary.txt")
    return str(tmp_path / "vocabulary.txt")


def test_tokens_end_and_are_filled_up(path):
    stage = CaptionStage(8, 300, path)
    tokens, loss, info = stage.encode(as_bytes("a meadow", "", "two trees with two cars and two houses"))
    assert tokens.shape == (3, 8) and tokens.dtype == torch.int64 and loss is None and info[2] is tokens
    first = stage.vocabulary.encode("a meadow")
    assert tokens[0].tolist() == [*first, END, *[PAD] * (7 - len(first))]
    assert tokens[1].tolist() == [END] + [PAD] * 7
    assert tokens[2, -1] == END and PAD not in tokens[2]
    assert stage.captions_of(tokens)[:2] == ["a meadow", ""]
    assert stage.n_tokens("a meadow") == len(first) + 1 and stage.n_tokens("zebra " * 20) > 8


def test_the_vocabulary_is_in_the_weights(path):
    trained, other = CaptionStage(8, 300, path), CaptionStage(8, 300, "gone.txt")
    with pytest.raises(ValueError, match=r"gone\.txt: no such vocabulary of captions; make one with"):
        other.encode(as_bytes("a meadow"))
    load_weights(other, trained.state_dict(), strict=True)
    c = as_bytes(*TEXTS[:2])
    assert torch.equal(other.encode(c)[0], trained.encode(c)[0])


def test_weights_win_over_the_file(path, tmp_path):
    trained = CaptionStage(8, 300, path)
    Vocabulary.train(["zebras zoom"] * 9, 270).write(tmp_path / "other.txt")
    other = CaptionStage(8, 300, str(tmp_path / "other.txt"))
    c = as_bytes("a meadow")
    before = other.encode(c)[0]
    other.load_state_dict(trained.state_dict())
    assert not torch.equal(before, other.encode(c)[0]) and torch.equal(trained.encode(c)[0], other.encode(c)[0])
    assert torch.equal(copy.deepcopy(other).half().encode(c)[0], trained.encode(c)[0])


def test_without_memory(path):
    with torch.device("meta"):
        assert CaptionStage(8, 300, path).merges.is_meta


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 300), "length=1: a caption needs a token and its end"),
        ((8, 258), "258 tokens has no room"),
        ((8, 260), r"has \d+ tokens; raise vocab_size=260"),
    ],
)
def test_sizes_that_leave_no_room(path, arguments, message):
    with pytest.raises(ValueError, match=message):
        CaptionStage(*arguments, path)


@pytest.mark.parametrize("c", [torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_other_conditioning_is_refused(path, c):
    with pytest.raises(ValueError, match="set cond_stage_key to caption_bytes"):
        CaptionStage(8, 300, path).encode(c)
