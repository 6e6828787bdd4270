"""A Relax module interpreted in float64 numpy: the reference that every compiled one is held to.

It takes the same module as the compiler and shares no code with it: one operator, one plain
function. To add an operator, write its function and give it a row in OPERATORS.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tvm import relax

Array = NDArray[np.float64]


def interpret(module: Any, inputs: ArrayLike) -> Array:
    """What `main` of an IRModule returns for its one input, in float64 throughout.

    Raises ValueError for an input of another shape, an operator that has no function here, or
    what `main` may not hold: anything but calls of operators on tensors.
    """
    main = module["main"]
    (parameter,) = main.params
    x = np.asarray(inputs, np.float64)
    if x.shape != (shape := _shape(parameter)):
        raise ValueError(f"an input of shape {x.shape}; the module takes {shape}")
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    uses = Counter(read for binding in bindings for read in _operands(binding.value))
    values = {parameter: x}
    for binding in bindings:
        operands = _operands(binding.value)
        values[binding.var] = _evaluate(binding.value, values)
        uses.subtract(operands)
        for operand in operands:  # nobody reads it again: the memory is for the next
            if not uses[operand] and operand != main.body.body:
                values.pop(operand, None)
    return values[main.body.body]


def _operands(value: Any) -> list[Any]:
    """The variables that it reads."""
    read = value.args if isinstance(value, relax.Call) else [value]
    return [operand for operand in read if isinstance(operand, relax.Var)]


def _evaluate(value: Any, values: dict[Any, Array]) -> Array:
    if isinstance(value, relax.Var):  # another name for it
        return values[value]
    if not isinstance(value, relax.Call) or value.op.name not in OPERATORS:
        raise ValueError(f"no function here interprets {value}")
    operator = OPERATORS[value.op.name]
    return operator(value, *(_operand(operand, values) for operand in value.args))


def _operand(operand: Any, values: dict[Any, Array]) -> Any:
    if isinstance(operand, relax.Var):
        return values[operand]
    constant = operand.value  # a tensor, or a number such as a bound of a clip
    return constant if isinstance(constant, int | float) else constant.numpy().astype(np.float64)


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(int(side) for side in variable.ty.shape)


def conv2d(
    x: Array,
    weight: Array,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    *,
    depthwise: bool = False,
) -> Array:
    """The convolution of x [n, y, x, in] with weight [ky, kx, in, out]: [n, y, x, out].

    A depthwise weight is [ky, kx, channels, 1]. The zeros of `padding` lie before and
    after each row and each column.
    """
    x = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows, columns, _, out_channels = weight.shape
    height, width = (
        (side - k) // stride + 1 for side, k in zip(x.shape[1:3], (rows, columns), strict=True)
    )
    channels = weight.shape[2] if depthwise else out_channels
    y = np.zeros((len(x), height, width, channels))
    for row in range(rows):
        for column in range(columns):
            # What this tap sees: one value of the input for each output.
            seen = x[
                :,
                row : row + stride * (height - 1) + 1 : stride,
                column : column + stride * (width - 1) + 1 : stride,
            ]
            tap = weight[row, column]
            y += seen * tap[:, 0] if depthwise else seen @ tap
    return y


def _conv2d(call: Any, x: Array, weight: Array) -> Array:
    attrs = call.attrs
    stride, *strides = map(int, attrs.strides)
    top, left, bottom, right = map(int, attrs.padding)
    depthwise = int(attrs.groups) == x.shape[3] == weight.shape[2]
    layout = "HWOI" if depthwise else "HWIO"
    square = set(strides) <= {stride} and (top, bottom) == (left, right)
    layouts = attrs.data_layout, attrs.out_layout, attrs.kernel_layout
    if not square or layouts != ("NHWC", "NHWC", layout) or set(map(int, attrs.dilation)) != {1}:
        raise ValueError(f"no function here interprets {call}")
    return conv2d(x, weight, stride, (top, bottom), depthwise=depthwise)


def _add(_: Any, x: Array, y: Array) -> Array:
    return x + y


def _clip(_: Any, x: Array, low: float, high: float) -> Array:
    return x.clip(low, high)  # NaN stays NaN


def _mean(call: Any, x: Array) -> Array:
    attrs = call.attrs
    mean: Array = x.mean(axis=tuple(map(int, attrs.axis)), keepdims=bool(attrs.keepdims))
    return mean


def _matmul(_: Any, x: Array, y: Array) -> Array:
    return x @ y


OPERATORS: dict[str, Callable[..., Array]] = {
    "relax.nn.conv2d": _conv2d,
    "relax.add": _add,
    "relax.clip": _clip,
    "relax.mean": _mean,
    "relax.matmul": _matmul,
}
