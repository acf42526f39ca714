"""Lists of classes as people type them."""

import pytest

from taming.sampling.classes import parse_classes


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("3", (3,)),
        ("3,1,", (3, 1)),
        ("5-9,0", (5, 6, 7, 8, 9, 0)),
        ("1, 0-2", (1, 0, 2)),
        ([4, 2], (4, 2)),
        ("imagenet", tuple(range(10))),
        ("all", tuple(range(10))),
        (None, tuple(range(10))),
    ],
)
def test_classes(text, labels):
    assert parse_classes(text, 10) == labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "classes: 10 is out of range, the labels of this model go from 0 to 9"),
        ("8-12", "8-12 is out of range"),
        ("7-5", "7-5 is out of range"),
        ([3, -1], "'-1' is neither a label from 0 to 9"),
        ("cat", "'cat' is neither a label from 0 to 9, nor a range such as 5-9, nor all"),
        ("1,,2", "'' is neither"),
        ([], "the list is empty"),
    ],
)
def test_classes_that_the_model_does_not_know(text, message):
    with pytest.raises(ValueError, match=message):
        parse_classes(text, 10)
