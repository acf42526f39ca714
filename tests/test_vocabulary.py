"""Text to tokens and back, whatever the text, and the files that hold a vocabulary."""

import builtins

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taming.vocabulary import END, FIRST_BYTE, FIRST_MERGE, PAD, Vocabulary, bytes_text, normalized, text_bytes

TEXTS = ["a meadow with two trees", "a heath with a car and two houses", "a coast with two cars"] * 4
VOCABULARY = Vocabulary.train(TEXTS, 400)


@given(st.text(max_size=40))
def test_no_text_is_unknown(text):
    tokens = VOCABULARY.encode(text)
    assert all(FIRST_BYTE <= token < len(VOCABULARY) for token in tokens)
    assert VOCABULARY.decode([*tokens, END, PAD, PAD]) == normalized(text)


def test_frequent_words_are_one_token_and_rare_ones_several():
    words = {word: VOCABULARY.encode(word) for word in ("meadow", "with", "two", "zebra")}
    assert [len(tokens) for tokens in words.values()][:3] == [1, 1, 1] and len(words["zebra"]) > 2
    assert VOCABULARY.encode("meadow with two") == [*words["meadow"], *words["with"], *words["two"]]


def test_case_space_and_forms_of_letters_do_not_count():
    assert VOCABULARY.encode("  A\tMeadow \n") == VOCABULARY.encode("a meadow")
    assert VOCABULARY.encode("ﬁre caf\u0065\u0301") == VOCABULARY.encode("fire caf\u00e9")


def test_names_of_special_tokens_are_plain_text():
    assert not {PAD, END} & set(VOCABULARY.encode("<pad> <end> <|endoftext|>"))


def test_no_token_beyond_the_size():
    small = Vocabulary.train(TEXTS, FIRST_MERGE + 5)
    assert len(small) == FIRST_MERGE + 5 and small.merges == VOCABULARY.merges[:5]


def test_pairs_are_the_whole_vocabulary():
    again = Vocabulary.from_pairs(VOCABULARY.pairs())
    assert again.merges == VOCABULARY.merges and again.encode(TEXTS[1]) == VOCABULARY.encode(TEXTS[1])


def test_two_merges_that_make_the_same_token():
    vocabulary = Vocabulary([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"), ("Ġ", "abc")])
    assert vocabulary.pairs()[4][1] == FIRST_MERGE + 2
    assert vocabulary.encode("abc") == [FIRST_MERGE + 4]
    assert Vocabulary.from_pairs(vocabulary.pairs()).merges == vocabulary.merges


def test_file_round_trip(tmp_path):
    path = tmp_path / "new" / "vocabulary.txt"
    VOCABULARY.write(path)
    assert Vocabulary.read(path).merges == VOCABULARY.merges
    assert [file.name for file in path.parent.iterdir()] == ["vocabulary.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"#version: 0.2\na b c\n", r"v\.txt, line 2: expected two tokens of a merge, not 'a b c'"),
        (b"a b\nab cd\n", r"v\.txt: merge 2, ab cd, joins a token that no merge before it makes"),
        (b"\xff\xfe\n", r"v\.txt: not a text file in UTF-8"),
    ],
)
def test_files_that_are_no_vocabulary(tmp_path, content, message):
    (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Vocabulary.read(tmp_path / "v.txt")


def test_missing_file_and_useless_training():
    with pytest.raises(FileNotFoundError, match=r"not/there\.txt: no such vocabulary; make one with: python scripts"):
        Vocabulary.read("not/there.txt")
    with pytest.raises(ValueError, match="258 tokens has no room for words: use more than 258"):
        Vocabulary.train(TEXTS, FIRST_MERGE)
    with pytest.raises(ValueError, match="no two letters stand together twice"):
        Vocabulary.train([], 300)


def test_without_the_package(monkeypatch):
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "tokenizers":
            raise ImportError("no tokenizers")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ImportError, match=r"pip install 'taming-transformers\[text\]'"):
        Vocabulary([])


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
def test_texts_as_bytes(texts):
    table = text_bytes(texts)
    assert table.dtype == np.uint8 and [bytes_text(row) for row in table] == texts


def test_cut_texts_end_with_a_whole_character():
    table = text_bytes(["aé", "b\0\ud800"], 2)
    assert [bytes_text(row) for row in table] == ["a", "b "]
    assert text_bytes([]).shape == (0, 0)
