"""The command line of fnconv."""

import sys


def main() -> None:
    """Run the `fnconv` command."""
    try:
        from fnconv.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        print(f"fnconv: the command line needs {error.name}: pip install 'fnconv[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    app()
