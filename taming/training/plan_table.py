"""The plan that a training run prints before its first batch: what it does, where, for how long, at what cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taming.training.model_size import Memory, Part, in_bytes, in_millions


@dataclass(frozen=True)
class Length:
    """How long a run is, in optimizer steps.

    start: those that a resumed run has behind it. steps: those at its end, None if only time or a stop by hand ends
    it. per_epoch: None for data of unknown length.
    """

    start: int
    steps: int | None
    per_epoch: int | None

    def __str__(self) -> str:
        if self.steps is None:
            text = "steps without end"
        elif self.per_epoch:
            text = f"{self.steps:,} steps = {self.steps / self.per_epoch:.4g} epochs of {self.per_epoch:,}"
        else:
            text = f"{self.steps:,} steps"
        return f"{text}, from step {self.start:,} on" if self.start else text


@dataclass(frozen=True)
class TrainingReport:
    """What a run is about to do; `str` of it is a table of two columns.

    devices, schedules, optimizers, early_stopping, checkpoints: as they are shown. examples: split -> number, None if
    unknown. batch: examples per device, devices, batches per step. disc_start: the step from which on a discriminator
    is used, "auto", or None without one.
    """

    logdir: Path
    devices: str
    examples: Mapping[str, int | None]
    batch: tuple[int, int, int]
    learning_rate: str
    schedules: tuple[str, ...]
    optimizers: tuple[str, ...]
    length: Length
    limits: tuple[str, ...]
    disc_start: int | str | None
    parts: tuple[Part, ...]
    memory: Memory
    checkpoints: str

    @property
    def disc_starts_too_late(self) -> bool:
        end = self.length.steps
        return isinstance(self.disc_start, int) and end is not None and self.disc_start >= end

    def rows(self) -> dict[str, str]:
        """Label -> text; what a run does not have is left out."""
        sizes = [(part.name, part.trained, part.frozen) for part in self.parts]
        rows = {
            "run folder": str(self.logdir),
            "devices": self.devices,
            "examples": ", ".join(f"{_number(size)} for {split}" for split, size in self.examples.items()),
            "batch": _batch(*self.batch),
            "learning rate": self.learning_rate,
            "schedule": "; ".join(self.schedules),
            "optimizers": "; ".join(self.optimizers),
            "length": ", ".join([str(self.length), *self.limits]),
            "discriminator": self._discriminator(),
            "trained": ", ".join(f"{name} {in_millions(trained)}" for name, trained, _ in sizes if trained),
            "no gradients": ", ".join(f"{name} {in_millions(frozen)}" for name, _, frozen in sizes if frozen),
            "memory": _memory(self.memory),
            "checkpoints": self.checkpoints,
        }
        return {label: text for label, text in rows.items() if text}

    def _discriminator(self) -> str:
        if self.disc_start is None:
            return ""
        if self.disc_start == "auto":
            return "from when validation reconstruction has settled (disc_start: auto)"
        text = f"from step {self.disc_start:,} (disc_start)"
        if self.disc_starts_too_late:
            return f"{text}, after the end"
        return f"{text}, {self.disc_start / self.length.steps:.0%} of the run" if self.length.steps else text

    def __str__(self) -> str:
        rows = self.rows()
        width = max(map(len, rows))
        return "\n".join(f"  {label:<{width}}  {text}" for label, text in rows.items())


def _number(size: int | None) -> str:
    return "an unknown number" if size is None else f"{size:,}"


def _batch(per_device: int, devices: int, accumulate: int) -> str:
    text = f"{per_device} per device"
    if devices > 1:
        text += f" * {devices} devices"
    if accumulate > 1:
        text += f" * {accumulate} accumulated"
    return f"{text} = {per_device * devices * accumulate} per step" if devices * accumulate > 1 else text


def _memory(memory: Memory) -> str:
    parts = {"weights": memory.weights, "gradients": memory.gradients, "average": memory.average}
    shown = [f"{name} {in_bytes(size)}" for name, size in parts.items() if size]
    state = "unknown" if memory.optimizer_state is None else in_bytes(memory.optimizer_state)
    shown.insert(2, f"optimizer state {state}")
    return f"{' + '.join(shown)} = {in_bytes(memory.total)} per process, without activations"
