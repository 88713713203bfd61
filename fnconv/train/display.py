"""What a run shows in the terminal: a table of its epochs above a progress bar."""

from collections.abc import Iterator
from dataclasses import fields

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fnconv.train.data import Data
from fnconv.train.lenet import Gradients
from fnconv.train.run import Epoch, Metrics, Run

WHY_DRIFT = (
    "Why the copies drift apart: floating-point addition is not associative. The rules derived by hand and JAX's own "
    "add the same terms in other orders, so their gradients differ in the last bits. Every update adds such a "
    "difference and amplifies the earlier ones: little where descent is smooth, by orders of magnitude where it is "
    "not (a high learning rate, the kinks of ReLU and max pooling), as a change of one bit in the first weights would."
)

WIDTH = 80  # at most


class Display:
    """Shows the training of `run` up to `epochs` epochs: live on a terminal, else in a line for each epoch."""

    def __init__(self, run: Run, data: Data, epochs: int) -> None:
        self._batches = len(data.train_images) // run.config.batch_size
        self._epochs = epochs
        self._test_images = len(data.test_images)
        self._console = Console(highlight=False)
        self._table = _table(run, min(self._console.width, WIDTH))
        for number, epoch in enumerate(run.history, 1):
            self._table.add_row(str(number), *_cells(epoch))
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._task = self._progress.add_task(
            "compiling", total=epochs * self._batches, completed=len(run.history) * self._batches
        )
        self._live = Live(Group(self._table, self._progress, ""), console=self._console)

    def __enter__(self) -> None:
        if self._console.is_terminal:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal as it was, below the table."""
        self._live.stop()

    def batch(self, metrics: dict[Gradients, tuple[float, float]]) -> None:
        """Note the loss and accuracy of the epoch so far."""
        losses = " | ".join(f"{loss:.3f}" for loss, _ in metrics.values())
        self._progress.update(self._task, advance=1, description=f"loss {losses}")

    def epoch(self, run: Run) -> None:
        """Note the end of an epoch."""
        number, cells = len(run.history), list(_cells(run.history[-1]))
        self._table.add_row(str(number), *cells)
        if not self._console.is_terminal:
            named = ", ".join(f"{name} {cell}" for name, cell in zip(_names(run, " "), cells, strict=True))
            print(f"epoch {number} of {self._epochs}: {named}", flush=True)

    def summary(self, run: Run) -> None:
        """Say what the run came to."""
        for name, metrics in run.history[-1].metrics.items():
            right = round(metrics.test_accuracy * self._test_images)
            self._console.print(
                f"{name} gradients: {metrics.test_accuracy:.2%} of the test images right "
                f"({right} of {self._test_images}) after epoch {len(run.history)}"
            )
        if run.config.gradients == "both":
            self._console.print(WHY_DRIFT)


def _quantities(copies: int) -> tuple[str, ...]:
    # Two copies side by side leave room for two columns each.
    return tuple(field.name for field in fields(Metrics)) if copies == 1 else ("train_loss", "test_accuracy")


def _table(run: Run, width: int) -> Table:
    table = Table(title=f"LeNet-5 ({run.config.model})", box=SIMPLE_HEAD, padding=0, width=width)
    for name in ("epoch", *_names(run, "\n")):
        table.add_column(name, justify="right")
    return table


def _names(run: Run, separator: str) -> Iterator[str]:
    for name in run.copies:
        for quantity in _quantities(len(run.copies)):
            yield f"{name}{separator}{quantity.replace('_', separator)}"
    if run.config.gradients == "both":
        yield f"drift{separator}largest"
        yield f"drift{separator}rel.L2"


def _cells(epoch: Epoch) -> Iterator[str]:
    for metrics in epoch.metrics.values():
        for quantity in _quantities(len(epoch.metrics)):
            yield f"{getattr(metrics, quantity):{'.4f' if quantity.endswith('loss') else '.2%'}}"
    if epoch.drift is not None:
        yield f"{epoch.drift.max_abs:.1e}"
        yield f"{epoch.drift.relative_l2:.1e}"
