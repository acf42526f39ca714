"""VQGAN training in float32, bfloat16 and float16 on photographs: does it stay finite, and does it learn the same?

python benchmarks/precision.py                 # on a CPU half precision is emulated: a very small network, minutes
python benchmarks/precision.py --steps 2000    # on a GPU
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from pytorch_lightning.plugins import MixedPrecision  # noqa: E402

from taming.cli import run_command, select_device  # noqa: E402
from taming.config import instantiate_from_config, load_config  # noqa: E402
from taming.files import atomic_path  # noqa: E402

CONFIG = ROOT / "configs" / "quickstart" / "photos_published.yaml"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
SMALL = (
    "model.params.ddconfig={ch: 8, ch_mult: [1, 2], resolution: 16}",
    "data.params.batch_size=4",
    "data.params.train.params.size=16",
    "data.params.validation.params.size=16",
    "model.params.lossconfig.params.disc_ndf=8",
)
"""So that emulated half precision takes a fraction of a second per step."""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="training steps (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "precision.json")
    return parser


def measure(precision: str, steps: int, device: torch.device) -> dict:
    """Train with the discriminator from half-way on; NaN anywhere would stop training with an error."""
    half_way = f"model.params.lossconfig.params.disc_start={steps // 2}"
    schedule = f"model.params.scheduler_config.params.max_decay_steps={steps}"
    config = load_config([CONFIG], [half_way, schedule, *(SMALL if device.type == "cpu" else ())])
    pl.seed_everything(23)
    model = instantiate_from_config(config.model)
    model.learning_rate = config.data.params.batch_size * config.model.base_learning_rate
    trainer = pl.Trainer(
        accelerator=device.type,
        devices=1,
        max_steps=steps,
        val_check_interval=steps // 5,
        limit_val_batches=10,
        check_val_every_n_epoch=None,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **precision_arguments(precision, device),
    )
    trainer.fit(model, instantiate_from_config(config.data))
    metrics = trainer.callback_metrics
    return {
        "steps": trainer.global_step,
        "weights_finite": all(bool(parameter.isfinite().all()) for parameter in model.parameters()),
        "val_rec_loss": metrics["val/rec_loss_epoch"].item(),
        "d_weight": metrics[
            "train/d_weight_epoch" if "train/d_weight_epoch" in metrics else "train/d_weight_step"
        ].item(),
    }


def precision_arguments(precision: str, device: torch.device) -> dict:
    """Lightning replaces float16 on a CPU by bfloat16; a plugin of our own insists."""
    if precision == "16-mixed" and device.type == "cpu":
        return {"plugins": [MixedPrecision(precision, "cpu", scaler=torch.amp.GradScaler("cpu"))]}
    return {"precision": precision}


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    device = select_device(options.device)
    rows = {precision: measure(precision, options.steps, device) for precision in PRECISIONS}
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    for precision, row in rows.items():
        print(f"{precision:>12}  {row}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.out) as path:
        path.write_text(json.dumps({"device": name, "torch": torch.__version__, "precisions": rows}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
