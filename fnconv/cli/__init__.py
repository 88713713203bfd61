"""The command line of fnconv."""

import sys

from fnconv.cli import interrupts


def main() -> None:
    """Run the `fnconv` command."""
    interrupts.handle(sys.argv[1] if len(sys.argv) > 1 else "")
    try:
        from fnconv.cli.app import app

        app()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        print(f"fnconv: the command line needs {error.name}: pip install 'fnconv[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        interrupts.end()
