"""The search spaces of layers, each enumerated once in a process."""

from collections.abc import KeysView
from functools import lru_cache

from mnv2_tvm.kernels import Schedule, schedule_class
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


@lru_cache(maxsize=128)  # the layers and blocks of two networks; a block has up to 7250 points
def search_space(layer: Layer, target: Target) -> KeysView[Schedule]:
    """The points of a layer's space in their order, to be looked up as in a set."""
    return dict.fromkeys(schedule_class(layer).space(layer, target)).keys()
