"""The guess at why two arrays differ."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnconv.judge.own import diagnose

RNG = np.random.default_rng(0)
WANT = RNG.integers(-9, 10, (3, 4, 5)).astype(np.float32)


def changed(where, value):
    got = WANT.copy()
    got[where] = value
    return got


@pytest.mark.parametrize(
    ("got", "guess"),
    [
        (WANT, "no difference"),
        (WANT * np.float32(1 + 1e-7), "rounding only"),
        (np.zeros_like(WANT), "all zero"),
        (changed((0, 0, 0), np.nan), "NaN where the right value is finite (1 of 60 entries)"),
        (changed((0, 0, 0), np.inf), "infinite where the right value is finite"),
        (-WANT, "the sign is flipped"),
        (WANT * 2, "every entry is 2 times the right one"),
        (WANT / 12, "every entry is 0.0833333 times the right one: a mean over positions (12) instead of a sum?"),
        (WANT * 3, "every entry is 3 times the right one: a sum over batch (3) instead of a mean?"),
        (WANT[:, ::-1, ::-1], "flipped along axis 1 and axis 2"),
        (np.swapaxes(WANT, 0, 1), "axes are exchanged: the shape is (4, 3, 5) instead of (3, 4, 5)"),
        (np.swapaxes(WANT, 0, 2).reshape(3, 4, 5), "axes (2, 1, 0) read as if they were in order"),
        (WANT[:2], "the shape is (2, 4, 5) instead of (3, 4, 5)"),
        (np.roll(WANT, 1, 0), "batch members are exchanged"),
        (np.broadcast_to(WANT.sum(0), WANT.shape), "every batch member has the sum over the batch"),
        (WANT + WANT.sum(0) / 10, "the batch leaks: 0.1 times the whole batch"),
        (np.concatenate([RNG.integers(9, 99, (3, 1, 5)), WANT[:, :-1]], 1), "shifted up by 1 cell along axis 1"),
        (np.concatenate([WANT[:, :, 2:], RNG.integers(9, 99, (3, 4, 2))], 2), "shifted down by 2 cells along axis 2"),
        (changed(np.s_[:, -1], 0), "only in the last 1 of 4 along axis 1 (leftover or high padding?)"),
        (changed(np.s_[:, :, :2], 99), "only in the first 2 of 5 along axis 2 (low padding?)"),
        (changed(np.s_[:, [0, -1]], 99), "only at both ends of axis 1"),
        (changed(np.s_[1], 99), "only at 1 of 3 along batch"),
        (changed((1, 2, 3), 99), "in a single entry, (1, 2, 3)"),
        (
            changed(np.s_[:, 1], WANT[:, 1] / 72),
            "every wrong entry is 0.0138889 = 1/72 times the right one, only at 1 of 4",
        ),
        (changed(np.s_[0, 1:3], 0), "zero where it should not be, "),
    ],
)
def test_diagnose_recognises(got, guess):
    counts = {"batch": 3, "positions": 12}
    names = ["batch", "axis 1", "axis 2"]
    text = diagnose(got, WANT, counts=counts, batch_axis=0, axis_names=names)
    assert guess in text
    assert "\n" not in text


def test_diagnose_tells_moved_values():
    """The same values elsewhere, or the same total elsewhere."""
    want = np.arange(24.0).reshape(4, 6)
    got = want.copy()
    got[1, 2], got[3, 5] = want[3, 5], want[1, 2]
    assert "the same values in other places" in diagnose(got, want)
    got = want.copy()
    got[1, 2] += 5.5
    got[2, 1] -= 5.5
    assert "the totals agree" in diagnose(got, want)


def test_diagnose_tries_alternatives_and_components():
    """A mistake named by the caller; a component that is missing or weighted."""
    a, b = WANT, np.abs(WANT)[::-1] + 1
    assert diagnose(b, a, alternatives={"b was taken": lambda: b, "unused": lambda: a}) == "b was taken"
    parts = {"part a": lambda: a, "part b": lambda: b}
    assert diagnose(a, a + b, components=parts) == "part b is left out"
    assert diagnose(a + b * np.float32(1.0005), a + b, components=parts) == "part b counts 1.0005 times"


def test_diagnose_compares_infinities_with_themselves():
    """Equal ones are no difference, and a number in the place of one is explained by no other number."""
    want = np.array([[-np.inf, 1.0, 2.0], [3.0, -np.inf, 4.0]])
    got = want.copy()
    got[0, 1] = 9
    assert "in a single entry, (0, 1)" in diagnose(got, want)
    got[1, 1] = 0
    assert diagnose(got, want, alternatives={"unlike": lambda: want + 1}) != "unlike"
    assert diagnose(got, want, alternatives={"alike": lambda: got}) == "alike"


def test_diagnose_does_not_guess_from_noise():
    got = WANT + RNG.standard_normal(WANT.shape).astype(np.float32)
    assert diagnose(got, WANT).startswith("no known pattern: wrong in 60 of 60 entries")


def test_diagnose_accepts_integers_of_a_narrow_type_with_no_tolerance():
    """What rounds in bfloat16 is a difference where every bit is due."""
    want = np.full((4, 6), 100, jnp.bfloat16)
    got = want.copy()
    got[3] = 101
    assert "rounding" in diagnose(got, want)
    assert "only in the last 1 of 4 along axis 0" in diagnose(got, want, tolerance=0)
