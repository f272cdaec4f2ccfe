"""``semisam pretrain``: train the embedded promptable model from synthetic volumes."""

from __future__ import annotations

from typing import Any

import click

from semisam.cli.help import Choice, Command
from semisam.cli.options import Size, device_option


@click.command(
    "pretrain",
    cls=Command,
    short_help="Train SynthSAM from synthetic volumes.",
    examples=("semisam pretrain synthsam --steps 200 --out runs/synthsam",),
)
@click.argument("model", type=Choice(["synthsam"]))
@click.option(
    "--axes", type=click.IntRange(2, 3), default=3, show_default=True, help="Axes of the images."
)
@click.option(
    "--steps", type=click.IntRange(1), default=6000, show_default=True, help="Optimizer steps."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of volumes and weights."
)
@click.option(
    "--out",
    default="runs/synthsam",
    show_default=True,
    metavar="FOLDER",
    help="For the weights and checkpoints.",
)
@device_option
@click.option("--init", metavar="WEIGHTS", help="Initial weights. Use another --seed with them.")
@click.option(
    "--lr", type=click.FloatRange(0, min_open=True), help="Highest learning rate. [default: 0.001]"
)
@click.option(
    "--cooldown",
    type=click.FloatRange(0, 1),
    help="Fraction of steps with a falling learning rate. [default: 0.3]",
)
@click.option(
    "--batch", type=click.IntRange(1), help="Factor on the 1 to 3 volumes per step. [default: 1]"
)
@click.option(
    "--hard", type=click.FloatRange(0, 1), help="Fraction of harder volumes. [default: 0.6]"
)
@click.option(
    "--off-edge", type=click.FloatRange(0, 1), help="Fraction of labels off the edge. [default: 0]"
)
@click.option("--shape", type=Size(), help="Shape of all volumes, of even extents.")
@click.option(
    "--validate-every", type=click.IntRange(1), help="Steps between validations. [default: 500]"
)
@click.option(
    "--validation", type=click.IntRange(1), help="Number of validation volumes. [default: 24]"
)
@click.option(
    "--checkpoint-every", type=click.IntRange(1), help="Steps between checkpoints. [default: 200]"
)
def command(model: str, out: str, device: str, init: str | None, **given: Any) -> None:
    """Train a promptable model on synthetic volumes, without scans.

    The same command again resumes from the last checkpoint and ends in the same weights. `--steps`
    may change between commands until the learning rate falls. The weights are written to
    OUT/MODEL.safetensors. Use them with `--sam synthsam --set synthsam.weights=FILE`.
    """
    from pathlib import Path

    from semisam.cli.display import Bars, console, tell
    from semisam.core.files import writable_folder
    from semisam.networks._synthsam_weights import save_weights
    from semisam.pretraining.pretrain import Pretraining, make_pretrain_settings
    from semisam.run.preflight import check_device
    from semisam.training.processes import check_single_process
    from semisam.training.signals import deferred_interrupt
    from semisam.training.trainer import Interrupted

    check_single_process("pretrain")
    options = {k: v for k, v in given.items() if v is not None}
    settings, initial = make_pretrain_settings(options, init)
    folder = writable_folder(Path(out))
    training = Pretraining(settings, folder, check_device(device), initial)
    last: dict[str, float] = {}
    with Bars() as bars, deferred_interrupt() as stopping:
        task = bars.add_task("training", total=settings.steps, completed=training.step)

        def show(step: int, figures: Any) -> None:
            last.update(figures)
            bars.update(task, completed=step, loss=figures["loss"])
            if "dice_1" in figures:
                console.print(f"step {step}: {_scores(figures)}")

        try:
            weights = training.run(show, stopping)
        except Interrupted as stop:
            bars.stop()
            click.echo(
                f"Interrupted after {stop.step} of {settings.steps} steps; a checkpoint is in "
                f"{folder}. Run the same command again to resume from it.",
                err=True,
            )
            raise SystemExit(130) from None
    path = folder / f"{model}.safetensors"
    about = {"model": model, "steps": str(settings.steps), "seed": str(settings.seed)}
    save_weights(path, weights, about)
    tell(f"Written: {path}")


def _scores(figures: Any) -> str:
    found = [(key.removeprefix("dice_"), value) for key, value in figures.items() if "dice_" in key]
    clicks = [f"{100 * value:.1f} at {name}" for name, value in found if name.isdigit()]
    others = [f"{100 * value:.1f} with {name}" for name, value in found if not name.isdigit()]
    return f"synthetic Dice {', '.join(clicks)} clicks; {', '.join(others)}"
