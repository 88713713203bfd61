"""Manual against automatic gradient of a user's function.

gradient.py   the function as arrays to arrays
replay.py     a program once more in float64
rounding.py   what rounding can do to it
exact.py      both together: results in float64, and bounds on how far rounding takes them
judge.py      one leaf: the distances, the verdict
measure.py    time and residuals
report.py     the table
compare.py    the public function
"""
