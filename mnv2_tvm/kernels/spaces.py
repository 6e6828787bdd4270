"""The search spaces of layers, each enumerated once in a process."""

from collections.abc import KeysView
from functools import lru_cache

from mnv2_tvm.kernels import Schedule, kernels_for
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


def search_space(layer: Layer, target: Target) -> KeysView[Schedule]:
    """The points of all kernels that accept the layer, in order, to be looked up as in a set."""
    return _points(layer, target, kernels_for(layer, target))


@lru_cache(maxsize=128)  # the layers and blocks of two networks; a block has up to 7250 points
def _points(
    layer: Layer, target: Target, kernels: tuple[type[Schedule], ...]
) -> KeysView[Schedule]:
    points = [point for kernel in kernels for point in kernel.space(layer, target)]
    return dict.fromkeys(points).keys()
