"""A picture from a text: the latents of a VQGAN are optimised until CLIP finds that the picture matches.

    python scripts/clip_guided.py -p "a lighthouse in a storm | oil painting:0.5 | blurry:-0.5" -s 480 320 -sd 7
    python scripts/clip_guided.py -p "spring ^ summer ^ autumn" -cpe 200 -i 600 -vid -r logs/<run> -o seasons.png

Any first stage will do, of a transformer it is its own. Ctrl-C keeps the picture as it is. How it was made is written
into the PNG file. Config overrides `section.key=value` may be added.
"""

import argparse
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from torch import nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, run_command, select_device, split_dotlist  # noqa: E402
from taming.clip.cutouts import AUGMENTATIONS  # noqa: E402
from taming.clip.guided import GRADIENT, OPTIMISERS, PIXELS, GuidedOptions, Step, optimize  # noqa: E402
from taming.clip.output import Pictures  # noqa: E402
from taming.clip.perceptor import load_clip  # noqa: E402
from taming.config import load_config  # noqa: E402
from taming.pretrained import fetch  # noqa: E402
from taming.published import models_by_name  # noqa: E402
from taming.runs import build_model, load_model, resolve_run  # noqa: E402

DEFAULT_MODEL = "vqgan_imagenet_f16_16384"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make a picture from prompts.")
    add = parser.add_argument
    add("-p", "--prompts", default="", help="texts, joined by |; each text[:weight[:stop]]; ^ separates phases")
    add("-ip", "--image_prompts", default="", metavar="FILES", help="image files, in the same way")
    add("-nps", "--noise_prompt_seeds", nargs="*", type=int, default=[], metavar="SEED", help="random prompts")
    add("-npw", "--noise_prompt_weights", nargs="*", type=float, default=[], metavar="WEIGHT", help="their weights")
    add("-ii", "--init_image", metavar="FILE", help="begin with this image, resized")
    add("-in", "--init_noise", choices=[PIXELS, GRADIENT], help="begin with such an image")
    add("-iw", "--init_weight", type=float, default=0.0, help="pull towards the beginning (default: %(default)s)")
    add("-i", "--iterations", "--steps", type=int, default=500, help="(default: %(default)s)")
    add("-lr", "--learning_rate", type=float, default=0.1, help="(default: %(default)s)")
    add("-opt", "--optimiser", choices=OPTIMISERS, default="Adam", help="(default: %(default)s)")
    add("-cuts", "--num_cuts", type=int, default=32, help="crops that CLIP sees per step (default: %(default)s)")
    add("-cutp", "--cut_power", type=float, default=1.0, help="above 1 crops are smaller (default: %(default)s)")
    text = f"of {', '.join(AUGMENTATIONS)} (default: all); none without a name"
    add("-aug", "--augments", nargs="*", default=list(AUGMENTATIONS), metavar="NAME", help=text)
    add("-s", "--size", nargs=2, type=int, default=[512, 512], metavar=("WIDTH", "HEIGHT"), help="(default: 512 512)")
    add("-se", "--save_every", type=int, default=50, metavar="STEPS", help="(default: %(default)s)")
    add("-sd", "--seed", type=int, help="of all random numbers (default: a random one, which is printed)")
    add("-m", "--clip_model", default="ViT-B/32", help="a model of open_clip (default: %(default)s)")
    text = "its weights, by name or file; none are random ones (default: %(default)s)"
    add("--clip_pretrained", default="openai", metavar="WEIGHTS", help=text)
    text = f"run folder, checkpoint file in one, or name of a published model (default: {DEFAULT_MODEL})"
    add("-r", "--resume", metavar="RUN", help=text)
    add("-conf", "--vqgan_config", metavar="YAML", help="instead of a run: a config")
    add("-ckpt", "--vqgan_checkpoint", metavar="CKPT", help="and the checkpoint that belongs to it")
    add("-o", "--output", type=Path, default=Path("output.png"), help="(default: %(default)s)")
    add("-vid", "--video", action="store_true", help="make a video of what is saved")
    add("-vl", "--video_length", type=float, default=10.0, metavar="SECONDS", help="(default: %(default)s)")
    add("-ofps", "--output_video_fps", type=float, metavar="FPS", help="frames per second, instead of the length")
    add("-cpe", "--change_prompt_every", type=int, default=0, metavar="STEPS", help="when the next phase comes")
    add_device_options(parser)
    add("-cd", "--cuda_device", dest="device", default=argparse.SUPPRESS, help="the same as --device")
    return parser


def load_first_stage(options: argparse.Namespace, overrides: Sequence[str], device) -> nn.Module:
    if options.vqgan_config or options.vqgan_checkpoint:
        if options.resume or not (options.vqgan_config and options.vqgan_checkpoint):
            raise ValueError("give -conf/--vqgan_config and -ckpt/--vqgan_checkpoint together, or -r/--resume alone")
        config = load_config([options.vqgan_config], overrides)
        return build_model(config, Path(options.vqgan_checkpoint), device=device).model
    name = options.resume or DEFAULT_MODEL
    run = resolve_run(fetch(name) if name in models_by_name() else name)
    return load_model(run, overrides=overrides, device=device).model


def main(argv: Sequence[str] | None = None) -> None:
    options, overrides = split_dotlist(get_parser(), argv)
    options.seed = secrets.randbits(32) if options.seed is None else options.seed
    chosen = GuidedOptions(**{field.name: getattr(options, field.name) for field in fields(GuidedOptions)})
    if min(options.video_length, options.output_video_fps or 1) <= 0:
        raise ValueError("--video_length and --output_video_fps must be positive")
    used = {name: getattr(options, name) for name in ("clip_model", "clip_pretrained", "resume", "vqgan_checkpoint")}
    if not options.vqgan_checkpoint:
        used["resume"] = options.resume or DEFAULT_MODEL
    pictures = Pictures(options.output, {**asdict(chosen), **used}, options.save_every, options.video)
    device = select_device(options.device)
    stage = load_first_stage(options, overrides, device)
    perceptor = load_clip(options.clip_model, options.clip_pretrained, device=device)
    print(f"seed {chosen.seed}, {perceptor.name}, to {options.output}", flush=True)
    with tqdm(total=chosen.iterations) as bar:

        def on_step(step: Step) -> None:
            pictures.follow(step)
            bar.set_postfix(loss=f"{step.loss:.4f}")
            bar.update()

        try:
            optimize(stage, perceptor, chosen, on_step=on_step)
        finally:  # also after Ctrl-C
            pictures.finish()
    if pictures.frames:
        print(pictures.write_video(length=options.video_length, fps=options.output_video_fps))


if __name__ == "__main__":
    sys.exit(run_command(main))
