"""`fnconv train`: LeNet-5 on real digits, every gradient derived by hand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fnconv.cli import interrupts
from fnconv.cli.outcome import refuse, told

if TYPE_CHECKING:
    from fnconv.train.data import Data
    from fnconv.train.run import Run

CONFIG = ("gradients", "model", "batch_size", "learning_rate", "decay", "momentum", "shift", "seed")
OPTIONS = {name: f"--{name.replace('_', '-')}" for name in (*CONFIG, "epochs", "data")}
EXTRA = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "safetensors": "safetensors"}
Gradients = Literal["manual", "autodiff", "both"]
Model = Literal["classic", "modern"]


def _option(text: str, default: str | bool = False, metavar: str | None = None) -> Any:
    return typer.Option(help=text, show_default=default, metavar=metavar)


def train(
    epochs: Annotated[int, _option("Epochs in all, those of a resumed run included.", default=True)] = 20,
    gradients: Annotated[
        Gradients | None,
        _option("Derived by hand, JAX's automatic ones, or a copy of the network with each.", "manual"),
    ] = None,
    model: Annotated[Model | None, _option("Tanh and average pooling, or ReLU and max pooling.", "classic")] = None,
    batch_size: Annotated[int | None, _option("Images per update.", "32")] = None,
    learning_rate: Annotated[float | None, _option("Learning rate of the first epoch.", "0.05")] = None,
    decay: Annotated[float | None, _option("Epoch e, from 0, learns at learning-rate / (1 + decay e).", "0.1")] = None,
    momentum: Annotated[float | None, _option("How much of its velocity an update keeps.", "0.9")] = None,
    shift: Annotated[int | None, _option("Move training images by up to this many pixels, at random.", "2")] = None,
    seed: Annotated[int | None, _option("Seed of the weights, the order and the shifts.", "0")] = None,
    data: Annotated[
        Path | None, _option("MNIST-format IDX files, plain or .gz.", "scikit-learn's digits", metavar="DIR")
    ] = None,
    plot: Annotated[
        Path | None, _option("Draw the curves and first kernels, as .png, .svg or .pdf.", metavar="FILE")
    ] = None,
    save: Annotated[Path | None, _option("Write a checkpoint after every epoch.", metavar="FILE")] = None,
    resume: Annotated[
        Path | None,
        _option("Go on from a checkpoint, with its options; others than those are refused.", metavar="FILE"),
    ] = None,
) -> None:
    """Train LeNet-5 on handwritten digits with gradients derived by hand.

    The digits are scikit-learn's 1,797, scaled up to 28x28: 1,437 to train on, 360 to test on.
    """
    given = {name: value for name, value in locals().items() if name in CONFIG and value is not None}
    if plot is not None:
        with _refusing("--plot"):
            from fnconv.train.plot import check_plot, save_plot

            check_plot(plot)
    if save is not None:
        with _refusing("--save"):
            from fnconv.train.checkpoint import check_save
            from fnconv.train.checkpoint import save as save_run

            check_save(save)
    run, digits = _start(given, data, resume)
    with _refusing():
        from fnconv.train.display import Display
        from fnconv.train.loop import fit

        display = Display(run, digits, epochs)
        runs = fit(run, digits, epochs, display.batch)
    kept = 0
    interrupts.advise(lambda: _how_to_go_on(kept, {"save": save, "epochs": epochs, "data": data, "plot": plot}))
    with interrupts.showing(display), _refusing("--save"):
        for _ in range(len(run.history), epochs):
            with nullcontext() if save is None else interrupts.whole():
                run = next(runs)
                display.epoch(run)
                if save is not None:
                    save_run(save, run)
                    kept = len(run.history)
    if plot is not None:
        with _refusing("--plot"), interrupts.whole():
            save_plot(plot, run)
    display.summary(run)


def _start(given: dict[str, Any], data: Path | None, resume: Path | None) -> tuple[Run, Data]:
    """The run to go on with, new or saved, and its data."""
    with _refusing("--resume"):
        from fnconv.train.run import Config, Run

        if resume is None:
            config = Config(**given)
        else:
            from fnconv.train.checkpoint import load

            run = load(resume)
            for name, value in given.items():
                saved = getattr(run.config, name)
                if value != saved:
                    raise refuse("train", f"{OPTIONS[name]} must be {saved}, as in {resume}, or left out; got {value}")
    with _refusing("--data"):
        from fnconv.train.data import load_digits, load_idx

        digits = load_digits() if data is None else load_idx(data)
    return Run.start(config, digits) if resume is None else run, digits


def _how_to_go_on(kept: int, options: dict[str, Any]) -> str:
    if options["save"] is None:
        return "; nothing was kept: with --save FILE a run can go on after its last epoch"
    if not kept:
        return " before an epoch was saved: give the same command again"
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    return f" after epoch {kept}; to go on: {shlex.join(['fnconv', 'train', '--resume', str(options['save']), *given])}"


@contextmanager
def _refusing(option: str = "") -> Iterator[None]:
    """End the command with one line and status 2 where `option` is wrong or a package of the extra missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        raise refuse("train", f"{EXTRA[package]} is not installed: pip install 'fnconv[train]'") from None
    except BrokenPipeError:  # whoever reads the lines has enough; typer ends the command
        raise
    except OSError as error:
        raise refuse("train", f"{option}: {error.strerror}: {error.filename}") from None
    except (ValueError, FloatingPointError) as error:
        message = told(error, OPTIONS | {"path": option, "directory": option})
        raise refuse("train", message if message.startswith("--") else f"{option}: {message}") from None
