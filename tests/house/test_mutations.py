"""Planted bugs: each must turn the check named beside it red, and all checks are green without one.

The checks are those of the other tests.  Programs traced before a bug was planted are forgotten first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import agreement
import jax
import numpy as np
import pool_data
import pytest
import test_activations_losses as elementwise
import test_bounds
import test_choice
import test_class_losses
import test_dropout_losses
import test_elementwise
import test_exact_integers as exact
import test_extremes
import test_integers_modulo
import test_nan_in_maxima
import test_norm
import test_one_nan
import test_orders
import test_pools as pools
import test_pools_averages as averages
import test_resize
import test_scales
import test_shuffle_response
from cases import CONVS, POOLS, Conv, Pool
from planted_bugs import BUGS, SHAPE_ERRORS

Patch = pytest.MonkeyPatch

# ---- the checks -----------------------------------------------------------------------------------------------------

# strides, dilations, sides and groups all differ, and a cell of the input is left over
CONV = Conv((8, 6), (2, 3), (2, 1), ((1, 0), (0, 2)), (1, 2), inputs=4, outputs=4, groups=2)
DEPTHWISE = CONVS["2d depthwise, multiplier 2"]
OVERLAP, CEIL = POOLS["2d dilated, asymmetric"], POOLS["2d ceil mode, padded"]
PAST_THE_INPUT = POOLS["2d ceil mode, a window past the input is not added"]


def negative(case: Pool) -> np.ndarray:
    return pool_data.distinct(case) - 1000


CHECKS: dict[str, Callable[[], object]] = {
    "conv: integers": lambda: agreement.check_conv(CONV),
    "conv: integers, depthwise": lambda: agreement.check_conv(DEPTHWISE),
    "conv: a batch in chunks": lambda: test_choice.test_chunks_under_vmap_and_twice_differentiated("winograd"),
    "conv: bounds": lambda: test_bounds.check_conv_bounds(CONV, "float32"),
    "conv: bounds in bfloat16": lambda: test_bounds.check_conv_bounds(CONV, "bfloat16"),
    "conv_transpose: integers": lambda: exact.test_conv_transpose_and_its_gradients_in_every_formulation(
        "1d output padding, int padding", "float32"
    ),
    "max_pool: negative integers": lambda: agreement.check_max_pool(OVERLAP, negative(OVERLAP)),
    "max_pool: ties": lambda: agreement.check_max_pool(OVERLAP, pool_data.tied(OVERLAP)),
    "max_pool: NaN and infinities": lambda: agreement.check_max_pool(OVERLAP, pool_data.not_finite(OVERLAP)),
    "max_pool: ceil mode": lambda: agreement.check_max_pool(CEIL, pool_data.distinct(CEIL)),
    "max_pool: a window past the input": lambda: agreement.check_max_pool(
        PAST_THE_INPUT, pool_data.distinct(PAST_THE_INPUT)
    ),
    "max_unpool: duplicates": pools.test_max_unpool_keeps_the_last_of_several_and_its_gradient_goes_there_alone,
    "adaptive_max_pool: windows": lambda: averages.test_adaptive_max_pool_keeps_the_conventions_of_max_pool("equal"),
    "avg_pool: integers": lambda: agreement.check_avg_pool(CEIL),
    "lp_pool: bounds": lambda: test_bounds.check_lp_pool_bounds(OVERLAP, 3),
    "lp_pool: window of zeros": averages.test_lp_pool_of_a_window_of_zeros_has_gradient_zero,
    "relu: kink": lambda: elementwise.test_relu("float32"),
    "sigmoid: saturation": lambda: elementwise.test_sigmoid_and_its_gradient_keep_their_digits("float32"),
    "cross-entropy: large logits": lambda: elementwise.test_cross_entropy_at_logits_of_ten_thousand("float32"),
    "cross-entropy: bounds": lambda: elementwise.test_cross_entropy_is_log_p_and_its_gradient_p_minus_y("float32"),
    "squared_error: integers": lambda: elementwise.test_squared_error("float32"),
    "max_pool: third derivative": lambda: test_orders.check_orders(test_orders.MAXIMUM),
    "max_pool: NaN in larger arrays": lambda: test_nan_in_maxima.test_every_formulation_of_max_pooling_keeps_them(
        "3x3", "float32"
    ),
    "conv: integers modulo 2^8": lambda: test_integers_modulo.test_every_rule_of_conv_is_exact_or_refuses(
        "grouped", "int8"
    ),
    "log_sigmoid: digits": lambda: test_elementwise.check_digits("log_sigmoid", "float32"),
    "gelu: digits": lambda: test_elementwise.check_digits("gelu", "float32"),
    "relu6: kinks": test_elementwise.test_slopes_at_kinks,
    "layer_norm: a large mean": lambda: test_norm.check_large_means("float32"),
    "layer_norm: two values": lambda: test_norm.test_two_values_far_from_zero("float32", 0),
    "dice_loss: digits": lambda: test_class_losses.check_dice("float32"),
    "resize: whole numbers": lambda: test_resize.test_whole_numbers("float32", (6, 16), False),
    "local_response_norm: digits": lambda: test_shuffle_response.check_response("float32", 4),
    "sigmoid_binary_cross_entropy: digits": lambda: test_dropout_losses.check_binary_cross_entropy("float32"),
    "tanh: extremes": lambda: test_extremes.check_extremes("tanh", "float32"),
    "lp_pool: extremes": lambda: test_extremes.check_norms(2, "float32"),
    "cross-entropy: ignored labels": test_extremes.check_ignored_labels,
    "adaptive_avg_pool: one NaN": lambda: test_one_nan.test_averages_over_adaptive_windows(3),
    "conv: accuracy by component": lambda: test_scales.check_component_wise("winograd"),
}


@pytest.fixture
def patch(monkeypatch: Patch) -> Iterator[Patch]:
    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()


def forget() -> None:
    jax.clear_caches()
    for program in (
        agreement.conv_program,
        agreement.max_pool_program,
        agreement.avg_pool_program,
        test_scales._results,
    ):
        program.cache_clear()


def table() -> str:
    """Of README.md beside this file: each bug, and the function that finds it."""
    lines = ["| planted bug | found by |", "|---|---|"]
    for bug, (_, check, *_) in BUGS.items():
        run = CHECKS[check]
        if run.__name__ == "<lambda>":  # module.function(...)
            run = getattr(globals()[run.__code__.co_names[0]], run.__code__.co_names[1])
        lines.append(f"| {bug} | {check} (`{run.__module__}.{run.__name__}`) |")
    return "\n".join(lines) + "\n"


def test_the_readme_lists_every_bug_and_no_other():
    assert table() in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.sample(10)
@pytest.mark.parametrize("name", CHECKS)
def test_green_without_a_bug(name):
    CHECKS[name]()


@pytest.mark.parametrize("bug", BUGS)
def test_red_with_the_bug(bug, patch):
    """A wrong number is what must be found; a bug of geometry may also leave a shape that nothing can be made of."""
    plant, check, *rules = BUGS[bug]
    plant(patch)
    if rules:
        every = agreement.formulations
        kept = (*rules, "auto")
        patch.setattr(agreement, "formulations", lambda of: {k: v for k, v in every(of).items() if k in kept})
    errors = (ValueError, TypeError) if bug in SHAPE_ERRORS else AssertionError
    with pytest.raises(errors) as caught:
        CHECKS[check]()
    lines = [line for line in str(caught.value).splitlines() if line.strip()]
    print(bug, check, " ".join(lines[:2]), sep=" | ")
