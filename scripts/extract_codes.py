"""The frozen tokenizers of a transformer run once over its data, so that it can train on their codes.

    python scripts/extract_codes.py -b configs/custom_transformer.yaml --outdir codes --views 4
    python scripts/extract_codes.py -r logs/<run of a transformer> --outdir codes

writes codes/train, codes/validation and so on, and codes/config.yaml: the config that trains from them. The same
command goes on where an earlier one stopped. Several processes share the work, started by torchrun or each with its
--shard. Config overrides `section.key=value` may be added.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, autocast, run_command, split_dotlist  # noqa: E402
from taming.config import load_config  # noqa: E402
from taming.data.token_files import EXTRACTION  # noqa: E402
from taming.extraction import Extraction, plan_extractions, run_extraction, save_training_config  # noqa: E402
from taming.runs import load_run_config, resolve_run  # noqa: E402
from taming.shards import find_shard, own_device  # noqa: E402
from taming.tokenizers import load_data, load_tokenizers  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Encode the data of a transformer once; it then trains on the codes.",
        epilog="Config overrides such as data.params.train.params.size=256 may be added.",
    )
    add = parser.add_argument
    add("-r", "--resume", default="", metavar="RUN", help="run folder of a transformer, or checkpoint file in one")
    add("-b", "--base", nargs="*", default=[], metavar="YAML", help="configs, after those of the run if there is one")
    add("-o", "--outdir", required=True, metavar="DIR", help="folder that gets a folder for each split")
    add("--split", nargs="+", default=[], metavar="SPLIT", help="train, validation, test (default: all of the config)")
    add("--views", type=int, default=1, help="random views of each training image (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the random views (default: %(default)s)")
    add("--batch_size", type=int, help="images encoded together (default: data.params.batch_size)")
    add("--num_workers", type=int, help="processes that read images (default: data.params.num_workers)")
    add("--shard_size", type=int, default=512, help="images per file, written at once (default: %(default)s)")
    add("--shard", metavar="I/N", help="do part I, from 0, of N (default: torchrun's, or everything)")
    add_device_options(parser)
    return parser


def read_config(options: argparse.Namespace, overrides: Sequence[str]) -> tuple[DictConfig, Path | None]:
    """The merged config, and the checkpoint that its weights are in if a run is given."""
    if options.resume:
        run = resolve_run(options.resume)
        return load_run_config(run, bases=options.base, overrides=overrides), run.checkpoint
    if not options.base:
        raise ValueError("give the config of a transformer with -b/--base, or its run with -r/--resume")
    return load_config(options.base, overrides), None


def plan(options: argparse.Namespace, config: DictConfig, checkpoint: Path | None, command: str) -> list[Extraction]:
    data = load_data(config, options.split, batch_size=options.batch_size, num_workers=options.num_workers)
    model = load_tokenizers(config, checkpoint, device=own_device(options.device))
    choices = {name: getattr(options, name) for name in ("views", "seed", "shard_size", "precision")}
    return plan_extractions(model, data, config, Path(options.outdir), command=command, **choices)


def report(config: DictConfig, outdir: Path, extractions: Sequence[Extraction]) -> str:
    """What there is now, and once it is complete how to train from it."""
    lines = [str(extraction) for extraction in extractions]
    if not any(extraction.unfinished() for extraction in extractions):
        path, section = save_training_config(config, outdir)
        lines.append(f"train from them with: python main.py --base {path} -t True")
        lines.append(f"or with this section instead of the data of your own config:\n{section}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    options, overrides = split_dotlist(get_parser(), arguments)
    share = find_shard(options.shard)
    config, checkpoint = read_config(options, overrides)
    whole = [item for item in arguments if item not in ("--shard", options.shard, f"--shard={options.shard}")]
    extractions = plan(options, config, checkpoint, f"{EXTRACTION} {shlex.join(whole)}")
    if options.precision != "32":
        print(f"precision {options.precision}: about 4 % of the codes will not be those of 32", file=sys.stderr)
    for extraction in extractions:
        with autocast(extraction.model.device, options.precision):
            run_extraction(extraction, share=share, progress=share.index == 0)
    print(report(config, Path(options.outdir), extractions))


if __name__ == "__main__":
    sys.exit(run_command(main))
