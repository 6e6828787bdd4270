"""A convolution in plain numpy, in the type of its operands."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tvm.layer import Layer
from mnv2_tvm.window import Window

Array = NDArray[Any]


def convolve(x: Array, layer: Layer, weight: Array, border: Array) -> Array:
    """Sums [n, y, x, out] of x [n, y, x, in] by weight [taps, in of a group, out], without bias.

    Outside the image lies `border` [in].
    """
    y = np.zeros((len(x), *layer.output_shape[1:]), x.dtype)
    for seen, tap in zip(taps(x, layer.window, border), weight, strict=True):
        if layer.operator == "dwconv":
            y += seen * tap[0]
        else:
            y += (seen.reshape(-1, layer.in_channels) @ tap).reshape(y.shape)
    return y


def taps(x: Array, window: Window, border: Array) -> Iterator[Array]:
    """For each tap of the window what it sees [n, y, x, in]: one value of x for each output."""
    count, height, width, channels = x.shape
    edges = window.before + window.after
    before, stride = window.before, window.stride
    padded = x
    if edges:
        padded = np.empty((count, height + edges, width + edges, channels), x.dtype)
        padded[:] = border
        padded[:, before : before + height, before : before + width] = x
    rows, columns = (stride * (window.outputs(side) - 1) + 1 for side in (height, width))
    for ky in range(0, window.reach, window.dilation):
        for kx in range(0, window.reach, window.dilation):
            yield padded[:, ky : ky + rows : stride, kx : kx + columns : stride]
