"""A layer: the shape of one kernel call, and the one string that names it everywhere.

`f32-dwconv-3x3s2-112x112x96` is a record's key, a test's id, a row of a profile and what
`--layer` takes. The input's height x width x channels stand in it; a dense layer adds its output
channels, a whole block its expanded ones before them; a batch above one comes first
(`2x112x112x96`). ReLU6 follows unless the name ends in `-linear`, `-residual` (linear, plus the
block's input) or `-logits` (of a quantised layer: its sums as float32).
"""

import re
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, get_args

import numpy as np

from mnv2_tvm.dtype import DTYPES, F32, Dtype
from mnv2_tvm.errors import UserError
from mnv2_tvm.window import PATTERN, Window

# `irb` is an inverted residual block, `stem` the first convolution with the block after it.
Operator = Literal["conv", "dwconv", "pwconv", "avgpool", "irb", "stem"]
Epilogue = Literal["relu6", "linear", "residual", "logits"]
Role = Literal["weight", "bias", "multiplier", "zeros", "addition"]

_SIZE = {"conv": 3, "dwconv": 3, "pwconv": 1, "avgpool": 1, "irb": 3, "stem": 3}  # of windows
_BLOCKS = ("irb", "stem")
_NAME = re.compile(
    rf"(?P<dtype>[a-z]+\d+)-(?P<operator>[a-z]+)(-(?P<window>{PATTERN}))?"
    r"-(?P<shape>\d{1,9}(x\d{1,9}){2,3})"
    r"(-(?P<hidden>\d{1,9})(?=-\d))?(-(?P<out_channels>\d{1,9}))?"
    r"(-(?P<epilogue>linear|residual|logits))?"
)


@dataclass(frozen=True)
class Parameter:
    """One constant operand of a kernel; a weight's shape is [taps, in of a group, out channels].

    Of a quantised layer, whose tensors are real = scale * (q - zero point), also the multiplier of
    each sum; `zeros`, the zero point of the output and, where a window reaches outside the image,
    the values that lie there for each channel of a group; and what `addition` of a residual takes:
    the least and the most that the convolution gives, the residual's zero point, and the scales of
    both over the output's.
    """

    part: int  # of the layer's parts
    role: Role
    shape: tuple[int, ...]
    storage: str  # type of its values


@dataclass(frozen=True)
class Layer:
    """One operator with its epilogue. Input [n, y, x, c], NHWC."""

    operator: Operator
    batch: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    window: Window  # of a block: that of its depthwise layer, of a stem that of its convolution
    epilogue: Epilogue = "relu6"
    hidden_channels: int = 0  # expanded channels of a block
    dtype: Dtype = F32

    @classmethod
    def of(
        cls,
        operator: Operator,
        batch: int,
        height: int,
        width: int,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        epilogue: Epilogue = "relu6",
        hidden_channels: int = 0,
        dtype: Dtype = F32,
    ) -> "Layer":
        """A layer with the usual window of its operator: 3x3 with padding 1, or 1x1."""
        window, size = Window.centred(_SIZE[operator], stride), (batch, height, width)
        channels = (in_channels, out_channels)
        return cls(operator, *size, *channels, window, epilogue, hidden_channels, dtype)

    @property
    def parts(self) -> tuple["Layer", ...]:
        """The layers of a block: expansion (or stem), depthwise, projection; else the layer."""
        if self.operator not in _BLOCKS:
            return (self,)
        size, hidden = (self.batch, self.height, self.width), self.hidden_channels
        if self.operator == "stem":
            first = Layer("conv", *size, self.in_channels, hidden, self.window)
            window = Window.centred(3)
        else:
            first = Layer("pwconv", *size, self.in_channels, hidden, Window(1))
            window = self.window
        between = (self.batch, first.out_height, first.out_width, hidden, hidden)
        middle = Layer("dwconv", *between, window)
        after = (self.batch, middle.out_height, middle.out_width, hidden, self.out_channels)
        last = Layer("pwconv", *after, Window(1), self.epilogue)
        return tuple(replace(part, dtype=self.dtype) for part in (first, middle, last))

    @property
    def out_height(self) -> int:
        """Output rows."""
        return 1 if self.operator == "avgpool" else self.window.outputs(self.height)

    @property
    def out_width(self) -> int:
        """Output columns."""
        return 1 if self.operator == "avgpool" else self.window.outputs(self.width)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """[n, y, x, c]."""
        return (self.batch, self.height, self.width, self.in_channels)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """[n, y, x, c]."""
        return (self.batch, self.out_height, self.out_width, self.out_channels)

    @property
    def output_bytes(self) -> int:
        """Of the whole output."""
        return np.dtype(self.output_storage).itemsize * prod(self.output_shape)

    @property
    def output_storage(self) -> str:
        """Type of the output's values."""
        logits = self.epilogue == "logits"
        return self.dtype.multiplier or "" if logits else self.dtype.storage

    @property
    def weight_shape(self) -> tuple[int, int, int] | None:
        """[taps, in channels of one group, out channels]; None for pooling and for blocks."""
        if self.operator == "avgpool" or self.operator in _BLOCKS:
            return None
        depth = 1 if self.operator == "dwconv" else self.in_channels
        return (self.window.size**2, depth, self.out_channels)

    @property
    def weighted(self) -> tuple["Layer", ...]:
        """The parts that have weights."""
        return tuple(part for part in self.parts if part.weight_shape is not None)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The constant operands in the order of the kernel's C signature."""
        return tuple(
            Parameter(number, role, shape, storage)
            for number, part in enumerate(self.parts)
            for role, shape, storage in part._operands()
        )

    def _operands(self) -> list[tuple[Role, tuple[int, ...], str]]:
        """Role, shape and type of the constants of a layer of one part."""
        dtype, shape = self.dtype, self.weight_shape
        sums = (self.out_channels,) if shape else (1,)
        found: list[tuple[Role, tuple[int, ...], str]] = []
        if shape:
            found.append(("weight", shape, dtype.weight))
        if shape or dtype.multiplier:
            found.append(("bias", sums, dtype.accumulator))
        if dtype.multiplier:
            found.append(("multiplier", sums, dtype.multiplier))
            if self.epilogue != "logits":
                border = shape[1] if shape and self.window.size > 1 else 0
                found.append(("zeros", (1 + border,), dtype.accumulator))
            if self.epilogue == "residual":
                found.append(("addition", (5,), dtype.multiplier))
        return found

    @property
    def weight_count(self) -> int:
        """Values of all weights."""
        return sum(prod(p.shape) for p in self.parameters if p.role == "weight")

    @property
    def flops(self) -> int:
        """Two per multiply-add; additions of the bias and the residual do not count."""
        if self.operator in _BLOCKS:
            return sum(part.flops for part in self.parts)
        outputs = self.batch * self.out_height * self.out_width * self.out_channels
        if self.weight_shape is None:
            return self.batch * self.height * self.width * self.in_channels
        return 2 * outputs * self.weight_shape[0] * self.weight_shape[1]

    @property
    def name(self) -> str:
        """The layer's one string; `Layer.parse` is its inverse."""
        shape = (self.height, self.width, self.in_channels)
        if self.batch > 1:
            shape = (self.batch, *shape)  # type: ignore[assignment]
        parts = [self.dtype.name, self.operator]
        if _SIZE[self.operator] > 1 or self.window != Window(1):
            parts.append(self.window.name)
        parts.append("x".join(map(str, shape)))
        if self.operator in _BLOCKS:
            parts.append(str(self.hidden_channels))
        if self.operator not in ("dwconv", "avgpool"):
            parts.append(str(self.out_channels))
        if self.epilogue != "relu6" and self.operator != "avgpool":
            parts.append(self.epilogue)
        return "-".join(parts)

    def has_no_extent(self) -> bool:
        """Whether a dimension of the input, between the parts or of the output is below 1."""
        shapes = [self.input_shape, *(part.output_shape for part in self.parts)]
        return min(min(shape) for shape in shapes) < 1

    def _has_window(self) -> bool:
        """Whether the operator can have this window: others have other names."""
        if self.operator == "avgpool":
            return self.window == Window(1)
        return self.operator == "dwconv" or (self.window.size > 1) == (_SIZE[self.operator] > 1)

    def _has_epilogue(self) -> bool:
        """Whether it can end so: only a quantised dense layer has logits to turn into float32."""
        dense = self.operator == "pwconv" and self.dtype.multiplier is not None
        return dense or self.epilogue != "logits"

    @classmethod
    def parse(cls, name: str) -> "Layer":
        """The layer that `name` names. Raises UserError if it is no layer's name."""
        match = _NAME.fullmatch(name)
        dtype = DTYPES.get(match["dtype"]) if match else None
        if match is None or dtype is None or match["operator"] not in get_args(Operator):
            raise UserError(f"'{name}' is not a layer's name (e.g. f32-dwconv-3x3s2-112x112x96)")
        *batch, height, width, channels = map(int, match["shape"].split("x"))
        operator = match["operator"]
        layer = cls(
            operator=operator,  # type: ignore[arg-type]
            batch=batch[0] if batch else 1,
            height=height,
            width=width,
            in_channels=channels,
            out_channels=int(match["out_channels"] or channels),
            window=Window.parse(match.groupdict()) if match["window"] else Window(1),
            epilogue=match["epilogue"] or ("linear" if operator == "avgpool" else "relu6"),  # type: ignore[arg-type]
            hidden_channels=int(match["hidden"] or 0),
            dtype=dtype,
        )
        if not layer._has_window():
            raise UserError(f"'{name}' is not a layer's name ({operator} has no such window)")
        if not layer._has_epilogue():
            raise UserError(f"'{name}' is not a layer's name (it has no {layer.epilogue})")
        if layer.name != name or layer.has_no_extent():
            raise UserError(f"'{name}' is not a layer's name (it would read '{layer.name}')")
        return layer
