"""Packages that the extra `test` leaves to another one: what needs them is skipped where they are missing."""

import pytest


def needs(extra, *packages):
    """Skip the test, or the whole module that calls it while it is imported, and say what to install."""
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed; the extra `{extra}` has it")
