"""What a picture is to match: the syntax of prompts, and how far embeddings are from one."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Prompt:
    """A text, or the path of an image. It attracts, or with a negative weight repels, until the distance times the
    weight's sign has come down to `stop`.
    """

    content: str
    weight: float = 1.0
    stop: float = -float("inf")


def parse_prompts(text: str) -> list[list[Prompt]]:
    """`text[:weight[:stop]]`, several joined by `|`, phases of a story separated by `^` -> the prompts of each phase.

    Raises ValueError for a weight without a prompt.
    """
    phases = [[_parse(part) for part in phase.split("|") if part.strip()] for phase in text.split("^")]
    return [phase for phase in phases if phase]


def _parse(text: str) -> Prompt:
    content, numbers = text, []
    while len(numbers) < 2 and ":" in content:
        before, _, last = content.rpartition(":")
        if not NUMBER.fullmatch(last):
            break
        content, numbers = before, [float(last), *numbers]
    if not content.strip():
        raise ValueError(f"prompt {text.strip()!r}: there is no text before the weight; write text:weight:stop")
    return Prompt(content.strip(), *numbers)


def prompt_loss(embeddings: Tensor, target: Tensor, weight: float, stop: float) -> Tensor:
    """|w| mean(max(sign(w) d, stop)) of the squared great-circle distances d = 2 arcsin(|a - b| / 2)^2.

    embeddings (n, d) and target (m, d) are unit vectors; the mean is over all pairs.
    """
    chord = torch.linalg.vector_norm(embeddings[:, None] - target, dim=-1)  # (n, m)
    distance = 2 * (chord / 2).clamp(max=1).arcsin().square()
    sign = -1.0 if weight < 0 else 1.0
    return abs(weight) * (sign * distance).clamp(min=stop).mean()
