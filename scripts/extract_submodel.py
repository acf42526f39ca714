"""One part of a model's checkpoint as a checkpoint of its own: its first stage, conditioning stage or transformer.

    python scripts/extract_submodel.py logs/<run>/checkpoints/last.ckpt vqgan.ckpt first_stage_model

Nothing in the file that is read is executed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.checkpoint import CheckpointError, load_checkpoint, save_checkpoint_atomic  # noqa: E402
from taming.cli import run_command  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write one part of a checkpoint as a checkpoint of its own.")
    parser.add_argument("source", metavar="IN", help="checkpoint of the whole model")
    parser.add_argument("target", metavar="OUT", help="file to write")
    parser.add_argument(
        "part",
        metavar="PART",
        nargs="?",
        default="cond_stage_model",
        help="first_stage_model, cond_stage_model, transformer, or a dotted name below them (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def extract(source: str, target: str, part: str, *, overwrite: bool = False) -> int:
    """Write the weights of `part` without its name before theirs, with the global step; how many there are.

    Raises CheckpointError if there are none, FileExistsError for a target that is there unless `overwrite`.
    """
    if Path(target).exists() and not overwrite:
        raise FileExistsError(f"{target} exists; --overwrite replaces it")
    checkpoint = load_checkpoint(source)
    weights = checkpoint["state_dict"]
    prefix = f"{part.rstrip('.')}."
    taken = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    if not taken:
        parts = ", ".join(dict.fromkeys(key.split(".")[0] for key in weights if "." in key))
        raise CheckpointError(f"{source}: holds no part {part}; there are {parts or 'no parts'}")
    save_checkpoint_atomic({"state_dict": taken, "global_step": checkpoint["global_step"]}, target)
    return len(taken)


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    count = extract(options.source, options.target, options.part, overwrite=options.overwrite)
    print(f"{options.target}: {count} weights of {options.part}")


if __name__ == "__main__":
    sys.exit(run_command(main))
