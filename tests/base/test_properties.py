"""Hypothesis over geometry: on integers every formulation gives what the loops give, whatever the geometry."""

import numpy as np
import oracles
import pytest
from agreement import check_avg_pool, check_conv, check_max_pool
from cases import Conv, Pool
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

# every example is a program of its own: few by default and always the same, many and new ones with -m slow
FEW = settings(max_examples=6, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
MANY = settings(FEW, max_examples=250, derandomize=False, print_blob=True)
LAYOUTS = ("channels_last", "channels_first")


@st.composite
def geometries(draw) -> dict:
    """1 to 3 dimensions; paddings from a crop of 2 to more than the kernel; strides beyond the window; any batch."""
    n = draw(st.integers(1, 3))
    largest = (9, 6, 4)[n - 1]

    def per_axis(strategy):
        return tuple(draw(strategy) for _ in range(n))

    names = st.sampled_from(("VALID", "SAME", "SAME_LOWER", "FULL", "INPUT_SIZE"))
    pairs = st.tuples(st.integers(-2, 4), st.integers(-2, 4))
    padding = draw(
        st.one_of(names, st.integers(-1, 3), st.just(per_axis(st.integers(-1, 3))), st.just(per_axis(pairs)))
    )
    geometry = {
        "size": per_axis(st.integers(1, largest)),
        "window": per_axis(st.integers(1, 3)),
        "strides": draw(st.one_of(st.integers(1, 4), st.just(per_axis(st.integers(1, 4))))),
        "padding": padding,
        "dilation": draw(st.one_of(st.just(1), st.just(per_axis(st.integers(1, 3))))),
        "batch": draw(st.sampled_from(((2,), (1,), (), (2, 1)))),
        "layout": draw(st.sampled_from(LAYOUTS)),
    }
    steps = oracles.resolve(*(geometry[k] for k in ("size", "window", "strides", "padding", "dilation")))
    assume(all(a.size + a.low + a.high >= 0 for a in steps))
    assume(np.prod(oracles.outputs(steps)) <= 150)
    return geometry


@st.composite
def convs(draw) -> Conv:
    """Groups from one to depthwise, with a channel multiplier."""
    groups, c, d = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return Conv(**draw(geometries()), inputs=groups * c, outputs=groups * d, groups=groups)


@st.composite
def pools(draw) -> Pool:
    geometry = draw(geometries())
    if draw(st.booleans()):
        geometry["strides"] = None
    case = Pool(**geometry, channels=draw(st.integers(1, 2)))
    ceil_mode = draw(st.booleans()) and all(a.high >= 0 for a in case.axes)
    case = Pool(**geometry, channels=case.channels, ceil_mode=ceil_mode)
    assume(np.prod(oracles.outputs(case.axes)) <= 150)
    return case


def max_pool_agrees(case: Pool, seed: int) -> None:
    """Small integers with many ties, some -inf, some NaN."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, case.x_shape).astype(np.float64)
    check_max_pool(case, x)
    x[rng.random(x.shape) < 0.3] = -np.inf
    x[rng.random(x.shape) < 0.1] = np.nan
    check_max_pool(case, x)


@FEW
@given(convs())
def test_conv(case):
    check_conv(case)


@FEW
@given(pools(), st.integers(0, 99))
def test_max_pool(case, seed):
    max_pool_agrees(case, seed)


@FEW
@given(pools())
def test_avg_pool(case):
    check_avg_pool(case)


@pytest.mark.slow
@MANY
@given(convs())
def test_conv_widely(case):
    check_conv(case)


@pytest.mark.slow
@MANY
@given(pools(), st.integers(0, 10**6))
def test_max_pool_widely(case, seed):
    max_pool_agrees(case, seed)


@pytest.mark.slow
@MANY
@given(pools())
def test_avg_pool_widely(case):
    check_avg_pool(case)
