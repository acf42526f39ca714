"""Speed of a training step of the second stage against the published implementation, measured in one run.

    python benchmarks/second_stage.py                  # CPU, one thread; about half an hour, 20 GB of memory
    python benchmarks/second_stage.py --device cuda
    python benchmarks/second_stage.py --quick          # small sizes, few rounds, no file

Both sides get the same weights and batches, and must agree in loss and gradients before anything is timed. Prints a
table and writes benchmarks/results/second_stage_<device>.json. See benchmarks/README.md for what is measured how.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import matched  # noqa: E402
from measure import Timing, add_options, circumstances, compare, format_table, interleaved, start, write_json  # noqa: E402
from peer import PACKAGE, VERSION, Peer, installed  # noqa: E402

from taming.cli import run_command  # noqa: E402
from taming.models.cond_transformer import Net2NetTransformer  # noqa: E402

NET2NET = "taming.models.cond_transformer.Net2NetTransformer"
N_CODES = 1024
FACTOR = 16
"""Pixels per token, along each side."""
TARGETS = {"training step": 1.05, "training step from cached codes": 1.35}
"""Least ratios on one CPU thread, at full size."""
TOLERANCE = 1e-4
"""Of the gradients, relative to their norm."""


@dataclass(frozen=True)
class Sizes:
    """Of the transformer, and of images and batch; `ch` is the width of both first stages."""

    n_layer: int = 24
    n_head: int = 16
    n_embd: int = 1024
    ch: int = 128
    image: int = 256
    batch: int = 4

    @property
    def tokens(self) -> int:
        """Of an image, and of its conditioning."""
        return (self.image // FACTOR) ** 2


QUICK = Sizes(n_layer=2, n_head=4, n_embd=64, ch=32, image=64, batch=2)


class OurNet2Net(matched.WithoutTrainer, Net2NetTransformer):
    """Ours."""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare training of the second stage with the published code.")
    add_options(parser, rounds=5)
    return parser


def net2net_config(sizes: Sizes) -> dict:
    """An image given its depth map, both by a VQGAN of factor 16: the published depth-to-image model at full size."""
    image_stage, depth_stage = (matched.f16(sizes.ch, adversarial=False, n_embed=N_CODES) for _ in range(2))
    depth_stage["ddconfig"] |= {"in_channels": 1, "out_ch": 1}
    depth_stage["sane_index_shape"] = True  # the peer cannot read flat indices of a conditioning stage
    gpt = {"vocab_size": N_CODES, "block_size": 2 * sizes.tokens}
    gpt |= {"n_layer": sizes.n_layer, "n_head": sizes.n_head, "n_embd": sizes.n_embd}
    return {
        "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": gpt},
        "first_stage_config": {"target": "taming.models.vqgan.VQModel", "params": image_stage},
        "cond_stage_config": {"target": "taming.models.vqgan.VQModel", "params": depth_stage},
        "cond_stage_key": "depth",
    }


def random_batch(sizes: Sizes, device: torch.device) -> dict[str, Tensor]:
    """Images (b, h, w, 3) and depth maps (b, h, w, 1) in [-1, 1]."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"image": 3, "depth": 1}
    batch = {
        key: torch.rand(sizes.batch, sizes.image, sizes.image, channels, generator=generator) * 2 - 1
        for key, channels in shapes.items()
    }
    return {key: value.to(device) for key, value in batch.items()}


def matched_pair(peer: Peer, sizes: Sizes, batch: Mapping[str, Tensor], device: torch.device):
    """Ours and the peer's model with the same weights, in training mode, each with its own optimizer."""
    config = net2net_config(sizes)
    torch.manual_seed(0)
    ours = OurNet2Net(**config).to(device)
    for stage, images in zip((ours.first_stage_model, ours.cond_stage_model), ours.get_xc(batch), strict=True):
        matched.spread_codebook(stage, images)
    theirs = peer.build(NET2NET, config, mixin=matched.WithoutTrainer).to(device)
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and all(key.endswith("attn.mask") for key in missing), (missing, unexpected)
    for model in (ours, theirs):
        model.train()
        model.stepped = [model.configure_optimizers()]
    return ours, theirs


def cached_batch(model: Net2NetTransformer, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The codes of a batch, as a token cache gives them."""
    x, c = model.get_xc(batch)
    return {"image_codes": model.encode_to_z(x)[1], "cond_codes": model.encode_to_c(c)[1]}


def check_agreement(ours: OurNet2Net, theirs: nn.Module, batch: Mapping, codes: Mapping) -> dict[str, float]:
    """Relative differences of loss and gradients, ours from images and from codes against the peer's from images.

    Raises AssertionError where codes differ, or gradients by more than TOLERANCE of their norm.
    """
    x, c = ours.get_xc(batch)
    for got, expected in zip(codes.values(), (theirs.encode_to_z(x)[1], theirs.encode_to_c(c)[1]), strict=True):
        assert torch.equal(got, expected), "the codes differ"
    loss = theirs.shared_step(batch, 0)
    loss.backward()
    errors = {"loss": loss.item(), "codes met": len(codes["image_codes"].unique())}
    for name, given in (("images", batch), ("cached codes", codes)):
        own = ours.shared_step(given, 0)
        own.backward()
        errors[f"loss from {name}"] = abs(own.item() - loss.item()) / loss.item()
        errors[f"gradients from {name}"] = gradient_error(ours.transformer, theirs.transformer)
        ours.zero_grad()
    theirs.zero_grad()
    worst = max(error for name, error in errors.items() if " from " in name)
    assert worst <= TOLERANCE, f"loss or gradients differ: {errors}"
    return errors


def gradient_error(ours: nn.Module, theirs: nn.Module) -> float:
    """Norm of the difference of all gradients over that of the peer's; one parameter at a time, to save memory."""
    expected = dict(theirs.named_parameters())
    difference = total = 0.0
    for name, parameter in ours.named_parameters():
        difference += float((parameter.grad - expected[name].grad).double().square().sum())
        total += float(expected[name].grad.double().square().sum())
    return math.sqrt(difference / total)


def training_step(model: matched.WithoutTrainer, batch: Mapping[str, Tensor]) -> None:
    """Forward, backward, AdamW."""
    (optimizer,) = model.stepped
    model.training_step(batch, 0).backward()
    optimizer.step()
    optimizer.zero_grad()


def time_steps(peer: Peer, sizes: Sizes, options: argparse.Namespace) -> tuple[list[Timing], dict[str, float]]:
    """Whole steps from images, and ours from codes, against the peer's from images."""
    batch = random_batch(sizes, options.device)
    ours, theirs = matched_pair(peer, sizes, batch, options.device)
    codes = cached_batch(ours, batch)
    checks = check_agreement(ours, theirs, batch, codes)
    works = {
        "peer": partial(training_step, theirs, batch),
        "training step": partial(training_step, ours, batch),
        "training step from cached codes": partial(training_step, ours, codes),
    }
    times = interleaved(works, options.rounds, options.device)
    peer_times = times.pop("peer")
    targets = {} if options.quick or options.device.type != "cpu" else TARGETS
    return [compare(name, peer_times, own, targets.get(name)) for name, own in times.items()], checks


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    start(options)
    sizes = QUICK if options.quick else Sizes()
    with installed(options.peer) as peer:
        record = circumstances(options.device, f"{PACKAGE} {VERSION}")
        timings, checks = time_steps(peer, sizes, options)
    print(format_table(timings, []))
    if not options.quick:
        path = options.results / f"second_stage_{options.device.type}.json"
        write_json(path, record | {"sizes": asdict(sizes), "checks": checks, "timings": timings})
        print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(run_command(main))
