"""Hypothesis over geometry: the symbols of `show.conv`, evaluated, are the gradients that fnconv computes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_show import assert_symbols_are_gradients, layer_of

axis = st.tuples(
    st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(-1, 3), st.integers(-1, 3)
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(axis, min_size=1, max_size=3), st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 4, 2)]))
def test_symbols_of_any_conv_evaluate_to_its_gradients(axes, channels):
    size, window, strides, dilation, low, high = zip(*axes, strict=True)
    options = {"strides": strides, "padding": list(zip(low, high, strict=True)), "dilation": dilation}
    names = dict(zip(("channels", "out_channels", "groups"), channels, strict=True))
    try:
        layer = layer_of(size, window, **options, **names)
    except ValueError as error:
        assume("must fit into the padded input" not in str(error) and "must not crop" not in str(error))
        raise
    assert_symbols_are_gradients(layer)
