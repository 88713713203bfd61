"""`fnconv show`: a layer written out, forward and backward, or a network layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fnconv.cli import interrupts
from fnconv.cli.outcome import console, refuse, told

if TYPE_CHECKING:
    from fnconv.show import Page

STYLES = {"title": "bold", "heading": "bold cyan", "formula": "green", "label": "dim", "slip": "yellow", "": ""}

NAMES = "input kernel window output weights cotangent padding dilation channels out_channels groups seed kind ties p"
OPTIONS = {name: f"--{name.replace('_', '-')}" for name in (*NAMES.split(), "ceil_mode")}
OPTIONS["strides"] = "--stride"

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Write a layer out: every element and every gradient, in symbols."
)

Kind = Literal["max", "avg", "lp"]
Ties = Literal["row_major", "column_major"]
Network = Literal["lenet5", "alexnet", "vgg16", "resnet18"]

Input = Annotated[str, typer.Option(metavar="SHAPE|FILE", help="Shape, as 5x5, or numbers from a .npy file.")]
Kernel = Annotated[str, typer.Option(metavar="SHAPE|FILE", help="Shape of the window, as 3x3, or numbers.")]
Window = Annotated[str, typer.Option(metavar="SHAPE", help="Shape of the window, as 2x2.")]
Cotangent = Annotated[Path | None, typer.Option(metavar="FILE", help="Numbers for δ = dL/dO from a .npy file.")]
Stride = Annotated[str, typer.Option(metavar="N|N,N", help="Step of the window; one, or one per axis.")]
Padding = Annotated[
    str,
    typer.Option(
        metavar="NAME|N|N,N|L:H,L:H",
        help="VALID, SAME, SAME_LOWER, FULL, INPUT_SIZE, cells, or low:high pairs.",
    ),
]
Dilation = Annotated[str, typer.Option(metavar="N|N,N", help="Distance between window elements.")]
Channels = Annotated[int, typer.Option(help="Channels of the input.")]
Values = Annotated[bool, typer.Option("--values", help="Numbers for the symbols: random integers.")]
Seed = Annotated[int, typer.Option(help="Seed of the random integers.")]
AsLatex = Annotated[bool, typer.Option("--latex", help="Print LaTeX (for amsmath) instead of text.")]
HtmlFile = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write an HTML page: the layer to step through and change."),
]


@app.command()
def conv(
    input: Input,
    kernel: Kernel,
    cotangent: Cotangent = None,
    stride: Stride = "1",
    padding: Padding = "VALID",
    dilation: Dilation = "1",
    channels: Channels = 1,
    out_channels: Annotated[int, typer.Option(help="Channels of the output, that is kernels.")] = 1,
    groups: Annotated[int, typer.Option(help="Independent groups of channels.")] = 1,
    values: Values = False,
    seed: Seed = 0,
    pooling: Annotated[bool, typer.Option("--pooling", help="Go on with max pooling of the same windows.")] = False,
    latex: AsLatex = False,
    html: HtmlFile = None,
) -> None:
    """A convolution: the index map m, φ, C, M, forward and every gradient, and the pictures of its correlations."""

    _show("conv", **locals())


@app.command()
def pool(
    input: Input,
    window: Window,
    kind: Annotated[Kind, typer.Option(help="Maximum, average, or p-norm.")] = "max",
    cotangent: Cotangent = None,
    stride: Annotated[
        str | None, typer.Option(metavar="N|N,N", help="Step of the window.", show_default="the window")
    ] = None,
    padding: Padding = "VALID",
    dilation: Dilation = "1",
    ceil_mode: Annotated[bool, typer.Option("--ceil-mode", help="Round the output size up.")] = False,
    ties: Annotated[Ties, typer.Option(help="Which of equal maxima wins (max).")] = "row_major",
    exclude_pad: Annotated[bool, typer.Option("--exclude-pad", help="Padding does not count in a mean (avg).")] = False,
    p: Annotated[float, typer.Option(help="The norm (lp).")] = 2,
    channels: Channels = 1,
    values: Values = False,
    seed: Seed = 0,
    latex: AsLatex = False,
    html: HtmlFile = None,
) -> None:
    """A pooling: forward, the selection matrix S and its ties, the gradient, what is left over."""

    _show("pool", **locals())


@app.command()
def dense(
    input: Annotated[str, typer.Option(metavar="N|FILE", help="Number of inputs, or their values.")],
    output: Annotated[int | None, typer.Option(help="Number of outputs.")] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="W (in, out) from a .npy file.")] = None,
    cotangent: Cotangent = None,
    values: Values = False,
    seed: Seed = 0,
    latex: AsLatex = False,
    html: HtmlFile = None,
) -> None:
    """A fully connected layer and its three gradients."""

    _show("dense", **locals())


@app.command()
def net(
    name: Annotated[Network, typer.Argument(help="The network.")], latex: AsLatex = False, html: HtmlFile = None
) -> None:
    """A known network: shapes, parameters, work and receptive field of every layer."""

    _show("net", **locals())


# ---- arguments ------------------------------------------------------------------------------------------------------


def _shape_or_file(option: str, text: str) -> Any:
    if text.endswith(".npy"):
        return Path(text)
    return _tuple(option, text, "x")


def _tuple(option: str, text: str, separator: str) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in text.lower().split(separator))
    except ValueError:
        example = separator.join(("3", "3"))
        message = f"show: --{option} must be integers such as {example}; got {text!r}"
        raise ValueError(message) from None


def _integers(option: str, text: str) -> int | tuple[int, ...]:
    entries = _tuple(option, text, ",")
    return entries[0] if len(entries) == 1 else entries


def _padding(option: str, text: str) -> Any:
    """A name, an integer, one per axis, or low:high pairs."""
    if text.replace("_", "").isalpha():
        return text
    if ":" in text:
        return [_tuple(option, pair, ":") for pair in text.split(",")]
    return _integers(option, text)


# ---- output ---------------------------------------------------------------------------------------------------------


READ: dict[str, Callable[[str, Any], Any]] = {  # from what was typed to the argument of the function of `fnconv.show`
    **dict.fromkeys(("input", "kernel", "window"), _shape_or_file),
    **dict.fromkeys(("stride", "dilation"), _integers),
    "padding": _padding,
}


def _show(function: str, *, latex: bool, html: Path | None, **given: Any) -> None:
    """The page of a function of `fnconv.show`; given: its arguments as the command has them."""
    from fnconv import show

    try:
        arguments = {name: READ[name](name, v) if name in READ and v is not None else v for name, v in given.items()}
        if "stride" in arguments:
            arguments["strides"] = arguments.pop("stride")
        if "exclude_pad" in arguments:
            arguments["count_include_pad"] = not arguments.pop("exclude_pad")
        shown = getattr(show, function)(**arguments)
        if html is not None:
            with interrupts.whole():
                html.write_text(shown.to_html(), encoding="utf-8")
    except (ValueError, TypeError) as error:
        raise refuse("show", told(error, OPTIONS)) from None
    except OSError as error:
        raise refuse("show", f"--html: cannot write {html}: {error.strerror}") from None
    if latex:
        print(shown.to_latex(), end="")
    elif html is not None:
        print(f"{html}: written")
    else:
        _print(shown)


def _print(page: Page) -> None:
    """Text, with colours where a terminal is there to show them."""
    from rich.text import Text

    from fnconv.show.text import lines

    terminal = console()
    for line, style in lines(page.title, page.sections, max(60, min(terminal.width, 120))):
        terminal.print(Text(line, style=STYLES[style]), soft_wrap=True)
