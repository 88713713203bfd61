"""The `fnconv` command and its subcommands; a command imports what is slow to import when it runs."""

from typing import Annotated

import typer

from fnconv.base.version import __version__
from fnconv.cli.check import check
from fnconv.cli.compare import compare
from fnconv.cli.show import app as show
from fnconv.cli.train import train
from fnconv.cli.tune import tune

# Help without rich's panels: twice as fast, and readable in 60 columns.
app = typer.Typer(name="fnconv", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_show_locals=False)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fnconv {__version__}")
        raise typer.Exit


@app.callback()
def fnconv(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Convolutional-network operations in JAX with backward passes derived by hand."""


app.command(short_help="Judge manual gradients.")(check)
app.command(short_help="Manual and automatic gradient of a model.")(compare)
app.command(short_help="Find the fastest rules for this machine.")(tune)
app.command(short_help="Train LeNet-5 on handwritten digits.")(train)
app.add_typer(show, name="show", short_help="Write a layer out, in symbols.")
