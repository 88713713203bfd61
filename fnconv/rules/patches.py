"""Formulations of the linear map behind im2col, col2im and power-average pooling, each with its adjoint."""

from collections.abc import Callable
from typing import Any

from fnconv.base.dtypes import accumulator
from fnconv.base.pairs import col2im, im2col, shifted_col2im, shifted_im2col

RULES: dict[str, dict[str, Callable[..., Any]]] = {
    "forward": {"segment_sum": im2col, "shifted": shifted_im2col},
    "input_vjp": {"segment_sum": col2im, "shifted": shifted_col2im},
}

__all__ = ["RULES", "accumulator"]
