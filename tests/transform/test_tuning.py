"""fnconv.tune, and the file of choices that "auto" follows."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnconv
from fnconv.rules import measured
from fnconv.transform import tuning

X, W = jnp.ones((2, 12, 12, 8)), jnp.ones((3, 3, 8, 16))
KEY = "forward float32 2x12x12x8 -> 16, 3x3 pad 1+1,1+1"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """One that this process follows."""
    monkeypatch.setattr(measured, "_followed", [])
    path = tmp_path / "choices.json"
    measured.follow(path)
    jax.clear_caches()
    yield path
    measured.choices.cache_clear()
    jax.clear_caches()


def f(x, w):
    return fnconv.conv(x, w, padding=1)


def told(x=X, w=W):
    return str(fnconv.explain(f, x, w, platform="cpu")).partition("3x3: ")[2]


def write(path, entries, machine=None):
    path.write_text(json.dumps({machine or measured.machine(): entries}))
    measured.choices.cache_clear()
    jax.clear_caches()


def test_auto_follows_what_was_measured(file):
    before, without = told(), f(X, W)
    write(file, {KEY: {"rule": "columns", "ms": {"columns": 2.1, "lax": 3.4, "taps": 5.0}}})
    assert not before.startswith("columns")
    assert told() == "columns; measured: 2.10 ms against 3.40"
    assert told(X[:1]) == before  # another batch is another layer
    text = jax.jit(f).lower(X, W).as_text()
    named = jax.jit(lambda x, w: fnconv.conv(x, w, padding=1, rule="columns")).lower(X, W).as_text()
    assert text.count("dot_general") == named.count("dot_general") == 1
    np.testing.assert_allclose(f(X, W), without, rtol=1e-6)


def test_the_environment_names_the_file_or_turns_it_off(file, monkeypatch):
    write(file, {KEY: {"rule": "columns", "ms": {"columns": 2.0}}})
    measured._followed.clear()
    for value, followed in (("off", False), (str(file), True)):
        monkeypatch.setenv("FNCONV_CHOICES", value)
        measured.choices.cache_clear()
        assert ("measured" in told()) == followed


@pytest.mark.parametrize(
    "entry",
    [{"rule": "nonsense", "ms": {}}, {"ms": {}}, 3, {"rule": "lax", "ms": 3}, {"rule": "lax", "ms": {"lax": "fast"}}],
)
def test_damaged_entries_are_left_out_with_a_warning(file, entry):
    good = {KEY: {"rule": "columns", "ms": {"columns": 2.0}}}
    write(file, good | {KEY.replace("float32", "bfloat16"): entry})
    with pytest.warns(UserWarning, match="an entry is damaged and left out: 'forward bfloat16"):
        assert measured.choices() == good


def test_a_damaged_file_is_ignored_with_a_warning(file):
    before = told()
    file.write_text("{")
    measured.choices.cache_clear()
    with pytest.warns(UserWarning, match="choices.json: no choices of rules"):
        assert told() == before


def test_other_machines_choices_are_not_followed_and_stay(file):
    before = told()
    entry = {KEY: {"rule": "columns", "ms": {"columns": 2.0}}}
    write(file, entry, "another machine")
    assert told() == before
    fnconv.tune(f, X, W, path=file)
    stored = json.loads(file.read_text())
    assert stored["another machine"] == entry
    assert list(stored[measured.machine()]) == [KEY]


def test_a_rule_that_rounds_more_than_auto_promises_is_not_taken(file):
    before = told()
    write(file, {KEY: {"rule": "winograd4", "ms": {"winograd4": 1.0}}})
    assert told() == before


def test_every_map_of_a_step_is_measured(file):
    def step(w, x, labels):
        def loss(w):
            y = jax.vmap(lambda x: fnconv.conv(x, w[0], groups=2))(x)
            return fnconv.softmax_cross_entropy(fnconv.conv(y, w[1], rule="lax").mean((1, 2)), labels).mean()

        return jax.grad(loss)(w)

    seen = []
    w = jnp.ones((3, 3, 4, 16)), jnp.ones((1, 1, 16, 3))
    found = fnconv.tune(step, w, X, jnp.zeros(2, int), progress=lambda *told: seen.append(told))
    assert [m.map.partition(" ")[0] for m in found] == ["forward", "weight_vjp"]  # the other one is named
    assert [told[1:] for told in seen] == [(0, 2), (1, 2)]
    for m in found:
        assert {m.before, m.rule} <= set(m.ms)
        assert all(ms > 0 for ms in m.ms.values())
    again = fnconv.explain(step, w, X, jnp.zeros(2, int))
    assert sum("measured: " in c.because for c in again) == 2


def test_the_fastest_is_taken_where_the_difference_is_no_noise(file, monkeypatch):
    for ms, taken in (({"taps": 1.0}, "taps"), ({"taps": 9.8}, "lax"), ({"columns": 3.0, "taps": 4.0}, "columns")):
        monkeypatch.setattr(tuning, "_times", lambda thunks, ms=ms: {name: ms.get(name, 10.0) for name in thunks})
        file.unlink(missing_ok=True)
        measured.choices.cache_clear()
        (found,) = fnconv.tune(f, X, W)
        assert (found.before, found.rule, told().partition(";")[0]) == ("lax", taken, taken)


def test_what_auto_ran_is_timed_as_auto_runs_it(file, monkeypatch):
    """Each block of merged groups by the rule that is best for it, which `rule="merged"` alone does not ask for."""
    asked = []
    monkeypatch.setattr(tuning, "_times", lambda thunks: dict.fromkeys(thunks, 1.0))
    monkeypatch.setattr(tuning, "replace", lambda spec, rules: asked.append(rules[0]) or replace(spec, rules=rules))
    (found,) = fnconv.tune(lambda x, w: fnconv.conv(x, w, groups=2), jnp.ones((2, 9, 9, 64)), jnp.ones((3, 3, 32, 64)))
    assert (found.before, found.rule) == ("merged", "merged")
    assert "auto" in asked
    assert "merged" not in asked


def test_images_under_vmap_are_one_batch(file):
    """Sixteen times one image has as many tiles as a batch of sixteen, and one entry in the file."""
    x, w = jnp.ones((16, 10, 10, 64)), jnp.ones((3, 3, 64, 64))
    each = jax.vmap(lambda x: fnconv.conv(x, w, padding=1), in_axes=2, out_axes=0)
    apart = jnp.moveaxis(x, 0, 2)
    assert [fnconv.explain(g, a, platform="cpu")[0].rule for g, a in ((each, apart), (each, apart[:, :, :2]))] == [
        "winograd",
        "lax",
    ]
    key = "forward float32 16x10x10x64 -> 64, 3x3 pad 1+1,1+1"
    write(file, {key: {"rule": "columns", "ms": {"columns": 1.0}}})
    text = jax.jit(each).lower(apart).as_text()
    assert "measured" in str(fnconv.explain(each, apart, platform="cpu"))
    assert text == jax.jit(each).lower(apart).as_text()
    assert text.count("dot_general") == 1


def test_nothing_to_measure(file):
    assert str(fnconv.tune(jnp.sin, X)) == "no convolution under auto"


def test_processes_add_to_one_file(file):
    program = """
import pathlib, sys
from fnconv.rules import measured
from fnconv.transform import tuning
for i in range(20):
    measured.add(pathlib.Path(sys.argv[1]), {f"forward {sys.argv[2]}{i}": {"rule": "lax", "ms": {}}})
"""
    started = [subprocess.Popen([sys.executable, "-c", program, str(file), name]) for name in "abc"]
    assert [p.wait() for p in started] == [0, 0, 0]
    assert len(json.loads(file.read_text())[measured.machine()]) == 60


def test_errors(monkeypatch):
    with pytest.raises(TypeError, match="tune: fn must be a function; got int"):
        fnconv.tune(3)
    monkeypatch.setattr(measured, "_followed", [])
    monkeypatch.setenv("FNCONV_CHOICES", "off")
    with pytest.raises(ValueError, match="tune: path must name a file where FNCONV_CHOICES is off; got None"):
        fnconv.tune(f, X, W)
    with pytest.raises(
        ValueError, match=r"tune: path must name a file that can be written; got /dev/null/choices\.json"
    ):
        fnconv.tune(f, X, W, path="/dev/null/choices.json")
    assert measured.path() is None
