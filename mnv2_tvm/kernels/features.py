"""What the cost model sees of a layer and of decisions: numbers by name.

A feature that a candidate lacks counts as 0, so each kernel may have its own.
"""

from collections.abc import Mapping
from math import log2

from mnv2_tvm.layer import Layer


def of_layer(layer: Layer) -> dict[str, float]:
    """Its operator, its shape and its work."""
    batch, height, width, channels = layer.input_shape
    return {
        f"operator={layer.operator}": 1.0,
        f"epilogue={layer.epilogue}": 1.0,
        "batch": log2(batch),
        "height": log2(height),
        "width": log2(width),
        "in_channels": log2(channels),
        "out_channels": log2(layer.out_channels),
        "stride": float(layer.window.stride),
        "flops": log2(layer.flops),
    }


def of_decisions(
    decisions: Mapping[str, int | str], extents: Mapping[str, int]
) -> dict[str, float]:
    """Every decision: a number as it is, a word as one feature a choice.

    Of a tile that cuts one of `extents`, also the share of the last tile that is empty.
    """
    found: dict[str, float] = {}
    for name, value in decisions.items():
        if isinstance(value, str):
            found[f"{name}={value}"] = 1.0
        else:
            found[name] = float(value)
            if extent := extents.get(name):
                found[f"{name} waste"] = -extent % value / extent
    return found
