"""The vocabulary of a data set's captions, for the config that trains on it.

    python scripts/make_vocabulary.py --base configs/coco_captions_transformer.yaml

reads the captions of the config's training data and writes the file that its cond_stage_config names as vocabulary: as
many pieces of words as make vocab_size tokens, the more frequent ones first. Config overrides `section.key=value` may
be added.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from omegaconf import DictConfig, OmegaConf  # noqa: E402

from taming.cli import run_command, split_dotlist  # noqa: E402
from taming.config import config_error, load_config  # noqa: E402
from taming.sampling.dataset_jobs import build_split  # noqa: E402
from taming.vocabulary import Vocabulary, check_size  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make the vocabulary of captions that a config names.")
    add = parser.add_argument
    add("-b", "--base", nargs="+", required=True, metavar="YAML", help="configs of a transformer on captions")
    add("--overwrite", action="store_true", help="replace a vocabulary; models that were trained with it keep theirs")
    return parser


def stage_params(config: DictConfig) -> DictConfig:
    """The parameters of the config's caption stage."""
    params = OmegaConf.select(config, "model.params.cond_stage_config.params")
    if params is None or params.get("vocabulary") is None or params.get("vocab_size") is None:
        problem = "no stage of captions, which has a vocabulary and a vocab_size"
        raise config_error(config, "model.params.cond_stage_config", problem)
    return params


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_dotlist(get_parser(), argv)
    config = load_config(options.base, overrides)
    params = stage_params(config)
    path = Path(params.vocabulary)
    check_size(params.vocab_size)
    if path.exists() and not options.overwrite:
        raise FileExistsError(f"{path}: exists already; give --overwrite to replace it")
    split = build_split(config, "train")
    if not hasattr(split.dataset, "captions"):
        raise config_error(config, "data.params.train.target", "lists no captions; see taming.data.captions")
    captions = list(split.dataset.captions())
    vocabulary = Vocabulary.train(captions, params.vocab_size)
    vocabulary.write(path)
    lengths = sorted(len(vocabulary.encode(caption)) + 1 for caption in captions)
    middle, most, longest = (lengths[int(share * (len(lengths) - 1))] for share in (0.5, 0.99, 1))
    print(f"{path}: {len(vocabulary)} tokens, from {len(captions)} captions")
    print(f"with their end they have {middle} tokens in the middle, {most} in 99 %, {longest} at most")


if __name__ == "__main__":
    sys.exit(run_command(main))
