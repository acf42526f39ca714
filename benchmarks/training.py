"""Speed of training against the published implementation, option by option, and where a step's time goes.

    python benchmarks/training.py                  # CPU, one thread, small sizes; under ten minutes
    python benchmarks/training.py --device cuda    # published sizes, all options, with the targets
    python benchmarks/training.py --quick          # tiny, no file

Prints tables and writes benchmarks/results/training_<device>.json. See benchmarks/README.md for what is measured how.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import matched  # noqa: E402
import second_stage  # noqa: E402
from measure import Timing, add_options, circumstances, compare, format_table, interleaved, start, write_json  # noqa: E402
from peer import PACKAGE, VERSION, Peer, installed  # noqa: E402
from step_meter import StepMeter  # noqa: E402

from taming.cli import run_command  # noqa: E402
from taming.data.photos import PhotosTrain  # noqa: E402
from taming.models.cond_transformer import Net2NetTransformer  # noqa: E402
from taming.models.vqgan import VQModel  # noqa: E402
from taming.training.callbacks import FitProgressBar, LearningRateMonitor  # noqa: E402

OPTIONS = ("fused", "shared_forward", "channels_last", "bf16", "compile")
DEFAULTS = {"cpu": OPTIONS[:2], "cuda": OPTIONS}
"""On a CPU channels_last slows training down, bfloat16 is emulated, and compiling takes longer than it saves here."""
TARGETS = {"first stage": 4.0, "second stage": 3.0}
"""Least ratios on CUDA with all options, at the published sizes."""
PEAKS = {"A100": (312e12, 19.5e12), "H100": (989e12, 67e12), "H200": (989e12, 67e12), "L40S": (362e12, 91.6e12)}
"""Part of a device's name -> most operations per second in bfloat16 with dense products, and in float32."""


@dataclass(frozen=True)
class Sizes:
    """Of the first stage: width, pixels, batch; and those of the second."""

    ch: int
    image: int
    batch: int
    second: second_stage.Sizes


SIZES = {
    "quick": Sizes(32, 32, 2, second_stage.QUICK),
    "small": Sizes(64, 128, 2, second_stage.Sizes(n_layer=8, n_head=8, n_embd=512, ch=32, image=128, batch=4)),
    "published": Sizes(128, 256, 12, second_stage.Sizes(batch=16)),
}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare training with the published code, and say where time goes.")
    add_options(parser, rounds=3)
    add = parser.add_argument
    add("--sizes", choices=SIZES, help="default: published on CUDA, else small")
    add("--options", nargs="*", choices=OPTIONS, help="what is switched on, one after the other (default: by device)")
    add("--workers", type=int, default=0, help="processes that load data under the Trainer (default: %(default)s)")
    add("--steps", type=int, default=5, help="steps measured under the Trainer (default: %(default)s)")
    return parser


def settle(options: argparse.Namespace) -> Sizes:
    """The sizes; fills in what depends on the device. Raises ValueError for no steps."""
    start(options)
    if options.steps < 1:
        raise ValueError(f"--steps must be positive, not {options.steps}")
    kind = "cuda" if options.device.type == "cuda" else "cpu"
    if options.options is None:
        options.options = list(DEFAULTS[kind])
    return SIZES["quick" if options.quick else options.sizes or {"cuda": "published", "cpu": "small"}[kind]]


Work = Callable[[], object]


def with_options(model: nn.Module, chosen: Sequence[str], step: Callable[[nn.Module], object]) -> Work:
    """`step` of a copy of `model` that has optimizers of its own and the chosen options."""
    stepped, model.stepped = model.stepped, ()
    own = copy.deepcopy(model)
    model.stepped = stepped
    if "channels_last" in chosen and isinstance(own, VQModel):
        own.to(memory_format=torch.channels_last)
    if "compile" in chosen:
        compile_networks(own)
    optimizers = own.configure_optimizers()
    own.stepped = optimizers[0] if isinstance(optimizers, tuple) else [optimizers]
    for optimizer in own.stepped:
        for group in optimizer.param_groups:
            group["fused"] = "fused" in chosen
    own.shared_forward = "shared_forward" in chosen
    device = next(own.parameters()).device.type

    def work() -> None:
        with torch.autocast(device, torch.bfloat16, enabled="bf16" in chosen):
            step(own)

    return work


def compile_networks(model: nn.Module) -> None:
    if isinstance(model, VQModel):
        model.compile_networks = True
        model.on_fit_start()
    else:
        model.transformer.compile()


def ladder(peer_step: Work, model: nn.Module, step: Callable[[nn.Module], object], chosen: Sequence[str]) -> dict:
    """The peer's step, ours, and ours with one option more each time."""
    works = {"peer": peer_step, "ours": with_options(model, (), step)}
    for n, option in enumerate(chosen, start=1):
        works[f"+ {option}"] = with_options(model, chosen[:n], step)
    return works


def timings(stage: str, works: Mapping[str, Work], options: argparse.Namespace, sizes: Sizes) -> list[Timing]:
    """A row for each of our ways; the last has the target if all options are on at the published sizes on CUDA."""
    times = interleaved(works, options.rounds, options.device, warm_up=2)
    peer = times.pop("peer")
    judged = options.device.type == "cuda" and sizes is SIZES["published"] and set(options.options) == set(OPTIONS)
    last = list(times)[-1]
    return [
        compare(f"{stage}: {name}", peer, own, TARGETS[stage] if judged and name == last else None)
        for name, own in times.items()
    ]


def first_stage(peer: Peer, sizes: Sizes, options: argparse.Namespace) -> tuple[list[Timing], dict]:
    """The VQGAN step after disc_start, from images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(sizes.batch, sizes.image, sizes.image, 3, generator=generator) * 2 - 1
    batch = {"image": images.to(options.device)}
    config = matched.f16(sizes.ch, adversarial=True)
    ours, theirs = matched.matched_pair(peer, config, batch["image"].permute(0, 3, 1, 2))
    ours.global_step = theirs.global_step = matched.DISC_START
    checks = matched.check_training(ours, theirs, {"image": batch["image"][:2]})
    theirs.train()  # LPIPS included: as it is when Lightning trains it, with dropout

    def step(model: matched.OurVQModel) -> None:
        model.training_step(batch, 0)

    works = ladder(partial(matched.lightning_1_step, theirs, batch), ours, step, options.options)
    return timings("first stage", works, options, sizes), {"checks": checks, "flop": flop(with_options(ours, (), step))}


def second_stage_step(peer: Peer, sizes: Sizes, options: argparse.Namespace) -> tuple[list[Timing], dict]:
    """The transformer's step from cached codes, the peer's from images."""
    batch = second_stage.random_batch(sizes.second, options.device)
    ours, theirs = second_stage.matched_pair(peer, sizes.second, batch, options.device)
    codes = second_stage.cached_batch(ours, batch)
    checks = second_stage.check_agreement(ours, theirs, batch, codes)

    def step(model: second_stage.OurNet2Net) -> None:
        second_stage.training_step(model, codes)

    chosen = [option for option in options.options if option not in ("shared_forward", "channels_last")]
    works = ladder(partial(second_stage.training_step, theirs, batch), ours, step, chosen)
    return timings("second stage", works, options, sizes), {
        "checks": checks,
        "flop": flop(with_options(ours, (), step)),
    }


class FlopCount(TorchDispatchMode):
    """Counts operations of products and convolutions; torch's own counter cannot follow `torch.autograd.grad`."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def flop(work: Work) -> int:
    """Floating-point operations of products and convolutions in one step, backward passes included."""
    with FlopCount() as counter:
        work()
    return counter.total


def utilisation(flop: int, seconds: float, device: torch.device, chosen: Sequence[str]) -> float | None:
    """Share of the device's peak that the step's operations are; None where the peak is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peak = next((rates["bf16" not in chosen] for part, rates in PEAKS.items() if part in name), None)
    return flop / seconds / peak if peak else None


class Codes(Dataset):
    """Random items of a token cache."""

    def __init__(self, sizes: second_stage.Sizes, length: int) -> None:
        self.shape, self.length = (2, sizes.tokens), length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        codes = torch.randint(second_stage.N_CODES, self.shape, generator=generator)
        return dict(zip(("image_codes", "cond_codes"), codes, strict=True))


def under_trainer(model: pl.LightningModule, data: Dataset, batch: int, options: argparse.Namespace) -> dict:
    """Seconds of a step and its parts in a real Trainer, with the callbacks and the logger of a run but for images."""
    meter = StepMeter(warm_up=3, steps=options.steps)
    pinned = options.device.type == "cuda"
    loader = DataLoader(data, batch, shuffle=True, drop_last=True, num_workers=options.workers, pin_memory=pinned)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="gpu" if pinned else "cpu",
            devices=1,
            precision="bf16-mixed" if "bf16" in options.options else "32-true",
            max_steps=meter.total,
            max_epochs=-1,
            logger=TensorBoardLogger(folder),
            callbacks=[LearningRateMonitor("step"), FitProgressBar(), meter],
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(model, loader)
    return {
        "images per second": batch / meter.seconds,
        "seconds": meter.seconds,
        "data wait": meter.wait,
        "logging": meter.logging,
        "under the profiler": meter.profiled,
        "operations": dict(sorted(meter.operations.items(), key=lambda item: -item[1])),
    }


def build_for_trainer(sizes: Sizes, chosen: Sequence[str]) -> dict[str, tuple[pl.LightningModule, Dataset, int]]:
    """Models, data and batch sizes of both stages."""
    switches = {name: name in chosen for name in ("shared_forward", "channels_last", "compile")}
    vqgan = VQModel(**matched.f16(sizes.ch, adversarial=True), **switches)
    matched.fill_metric(vqgan.loss.perceptual_loss)
    net = Net2NetTransformer(**second_stage.net2net_config(sizes.second))
    if switches["compile"]:
        net.transformer.compile()
    for model in (vqgan, net):
        model.learning_rate = 4.5e-6
    codes = Codes(sizes.second, 64 * sizes.second.batch)
    return {
        "first stage": (vqgan, PhotosTrain(size=sizes.image), sizes.batch),
        "second stage": (net, codes, sizes.second.batch),
    }


def describe(stage: str, report: Mapping) -> str:
    """The report of `under_trainer` as lines: shares of a step, and operations' shares of one under the profiler."""
    total, profiled = report["seconds"], report["under the profiler"]
    parts = [(name, report[name], total) for name in ("data wait", "logging")]
    parts += [(name, seconds, profiled) for name, seconds in report["operations"].items()]
    lines = [f"  {name:<20}{seconds:>9.4f} s{seconds / whole:>7.1%}" for name, seconds, whole in parts]
    title = f"{stage} under the Trainer: {total:.3f} s a step, {report['images per second']:.2f} images/s"
    return "\n".join([title, *lines])


def speeds(stage: str, rows: Sequence[Timing], flop: int, batch: int, options: argparse.Namespace) -> dict:
    """What the rows mean in images per second, and model FLOP utilisation of the last one, printed."""
    share = utilisation(flop, rows[-1].ours, options.device, options.options)
    text = "not measured" if share is None else f"{share:.1%}"
    print(
        f"{stage}: {batch / rows[0].peer:.2f} images/s by the peer, {batch / rows[-1].ours:.2f} by ours, "
        f"{flop / 1e12:.3f} TFLOP a step, model FLOP utilisation {text}",
        flush=True,
    )
    return {"images per second": batch / rows[-1].ours, "model FLOP utilisation": share}


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    sizes = settle(options)
    parts = {"first stage": (first_stage, sizes.batch), "second stage": (second_stage_step, sizes.second.batch)}
    results = {}
    with installed(options.peer) as peer:
        record = circumstances(options.device, f"{PACKAGE} {VERSION}")
        for stage, (measure, batch) in parts.items():
            rows, facts = measure(peer, sizes, options)
            print(format_table(rows, []), flush=True)
            results[stage] = facts | {"timings": rows} | speeds(stage, rows, facts["flop"], batch, options)
    for stage, (model, data, batch) in build_for_trainer(sizes, options.options).items():
        results[stage]["under the Trainer"] = report = under_trainer(model, data, batch, options)
        print(describe(stage, report), flush=True)
    if not options.quick:
        path = options.results / f"training_{options.device.type}.json"
        write_json(path, record | {"sizes": asdict(sizes), "options": options.options} | results)
        print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(run_command(main))
