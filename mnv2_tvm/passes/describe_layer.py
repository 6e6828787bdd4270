"""Read a composite function: which layer it is, and which argument plays which part."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Epilogue, Layer
from mnv2_tvm.window import Window


@dataclass(frozen=True)
class Description:
    """A layer and the positions of its operands among the function's parameters."""

    layer: Layer
    x: int
    parameters: tuple[int, ...] = ()  # in the order of `layer.parameters`
    residual: int | None = None


def describe_layer(function: relax.Function) -> Description:
    """The layer of a composite function made by `fuse_layers`.

    Raises UserError where attributes (layout, groups ...) are those of no layer.
    """
    kind, epilogue = str(function.attrs["Composite"]).split(".")
    bindings = [b for b in function.body.blocks[0].bindings if isinstance(b.value, relax.Call)]
    position = {parameter: index for index, parameter in enumerate(function.params)}
    if kind == "pooling":
        return _pooling(bindings[0].value, position)
    product, biased, *rest = bindings
    x, weight = (position[argument] for argument in product.value.args)
    bias = _other(biased.value, product.var)
    layer = _dense(product.value) if kind == "dense" else _convolution(product.value, epilogue)  # type: ignore[arg-type]
    _require(not layer.has_no_extent(), f"{layer.name}, which has no output")
    _require(_shape(bias) == (layer.out_channels,), f"a bias of shape {_shape(bias)}")
    residual = None
    if epilogue == "relu6":
        bounds = [float(bound.value) for bound in rest[0].value.args[1:]]
        _require(bounds == [0.0, 6.0], f"clip to {bounds}; kernels have ReLU6, [0, 6]")
    if epilogue == "residual":
        other = _other(rest[0].value, biased.var)
        _require(layer.operator == "pwconv", f"an addition after {layer.operator}")
        _require(other in position, "a layer added to itself")
        _require(_shape(other) == layer.output_shape, f"an addition of shape {_shape(other)}")
        residual = position[other]
    return Description(layer, x, (weight, position[bias]), residual)


def _other(addition: Any, known: Any) -> Any:
    """The operand of an addition that is not `known`."""
    first, second = addition.args
    return second if first.same_as(known) else first


def weight_taps(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """HWIO, HWOI (depthwise) or [in, out] weights as [taps, in channels of a group, out]."""
    assert layer.weight_shape is not None
    if layer.operator == "dwconv":
        weight = weight.transpose(0, 1, 3, 2)
    return weight.reshape(layer.weight_shape)


def _shape(expression: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in expression.ty.shape)


def _pooling(call: Any, position: dict[Any, int]) -> Description:
    batch, height, width, channels = _shape(call.args[0])
    axes = [int(axis) for axis in call.attrs.axis]
    _require(axes == [1, 2], f"mean over axes {axes}; the kernel has [1, 2] of NHWC")
    layer = Layer.of("avgpool", batch, height, width, channels, channels, 1, "linear")
    return Description(layer, position[call.args[0]])


def _dense(call: Any) -> Layer:
    shapes = [_shape(argument) for argument in call.args]
    _require(all(len(shape) == 2 for shape in shapes), f"matmul of shapes {shapes}")
    (batch, depth), (_, channels) = _shape(call.args[0]), _shape(call.args[1])
    return Layer.of("pwconv", batch, 1, 1, depth, channels, 1, "linear")


def _convolution(call: Any, epilogue: Epilogue) -> Layer:
    attributes = call.attrs
    batch, height, width, channels = _shape(call.args[0])
    (rows, columns), out_channels = _shape(call.args[1])[:2], _shape(call)[-1]
    groups = int(attributes.groups)
    top, left, bottom, right = padding = [int(edge) for edge in attributes.padding]
    strides = [int(stride) for stride in attributes.strides]
    dilations = [int(step) for step in attributes.dilation]
    depthwise = groups == channels == out_channels and max(groups, rows) > 1
    layouts = (str(attributes.data_layout), str(attributes.kernel_layout))
    _require(layouts == ("NHWC", "HWOI" if depthwise else "HWIO"), f"layouts {layouts}")
    _require(depthwise or groups == 1, f"convolution with {groups} groups")
    _require(rows == columns, f"a {rows}x{columns} window")
    _require(strides[0] == strides[1], f"strides {strides}")
    _require(dilations[0] == dilations[1], f"dilations {dilations}")
    _require(top == left and bottom == right, f"padding {padding} (top, left, bottom, right)")
    return Layer(
        "dwconv" if depthwise else "conv" if rows > 1 else "pwconv",
        batch,
        height,
        width,
        channels,
        out_channels,
        Window(rows, strides[0], dilations[0], top, bottom),
        epilogue,
    )


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise UserError(f"no kernel for {what}")
