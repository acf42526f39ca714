"""Pictures of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from taming.files import atomic_path

Curve = tuple[list[int], list[float]]


def read_curves(logdir: Path, tags: Sequence[str]) -> dict[str, Curve]:
    """Steps and values of the scalars that a run logged for TensorBoard, over all its resumed parts."""
    curves: dict[str, Curve] = {tag: ([], []) for tag in tags}
    for folder in sorted(Path(logdir).glob("tensorboard/version_*"), key=lambda path: int(path.name.split("_")[1])):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        for tag in set(tags) & set(events.Tags()["scalars"]):
            scalars = events.Scalars(tag)
            curves[tag][0].extend(scalar.step for scalar in scalars)
            curves[tag][1].extend(scalar.value for scalar in scalars)
    return {tag: curve for tag, curve in curves.items() if curve[0]}


def save_loss_curves(path: Path, panels: Mapping[str, Mapping[str, Curve]]) -> None:
    """One panel per title, one line per label, as a PNG."""
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for label, (steps, values) in curves.items():
            axes.plot(steps, values, label=label, marker="o" if len(steps) < 30 else None, markersize=3)
        axes.set(title=title, xlabel="training step", ylabel="loss")
        axes.grid(alpha=0.3)
        if curves:
            axes.legend()
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
