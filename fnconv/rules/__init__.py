"""Interchangeable formulations of each map: pure functions of one signature, simplest first."""
