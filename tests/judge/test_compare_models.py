"""`with_manual_rules` and `compare` on files as users write them, in five libraries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extras import needs

needs("oracles", "equinox", "flax", "haiku")

from flax import nnx

from fnconv import compare, with_manual_rules

FOLDER = Path(__file__).parents[1] / "support" / "models"
LEAVES = {"densenet": 28, "vit": 38, "dilated": 5, "gan": 17, "audio": 6, "volume": 9, "text": 9}


@pytest.fixture(autouse=True)
def _lenient():
    """The libraries promote dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def load(name):
    spec = importlib.util.spec_from_file_location(f"models_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_replaced(report, model):
    assert report.counts == model.replaced
    assert {site.operation for site in report.left} == getattr(model, "left", set())
    assert not report.late


LARGE = ("densenet", "vit", "gan")


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", LARGE)
def test_every_operation_is_replaced(name):
    model = load(name)
    check_replaced(with_manual_rules(model.loss).replaced(*model.args()), model)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in LEAVES])
def test_every_leaf_agrees(name):
    """Each gradient within what rounding explains, manual and automatic; all that fnconv has replaced."""
    model = load(name)
    report = compare(model.loss, *model.args(), samples=8, rounds=0, **model.options)
    assert len(report.leaves) == LEAVES[name]
    for leaf in report.leaves:  # a softmax does not change with the bias of its keys; float16 would not show a percent
        weak = "key.bias" in leaf.path or name == "volume"
        assert leaf.verdict in ("equal", "agrees", *["too weak"] * weak), str(report)
        assert max(leaf.ratio, leaf.ratio_autodiff) <= 1
    assert any(leaf.worst.float64 for leaf in report.leaves)
    check_replaced(report.replaced, model)


def test_nnx_state_of_the_argument_stays():
    """Running statistics are updated in the copy that is differentiated."""
    norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)), jnp.float32)
    report = compare(lambda norm, x: (norm(x) ** 3 + norm(x)).sum(), norm, x, rounds=0)
    assert report.ok
    assert [leaf.path for leaf in report.leaves] == [f"norm.{name}.value" for name in ("bias", "mean", "scale", "var")]
    np.testing.assert_array_equal(norm.mean[...], np.zeros(2))
