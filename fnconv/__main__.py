"""`python -m fnconv` is the `fnconv` command."""

from fnconv.cli import main

if __name__ == "__main__":
    main()
