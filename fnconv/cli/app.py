"""The `fnconv` command and its subcommands; a command imports what is slow to import when it runs."""

import typer

from fnconv.cli.check import check
from fnconv.cli.compare import compare
from fnconv.cli.show import app as show
from fnconv.cli.train import train

app = typer.Typer(name="fnconv", no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)


@app.callback()
def fnconv() -> None:
    """Convolutional-network operations in JAX with backward passes derived by hand."""


app.command()(check)
app.command()(compare)
app.command()(train)
app.add_typer(show, name="show")
