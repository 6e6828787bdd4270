"""A schedule is data: the decisions of one kernel, from which everything else follows.

The default, the search space, a tuned record, a test case and a line of `show` are instances of
the same frozen dataclass. From (layer, machine facts, decisions) it emits one TIR function.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any, Self, TypeVar, get_args, get_type_hints

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels.loops import Span
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class Operands:
    """The flat float32 views that a kernel body reads and writes, and its share of the tiles."""

    x: Any
    weight: Any | None
    bias: Any | None
    residual: Any | None
    y: Any
    span: Span


@dataclass(frozen=True)
class Schedule(ABC):
    """The decisions of one kernel for one layer; subclasses add their fields."""

    @classmethod
    @abstractmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """Every point worth measuring: inside the register budget, no two emitting the same."""

    @classmethod
    @abstractmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        """The point of the space that the machine's facts alone favour."""

    @abstractmethod
    def registers(self, layer: Layer, target: Target) -> int:
        """Vector registers live in the innermost loop."""

    @abstractmethod
    def tasks(self, layer: Layer) -> int:
        """Equal pieces of work that threads may share: the tiles of the loop they split."""

    @abstractmethod
    def body(self, layer: Layer, target: Target, operands: Operands) -> None:
        """Emit the loop nest."""

    def pack(self, layer: Layer, weight: np.ndarray) -> np.ndarray:
        """Weights [taps, in channels, out channels] in the order in which the kernel reads them.

        Channel panel by channel panel, as wide as the tile; the last may be narrower.
        """
        panels = np.split(weight, range(self.panel, layer.out_channels, self.panel), axis=2)
        return np.concatenate([panel.reshape(-1) for panel in panels])

    @property
    @abstractmethod
    def panel(self) -> int:
        """Output channels of one panel of the packed weights."""

    def emit(self, layer: Layer, target: Target) -> tirx.PrimFunc:
        """One TIR function (x, [weight, bias, [residual]], first, last, y), NHWC.

        `first` and `last` bound the tiles that this call does, out of `tasks(layer)`.
        """
        with IRBuilder() as builder:
            with T.prim_func(), _arguments(self, layer) as operands:
                self.body(layer, target, operands)
            return builder.get()

    def to_json(self) -> dict[str, int | str]:
        """The decisions by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, decisions: dict[str, Any]) -> Self:
        """The inverse of `to_json`. Raises UserError for a missing, unknown or mistyped one."""
        types = get_type_hints(cls)
        names = {field.name for field in fields(cls)}
        if decisions.keys() != names:
            raise UserError(f"decisions {sorted(decisions)} are not {sorted(names)}")
        for name, value in decisions.items():
            choices = get_args(types[name])
            good = value in choices if choices else type(value) is int and value > 0
            if not good:
                raise UserError(f"decision {name} = {value!r} is not allowed")
        return cls(**decisions)

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.to_json().items())


Point = TypeVar("Point")


def distinct(points: list[Point], key: Callable[[Point], Hashable]) -> list[Point]:
    """The first of the points with each key."""
    return list({key(point): point for point in reversed(points)}.values())[::-1]


@contextmanager
def _arguments(schedule: Schedule, layer: Layer) -> Iterator[Operands]:
    """Declare the parameters of the function and the flat views of them."""
    T.func_name(layer.name.replace("-", "_"))
    T.func_attr({"tirx.noalias": True, "layer": layer.name, "tasks": schedule.tasks(layer)})
    x = _declare("x", layer.input_shape)
    weight = bias = residual = None
    if layer.weight_shape is not None:
        weight = _declare("weight", (prod(layer.weight_shape),))
        bias = _declare("bias", (layer.out_channels,))
    if layer.epilogue == "residual":
        residual = _declare("residual", layer.output_shape)
    span = Span(T.arg("first", T.int32()), T.arg("last", T.int32()))
    y = _declare("y", layer.output_shape)
    yield Operands(x(), weight and weight(), bias and bias(), residual and residual(), y(), span)


def _declare(name: str, shape: tuple[int, ...]) -> Callable[[], Any]:
    """Declare a parameter; the result makes its flat view, after all parameters stand."""
    parameter = T.arg(name, T.buffer(shape, "float32"))

    def view() -> Any:
        flat = T.decl_buffer((prod(shape),), "float32", data=parameter.data)
        IRBuilder.name(f"{name}_flat", flat)
        return flat

    return view
