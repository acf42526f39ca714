"""Images by text from a transformer that was trained on captions, as PNG files.

    python scripts/sample_text.py -r logs/<run> --prompt "a meadow with two trees" --prompt "a coast with a house"

writes <run>/text/top_k_100_temp_1.00_top_p_1.0/<global step>/<prompt>/000000.png and so on. The same command goes on
where an earlier one stopped, with its seed, and several processes (torchrun, or --shard) share the work. Config
overrides `section.key=value` may be added.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, run_command, split_dotlist  # noqa: E402
from taming.data._io import read_list  # noqa: E402
from taming.runs import load_model, resolve_run  # noqa: E402
from taming.sampling.commands import add_weights_option, carry_out, run_name  # noqa: E402
from taming.sampling.options import SamplingOptions, add_filter_options, add_job_options  # noqa: E402
from taming.sampling.text_jobs import TextJob, plan_text_job, run_text_job  # noqa: E402
from taming.shards import find_shard, own_device  # noqa: E402

CHOICES = ("num_samples", "batch_size", "top_k", "temperature", "top_p", "seed", "overwrite", "precision",
           "guidance_scale", "compile")  # fmt: skip


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Sample a transformer that was trained on captions to PNG files.",
        epilog="Config overrides such as model.params.null_token=0 may be added.",
    )
    add = parser.add_argument
    add("-r", "--resume", required=True, metavar="RUN", help="run folder, or checkpoint file in one")
    add("-o", "--outdir", default="", help="folder that gets text/, instead of the run folder")
    add("-b", "--base", nargs="*", default=[], metavar="YAML", help="more configs, after those of the run")
    add("--prompt", action="append", default=[], metavar="TEXT", help="what to draw; may be given again and again")
    add("--prompts", type=Path, metavar="FILE", help="a text file with a prompt per line")
    add("-n", "--num_samples", type=int, default=4, help="per prompt (default: %(default)s)")
    add_weights_option(parser)
    add_filter_options(parser, top_k=100)
    text = "above 1 images follow the text more closely; for models trained with cond_drop_prob"
    add("--guidance_scale", type=float, default=1.0, help=f"{text} (default: 1.0, off)")
    add("--compile", action="store_true", help="pass the decoding step through torch.compile")
    add_job_options(parser, batch_size=16)
    add_device_options(parser)
    return parser


def plan(options: argparse.Namespace, overrides: Sequence[str]) -> TextJob:
    """What is wrong with the options is found before the model is loaded, as far as possible."""
    choices = SamplingOptions(shard=find_shard(options.shard), **{name: getattr(options, name) for name in CHOICES})
    prompts = list(options.prompt)
    if options.prompts:
        prompts += read_list(options.prompts, "--prompts", "give a text file with a prompt per line")
    if not prompts:
        raise ValueError("nothing to draw: give --prompt TEXT, or --prompts FILE")
    run, device = resolve_run(options.resume), own_device(options.device)
    chosen = {"device": device, "trained_weights": options.trained_weights}
    loaded = load_model(run, bases=options.base, overrides=overrides, **chosen)
    known = {"global_step": loaded.global_step, "run": run_name(run, options)}
    return plan_text_job(loaded.model, options.outdir or run.logdir, prompts, choices, **known)


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_dotlist(get_parser(), argv)
    job = plan(options, overrides)
    carry_out(job, run_text_job, options, n_images=len(job.remaining()))


if __name__ == "__main__":
    sys.exit(run_command(main))
