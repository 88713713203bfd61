"""`python -m benchmarks`."""

import sys

if __name__ == "__main__":
    try:
        from benchmarks.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        print(f"benchmarks: the command line needs {error.name}: pip install '.[bench]'", file=sys.stderr)
        raise SystemExit(2) from None
    app()
