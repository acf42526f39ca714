"""Sentences that say what a scene shows."""

from collections import Counter
from dataclasses import replace

from taming.data.rendering.scene import Scene

NUMBERS = ("no", "a", "two", "three", "four", "five", "six")
PLURALS = {"person": "people", "sheep": "sheep", "man": "men", "woman": "women", "couch": "couches", "bush": "bushes"}


def caption(scene: Scene, place: str) -> Scene:
    """The scene with its caption: the place and, in the order of their numbers, the objects in it."""
    counts = Counter()
    for number in sorted(scene.objects):
        instance = scene.instances[number]
        counts[f"flock of {_plural(instance.kind)}" if instance.group else instance.kind] += 1
    listed = [_counted(kind, count) for kind, count in counts.items()]
    return replace(scene, caption=f"{_article(place)} {place}" + (f" with {_joined(listed)}" if listed else ""))


def _counted(kind: str, count: int) -> str:
    if count == 1:
        return f"{_article(kind)} {kind}"
    return f"{NUMBERS[count] if count < len(NUMBERS) else 'many'} {_plural(kind)}"


def _plural(kind: str) -> str:
    return PLURALS.get(kind, f"{kind}s")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
