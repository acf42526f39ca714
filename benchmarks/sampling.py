"""Speed of token-by-token decoding against the published sampler and Hugging Face's `generate`, measured in one run.

    python benchmarks/sampling.py                     # CPU, one thread; the large model alone takes most of an hour
    python benchmarks/sampling.py --sizes small       # 12 layers, width 512 only; about fifteen minutes
    python benchmarks/sampling.py --device cuda       # the 1.4 B class-conditional shape in bfloat16
    python benchmarks/sampling.py --quick             # tiny, three rounds, no targets, no file

All sides get the same weights; greedy tokens must be equal before anything is timed. Prints a table and writes
benchmarks/results/sampling_<device>.json. See benchmarks/README.md for what is measured how.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from floor import Roof, measure_roof  # noqa: E402
from measure import Timing, add_options, circumstances, compare, format_table, interleaved, start, write_json  # noqa: E402
from peer import PACKAGE, VERSION, Peer, installed  # noqa: E402

from taming.cli import run_command  # noqa: E402
from taming.modules.transformer.mingpt import GPT  # noqa: E402
from taming.sampling.decode import Decoder  # noqa: E402

TOP_K = 250  # the default of sample_fast.py


@dataclass(frozen=True)
class Size:
    """A class-conditional model: one token of conditioning, then `tokens`.

    measures_growth: time the last steps against the first, which takes as long as a round.
    """

    n_layer: int
    n_head: int
    n_embd: int
    vocab_size: int
    batches: tuple[int, ...]
    tokens: int = 256
    measures_growth: bool = True

    @property
    def kwargs(self) -> dict[str, int]:
        names = ("n_layer", "n_head", "n_embd", "vocab_size")
        return {name: getattr(self, name) for name in names} | {"block_size": self.tokens}


SIZES = {
    "small": Size(12, 8, 512, 1024, (1, 8, 25)),
    "large": Size(24, 16, 1024, 16384, (8, 25), measures_growth=False),
    "1.4B": Size(48, 24, 1536, 16384, (1, 8, 64)),
    "quick": Size(2, 4, 64, 128, (1, 3), tokens=32),
}
TARGETS = {
    "small, batch 1, original": 1.6,
    "small, batch 8, original": 2.6,
    "small, batch 25, original": 3.3,
    "large, batch 8, original": 3.0,
    "large, batch 25, original": 3.0,
    "small, batch 1, Hugging Face": 1.2,
    "small, batch 25, Hugging Face": 3.0,
}
"""Least ratios on one CPU thread."""
GROWTH_LIMIT = 1.6
"""How much longer the last steps may take than the first, small model at batch 25."""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare decoding with the published sampler and Hugging Face's.")
    add_options(parser, rounds=3)
    add = parser.add_argument
    add("--sizes", nargs="+", choices=[*SIZES], help="models (default: small and large, on CUDA 1.4B)")
    add("--compile", action="store_true", help="our steps through torch.compile as well")
    return parser


def ignore(step: int) -> None:
    """A callback that does nothing."""


class Contestants:
    """One model in three implementations with the same weights. Each samples (b, tokens) from prefixes (b, 1)."""

    def __init__(self, size: Size, peer: Peer, device: torch.device, *, compile: bool) -> None:
        torch.manual_seed(0)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.size, self.device = size, device
        self.ours = GPT(**size.kwargs).eval()
        torch.nn.init.normal_(self.ours.pos_emb, std=0.02)
        for block in self.ours.blocks:  # as after training: without it all logits are alike
            torch.nn.init.normal_(block.mlp[2].weight, std=0.2)
        theirs = peer.get("taming.modules.transformer.mingpt.GPT")(**size.kwargs)
        theirs.load_state_dict(self.ours.state_dict(), strict=False)  # all but its masks
        self.theirs = theirs.to(device, dtype).eval()
        self.hugging_face = hugging_face_model(self.ours).to(device, dtype).eval()
        self.ours.to(device, dtype)
        self.decoder = Decoder(self.ours, compile=compile)
        self.published_sampler = peer.get("taming.modules.transformer.mingpt.sample_with_past")

    def decode(self, prefix: torch.Tensor, *, greedy: bool = False, callback=ignore) -> torch.Tensor:
        tokens = self.size.tokens
        uniforms = None if greedy else torch.rand(len(prefix), tokens, dtype=torch.float64)
        return self.decoder(prefix, tokens, uniforms=uniforms, sample=not greedy, top_k=TOP_K, callback=callback)

    def published(self, prefix: torch.Tensor, *, greedy: bool = False, callback=ignore) -> torch.Tensor:
        options = {"sample_logits": not greedy, "top_k": TOP_K, "top_p": 1.0, "callback": callback}
        return self.published_sampler(prefix, self.theirs, self.size.tokens, **options)

    def generate(self, prefix: torch.Tensor, *, greedy: bool = False) -> torch.Tensor:
        how = {"do_sample": False} if greedy else {"do_sample": True, "top_k": TOP_K}
        how |= {"attention_mask": torch.ones_like(prefix), "min_new_tokens": self.size.tokens}
        out = self.hugging_face.generate(prefix, max_new_tokens=self.size.tokens, **how)
        return out[:, prefix.shape[1] :]

    def prefix(self, batch_size: int) -> torch.Tensor:
        return torch.arange(batch_size, device=self.device)[:, None]

    def check(self) -> dict[str, str]:
        """Greedy tokens of all three must be the same; in bfloat16 they need not, so float32 is what is checked."""
        if self.device.type == "cuda":
            return {}
        prefix = self.prefix(2)
        tokens = self.decode(prefix, greedy=True)
        for other in (self.published, self.generate):
            assert torch.equal(tokens, other(prefix, greedy=True)), f"the tokens of {other.__name__} differ"
        return {"greedy tokens": "the same", "different tokens": str(tokens.unique().numel())}


def hugging_face_model(gpt: GPT) -> torch.nn.Module:
    """GPT-2 of `transformers` with the weights of ours (its linear layers hold them transposed)."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        raise ValueError("transformers is not installed: pip install -e '.[benchmarks]'") from error
    config = gpt.config
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.block_size + 1,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            activation_function="gelu",
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    weights = {"transformer.wte.weight": gpt.tok_emb.weight, "lm_head.weight": gpt.head.weight}
    weights["transformer.wpe.weight"] = torch.cat((gpt.pos_emb[0], torch.zeros(1, config.n_embd)))
    weights |= {f"transformer.ln_f.{name}": value for name, value in gpt.ln_f.named_parameters()}
    for i, block in enumerate(gpt.blocks):
        attn, to = block.attn, f"transformer.h.{i}"
        for name in ("weight", "bias"):
            fused = torch.cat([getattr(linear, name) for linear in (attn.query, attn.key, attn.value)])
            weights[f"{to}.attn.c_attn.{name}"] = fused.t()
            weights[f"{to}.attn.c_proj.{name}"] = getattr(attn.proj, name).t()
            weights[f"{to}.mlp.c_fc.{name}"] = getattr(block.mlp[0], name).t()
            weights[f"{to}.mlp.c_proj.{name}"] = getattr(block.mlp[2], name).t()
            weights |= {f"{to}.ln_{k}.{name}": getattr(getattr(block, f"ln{k}"), name) for k in (1, 2)}
    model.load_state_dict(weights)
    return model


def time_size(name: str, size: Size, peer: Peer, roof: Roof, options: argparse.Namespace) -> tuple[list[Timing], dict]:
    """Rows against both peers for every batch size, and what else is to be recorded."""
    sides = Contestants(size, peer, options.device, compile=options.compile)
    record = {"checks": sides.check(), "floor": {}}
    timings = []
    for batch_size in size.batches:
        prefix = sides.prefix(batch_size)
        works = {side.__name__: partial(side, prefix) for side in (sides.published, sides.generate, sides.decode)}
        times = interleaved(works, options.rounds, options.device, warm_up=int(options.device.type == "cuda"))
        label = f"{name}, batch {batch_size}"
        for other, peer_name in (("published", "original"), ("generate", "Hugging Face")):
            row = f"{label}, {peer_name}"
            target = TARGETS.get(row) if options.device.type == "cpu" else None
            timings.append(compare(row, times[other], times["decode"], target))
        ours = statistics.median(times["decode"])
        record["floor"][label] = describe_speed(size, batch_size, ours, roof, next(sides.ours.parameters()).dtype)
        print(format_table(timings[-2:], []), f"\n  {record['floor'][label]}", flush=True)
    if size.measures_growth:
        record["growth"] = growth(sides, max(size.batches))
        print(
            f"last steps over first at batch {max(size.batches)}: {record['growth']} (aim {GROWTH_LIMIT})", flush=True
        )
    return timings, record


def describe_speed(size: Size, batch_size: int, seconds: float, roof: Roof, dtype: torch.dtype) -> dict[str, float]:
    sizes = {"n_layer": size.n_layer, "n_embd": size.n_embd, "vocab_size": size.vocab_size}
    floor = roof.decoding_seconds(**sizes, batch_size=batch_size, tokens=size.tokens, dtype=dtype)
    return {
        "tokens_per_second": round(batch_size * size.tokens / seconds, 1),
        "floor_seconds": round(floor, 4),
        "share_of_floor": round(floor / seconds, 3),
    }


def growth(sides: Contestants, batch_size: int, steps: int = 16) -> dict[str, float]:
    """Time of the last `steps` steps over that of the first ones but one, the prefill; CPU only."""
    if sides.device.type != "cpu":
        return {}
    ratios = {}
    for side in (sides.published, sides.decode):
        stamps: list[float] = []
        side(sides.prefix(batch_size), callback=lambda _, stamps=stamps: stamps.append(time.perf_counter()))
        spans = [after - before for before, after in pairwise(stamps)]
        ratios[side.__name__] = round(statistics.median(spans[-steps:]) / statistics.median(spans[1 : steps + 1]), 2)
    return ratios


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    start(options)
    default = ["quick"] if options.quick else ["1.4B"] if options.device.type == "cuda" else ["small", "large"]
    with installed(options.peer) as peer:
        roof = measure_roof(options.device)
        print(roof, flush=True)
        record = circumstances(options.device, f"{PACKAGE} {VERSION}") | {"roof": roof, "sizes": {}}
        timings: list[Timing] = []
        for name in options.sizes or default:
            rows, details = time_size(name, SIZES[name], peer, roof, options)
            timings += rows
            record["sizes"][name] = details
    if not options.quick:
        path = options.results / f"sampling_{options.device.type}.json"
        write_json(path, record | {"timings": timings})
        print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(run_command(main))
