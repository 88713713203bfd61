"""Formulations are modules: each has every map of its operation, and in all of them a map has one signature."""

from __future__ import annotations

import inspect

import pytest

from fnconv.rules import available, avg_pool, conv, im2col, max_pool

OPERATIONS = {"conv": conv, "max_pool": max_pool, "avg_pool": avg_pool, "im2col": im2col}


def required(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_map_has_one_signature(operation):
    package = OPERATIONS[operation]
    names = tuple(f.__name__.rpartition(".")[2] for f in package.FORMULATIONS)
    for map_, rules in package.RULES.items():
        assert tuple(rules) == names
        assert [rules[n] for n in names] == [getattr(f, map_) for f in package.FORMULATIONS]
        assert len({tuple(required(rule)) for rule in rules.values()}) == 1, map_


def test_rules_of_a_norm_of_columns_are_those_of_im2col():
    assert available.names("lp_pool") == available.names("im2col")


def test_facts_stand_beside_formulations():
    """Those that grow or divide say so themselves; who rounds whole numbers also divides and grows."""
    assert conv.ROUNDING <= conv.DIVIDES <= set(conv.GROWTH)
    assert all(factor >= 1 for factor in conv.GROWTH.values())
