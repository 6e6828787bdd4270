"""The data on which a candidate is checked and timed: seeded inputs and the right answer."""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.model.interpreter import Array, conv2d


@dataclass(frozen=True)
class Problem:
    """Operands of one layer and the reference output, NHWC; weights [taps, in, out]."""

    x: np.ndarray
    parameters: list[np.ndarray]  # in the order of `layer.parameters`
    residual: np.ndarray | None
    reference: np.ndarray

    def arguments(self, layer: Layer, schedule: Schedule) -> list[np.ndarray]:
        """The kernel's inputs in its order, weights packed as the schedule wants them."""
        operands = [self.x, *schedule.pack(layer, self.parameters)]
        return operands if self.residual is None else [*operands, self.residual]


@lru_cache(maxsize=4)
def problem(layer: Layer) -> Problem:
    """The problem of a layer; the same every time."""
    random = np.random.default_rng(0)

    def normal(shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    x = normal(layer.input_shape)
    if not layer.weighted:
        mean = x.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
        return Problem(x, [], None, mean)
    residual = normal(layer.output_shape) if layer.epilogue == "residual" else None
    parameters = [
        normal(p.shape, prod(p.shape[:-1]) ** -0.5 if p.role == "weight" else 1.0)
        for p in layer.parameters
    ]
    y = x.astype(np.float64)
    for number, part in enumerate(layer.weighted):
        own = {
            p.role: array
            for p, array in zip(layer.parameters, parameters, strict=True)
            if p.part == number
        }
        y = _reference(part, y, own["weight"], own["bias"], residual)
    return Problem(x, parameters, residual, y.astype(np.float32))


def _reference(
    layer: Layer,
    x: Array,
    weight: np.ndarray,
    bias: np.ndarray,
    residual: np.ndarray | None,
) -> Array:
    _, depth, channels = weight.shape
    window, side = layer.window, layer.window.size
    depthwise = layer.operator == "dwconv"
    shape = (side, side, channels, 1) if depthwise else (side, side, depth, channels)
    taps = weight.reshape(shape).astype(np.float64)
    padding = (window.before, window.after)
    y: Array = conv2d(x, taps, window.stride, padding, depthwise=depthwise) + bias
    if layer.epilogue == "relu6":
        y = y.clip(0, 6)
    if layer.epilogue == "residual":
        assert residual is not None
        y += residual
    return y
