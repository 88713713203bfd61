"""Torch's own operator samples, run against the public functions, forward and backward.

The samples are those that Torch tests its operators with.  Torch itself, in float64, is the oracle: results of
operations that are exact on the data equal its bit for bit, others lie within the bound that their roundings allow.
Calls that differ in spelling alone share a program, and each of their samples is run; by default a few calls of every
operator are drawn, with `-m slow` all are run.  With `-rP` the numbers are printed.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled
from extras import needs

needs("oracles", "torch", "expecttest")

import torch
from torch_operators import OPERATORS, Operator

CHUNK = 24  # calls compiled together
SHARE = 12  # calls of one operator that the default run draws, over the number of spatial axes
NEEDED = ("running_mean", "running_var")  # which Torch's batch_norm has no default for
Results = dict[str, np.ndarray]


# ---- samples --------------------------------------------------------------------------------------------------------


@cache
def database() -> dict[str, Any]:
    """Torch's operators by name and variant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Torch imports here is its own affair
        from torch.testing._internal.common_methods_invocations import op_db
    return {f"{op.name} {op.variant_test_name}".strip(): op for op in op_db}


def given_samples(name: str, dtype: str) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
    """(function, arguments, named arguments) of each of Torch's samples.

    Torch has none for lp_pool, but for the modules made of it, and none for fold, the adjoint of unfold.
    """
    torch.manual_seed(0)
    short, kind = name.removeprefix("nn.functional."), getattr(torch, dtype)
    if short == "fold":
        for function, (x, kernel, *geometry), _ in given_samples("nn.functional.unfold", dtype):
            cols = function(x, kernel, *geometry)
            yield torch.nn.functional.fold, (cols, x.shape[-2:], kernel, *geometry), {}
    elif short.startswith("lp_pool"):
        from torch.testing._internal.common_modules import module_db

        (info,) = (m for m in module_db if m.name == f"nn.LPPool{short[-2:]}")
        for m in info.module_inputs_func(info, "cpu", kind, requires_grad=False, training=True):
            args = (*m.forward_input.args, *m.constructor_input.args)
            yield getattr(torch.nn.functional, short), args, m.constructor_input.kwargs
    else:
        op = database()[name]
        for s in op.sample_inputs_func(op, "cpu", kind, requires_grad=False):
            yield op.op, (s.input, *s.args), s.kwargs


class Sample:
    """One call, its arguments by name; floating operands apart, in float64."""

    def __init__(
        self, operator: Operator, function: Any, args: Any, kwargs: Any, dtype: str, rng: np.random.Generator
    ) -> None:
        names = list(inspect.signature(operator.ours).parameters)
        self.operator, self.function, self.dtype, self.rng = operator, function, dtype, rng
        self.given = {
            k: v for k, v in [*zip(names, args, strict=False), *kwargs.items()] if v is not None or k in NEEDED
        }
        for k, v in self.given.items():
            if isinstance(v, torch.Tensor) and v.is_floating_point():
                self.given[k] = self._numbers(v.double())
        self.arguments = operator.arguments(self.given)
        tensors = {k: v for k, v in self.arguments.items() if isinstance(v, torch.Tensor)}
        self.operands = {k: v.numpy() for k, v in tensors.items() if k in operator.operands and v.is_floating_point()}
        self.constants = {k: v.numpy() for k, v in tensors.items() if k not in self.operands}
        self.options = {k: v for k, v in self.arguments.items() if k not in tensors}

    def _numbers(self, x: Any) -> Any:
        match self.operator.numbers:
            case "whole":
                return torch.from_numpy(self.rng.integers(-3, 4, tuple(x.shape)).astype(np.float64))
            case "moduli":
                return x.abs()
        return x

    @property
    def key(self) -> Any:
        """Equal for calls that one program serves."""
        arrays = [(k, v.shape, v.dtype) for k, v in (*self.operands.items(), *self.constants.items())]
        return str(arrays), str(self.options)

    @cached_property
    def cotangent(self) -> np.ndarray:
        y = self._outputs([torch.from_numpy(x) for x in self.operands.values()])[0].numpy()
        random = self.rng.integers(1, 5, y.shape) if self.operator.bound is None else self.rng.standard_normal(y.shape)
        return np.asarray(random).astype(self.dtype).astype(np.float64)

    def _outputs(self, operands: list[Any]) -> tuple[Any, ...]:
        y = self.function(**{**self.given, **dict(zip(self.operands, operands, strict=True))})
        return y if isinstance(y, tuple) else (y,)

    def torch(self, operands: tuple[np.ndarray, ...], cotangent: np.ndarray) -> Results:
        """y, further outputs, and the gradient of every operand."""
        leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in operands]
        y, *rest = self._outputs(leaves)
        gradients = torch.autograd.grad(y, leaves, torch.tensor(cotangent))
        named = {gradient_of(k): g.numpy() for k, g in zip(self.operands, gradients, strict=True)}
        return {"y": y.detach().numpy(), **named, **{f"output {i}": r.numpy() for i, r in enumerate(rest, 1)}}

    def want(self) -> Results:
        results = self.torch(tuple(self.operands.values()), self.cotangent)
        if "indices" in self.constants:  # where several share a cell all but one are overwritten, and have no gradient
            results["dx"] = results["dx"] * stays(self.constants["indices"], len(self.arguments["kernel_size"]))
        return results

    def ours(self, operands: dict[str, jax.Array], constants: dict[str, jax.Array], dy: jax.Array) -> Any:
        """What `torch` computes, to be traced."""

        def outputs(operands: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
            y = self.operator.ours(**self.options, **constants, **operands)
            return (y[0], y[1:]) if isinstance(y, tuple) else (y, ())

        y, pullback, rest = jax.vjp(outputs, operands, has_aux=True)
        named = {gradient_of(k): g for k, g in pullback(dy.astype(y.dtype))[0].items()}
        return {"y": y, **named, **{f"output {i}": r for i, r in enumerate(rest, 1)}}


def gradient_of(operand: str) -> str:
    return "dx" if operand == "input" else f"d{operand}"


def stays(indices: np.ndarray, spatial: int) -> np.ndarray:
    """Whether no later entry of the same feature map has the same index."""
    rows = indices.reshape(*indices.shape[:-spatial], -1)
    later = np.triu(np.ones((rows.shape[-1],) * 2, bool), 1)
    return ~((rows[..., :, None] == rows[..., None, :]) & later).any(axis=-1).reshape(indices.shape)


# ---- comparison -----------------------------------------------------------------------------------------------------


def compare(sample: Sample, got: Results, dtype: str) -> None:
    want = sample.want()
    assert got.keys() <= want.keys()
    assert got["y"].dtype == str(sample.options.get("dtype") or dtype).removeprefix("torch.")
    bound = sample.operator.bound and sample.operator.bound(sample.arguments)

    @cache
    def errors(dtype: str) -> Results:
        return bound.errors(sample.torch, tuple(sample.operands.values()), sample.cotangent, dtype)

    for name, value in got.items():
        assert value.shape == want[name].shape
        error = np.abs(np.asarray(value, np.float64) - want[name])
        bad = ~(error <= (errors(value.dtype.name)[name] if bound else 0.0))
        if bad.any():
            at = np.unravel_index(int(bad.argmax()), bad.shape)
            raise AssertionError(f"{name} at {(*map(int, at),)}: {value[at]!r}, Torch has {want[name][at]!r}")


def check(name: str, dtype: str, share: int | None = None) -> None:
    """All samples of an operator, or of a share of its calls."""
    operator, calls, rng, declared = OPERATORS[name], dict[Any, list[Sample]](), np.random.default_rng(0), 0
    for function, args, kwargs in given_samples(name, dtype):
        sample = Sample(operator, function, args, kwargs, dtype, rng)
        if operator.declared(sample.arguments):
            declared += 1
        else:
            calls.setdefault(sample.key, []).append(sample)
    drawn = sorted(rng.permutation(len(calls))[:share])
    chosen, failures, count = [list(calls.values())[i] for i in drawn], [], 0
    for start in range(0, len(chosen), CHUNK):
        group = chosen[start : start + CHUNK]
        program = compiled(lambda data, group=group: [call[0].ours(*d) for call, d in zip(group, data, strict=True)])
        for i in range(max(map(len, group))):
            turn = [call[i % len(call)] for call in group]
            data = [
                (arrays(s.operands, dtype), arrays(s.constants, dtype), jnp.asarray(s.cotangent, dtype)) for s in turn
            ]
            for call, sample, got in zip(group, turn, program(data), strict=True):
                if i < len(call):
                    count += 1
                    try:
                        compare(sample, jax.tree.map(np.asarray, got), dtype)
                    except AssertionError as error:
                        failures.append(f"{sample.key}: {error}")
    taken = f"{count} of {sum(map(len, calls.values()))} samples, {len(chosen)} of {len(calls)} calls"
    print(f"{name}, {dtype}: {taken}, {declared} declared")
    assert not failures, "\n".join(failures)
    assert count > 0


def arrays(values: Results, dtype: str) -> dict[str, jax.Array]:
    """Numbers in the dtype, indices and labels in their own."""
    return {k: jnp.asarray(v, dtype if v.dtype.kind == "f" else v.dtype) for k, v in values.items()}


@pytest.fixture(autouse=True)
def _wide() -> Iterator[None]:
    """64-bit values, of which float32 programs use none."""
    with jax.enable_x64(True):
        yield


pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss"),
]
ROUNDED = [name for name, operator in OPERATORS.items() if operator.bound and operator.spatial < 2]


@pytest.mark.sample(10)
@pytest.mark.parametrize("name", OPERATORS)
def test_samples(name: str) -> None:
    check(name, "float32", SHARE // max(1, OPERATORS[name].spatial))


@pytest.mark.sample(16)
@pytest.mark.parametrize("name", ROUNDED)
def test_samples_in_float64(name: str) -> None:
    check(name, "float64", SHARE // max(1, OPERATORS[name].spatial))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPERATORS)
def test_all_samples(name: str, dtype: str) -> None:
    check(name, dtype)
    jax.clear_caches()  # hundreds of programs


def test_complex_numbers_are_refused() -> None:
    """Where Torch takes them, unless it is asked to cast them first."""
    refused = []
    for name in OPERATORS.keys() & database().keys():
        if torch.complex64 in database()[name].dtypes and "dtype" not in name:
            function, args, kwargs = next(given_samples(name, "complex64"))
            sample = Sample(OPERATORS[name], function, args, kwargs, "complex64", np.random.default_rng(0))
            tensors = {k: jnp.asarray(v.numpy()) for k, v in sample.arguments.items() if isinstance(v, torch.Tensor)}
            with pytest.raises(TypeError, match=r"must have dtype float16, bfloat16, float32, float64.*complex64"):
                OPERATORS[name].ours(**(sample.arguments | tensors))
            refused.append(name)
    print("complex numbers refused by", *sorted(refused))
    assert {"matmul", "sigmoid", "nn.functional.conv2d", "nn.functional.conv_transpose3d"} <= set(refused)


def test_a_wrong_result_is_a_failure() -> None:
    """One element of a gradient off by its last digit."""
    name = "nn.functional.linear"
    sample = Sample(OPERATORS[name], *list(given_samples(name, "float32"))[2], "float32", np.random.default_rng(0))
    data = [arrays(values, "float32") for values in (sample.operands, sample.constants)]
    got = jax.tree.map(np.array, sample.ours(*data, jnp.asarray(sample.cotangent, "float32")))
    compare(sample, got, "float32")
    got["dweight"].flat[-1] = np.nextafter(got["dweight"].flat[-1], np.float32(np.inf))
    with pytest.raises(AssertionError, match="dweight at"):
        compare(sample, got, "float32")


def test_every_operator_of_torch_that_has_a_counterpart_is_in_the_table() -> None:
    """Fractional pools are Torch's alone, its gradients go by another name, its "nearest" lies elsewhere."""
    families = (
        *("conv", "max_pool", "max_unpool", "avg_pool", "adaptive_", "softmax", "log_softmax", "pixel_", "prelu"),
        *(
            "layer_norm",
            "group_norm",
            "instance_norm",
            "rms_norm",
            "local_response",
            "nll_loss",
            "huber",
            "interpolate",
        ),
    )
    short = {name: name.removeprefix("nn.functional.") for name in database()}
    found = {name for name, s in short.items() if s.startswith(families) and not s.endswith(("_backward", " nearest"))}
    assert found - OPERATORS.keys() == set()
    assert OPERATORS.keys() - database().keys() == {
        "nn.functional.fold",
        *(f"nn.functional.lp_pool{n}d" for n in (1, 2, 3)),
    }
