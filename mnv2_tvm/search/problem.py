"""The data on which a candidate is checked and timed: seeded inputs and torch's answer."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer

TOLERANCE = 1e-4  # largest error over largest reference value


@dataclass(frozen=True)
class Problem:
    """Operands of one layer and the reference output, NHWC; weights [taps, in, out]."""

    x: np.ndarray
    weights: list[tuple[np.ndarray, np.ndarray]]  # (weight, bias) of each part
    residual: np.ndarray | None
    reference: np.ndarray

    def arguments(self, layer: Layer, schedule: Schedule) -> list[np.ndarray]:
        """The kernel's inputs in its order, weights packed as the schedule wants them."""
        packed = schedule.pack(layer, [weight for weight, _ in self.weights])
        operands = [self.x]
        for weight, (_, bias) in zip(packed, self.weights, strict=True):
            operands += [weight, bias]
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
    weights, y = [], x
    residual = normal(layer.output_shape) if layer.epilogue == "residual" else None
    for part in layer.weighted:
        assert part.weight_shape is not None
        taps, depth, channels = part.weight_shape
        weight, bias = normal(part.weight_shape, (taps * depth) ** -0.5), normal((channels,))
        weights.append((weight, bias))
        y = _reference(part, y, weight, bias, residual)
    return Problem(x, weights, residual, y)


def _reference(
    layer: Layer,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    residual: np.ndarray | None,
) -> np.ndarray:
    taps, depth, channels = weight.shape
    side = 3 if taps == 9 else 1
    oihw = weight.reshape(side, side, depth, channels).transpose(3, 2, 0, 1)
    y = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        torch.from_numpy(np.ascontiguousarray(oihw)),
        torch.from_numpy(bias),
        stride=layer.stride,
        padding=side // 2,
        groups=layer.in_channels if layer.operator == "dwconv" else 1,
    )
    result: np.ndarray = y.permute(0, 2, 3, 1).numpy()
    if layer.epilogue == "relu6":
        result = result.clip(0, 6)
    if layer.epilogue == "residual":
        assert residual is not None
        result = result + residual
    return result
