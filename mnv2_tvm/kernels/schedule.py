"""A schedule is data: the decisions of one kernel, from which everything else follows.

The default, the search space, a tuned record, a test case and a line of `show` are instances of
the same frozen dataclass. From (layer, machine facts, decisions) it emits one TIR function.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from math import log2, prod
from typing import Any, Self, TypeVar, get_args, get_type_hints

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels.features import of_decisions, of_layer
from mnv2_tvm.kernels.loops import Span
from mnv2_tvm.layer import Layer, Role
from mnv2_tvm.target import Target


@dataclass(frozen=True)
class Operands:
    """The flat views that a kernel body reads and writes, and its share of the tiles."""

    x: Any
    parts: tuple[Mapping[Role, Any], ...]  # the parameters of each part of the layer
    residual: Any | None
    y: Any
    scratch: Any | None
    span: Span
    ahead_bytes: int  # of the next layer's weights, which follow this one's

    @property
    def weight(self) -> Any:
        """The packed weights of a layer of one part."""
        return self.parts[0]["weight"]

    @property
    def bias(self) -> Any:
        """The bias of a layer of one part."""
        return self.parts[0]["bias"]


@dataclass(frozen=True)
class Schedule(ABC):
    """The decisions of one kernel for one layer; subclasses add their fields."""

    @classmethod
    def kernel(cls) -> str:
        """The kernel's name in records and manifests."""
        return cls.__name__

    @classmethod
    @abstractmethod
    def computes(cls, layer: Layer) -> bool:
        """Whether the kernel is for such layers: their operator, dtype, window and epilogue."""

    @classmethod
    def accepts(cls, layer: Layer, target: Target) -> bool:
        """Whether it can do the layer on the target: here, wherever it computes it."""
        return cls.computes(layer)

    @classmethod
    @abstractmethod
    def space(cls, layer: Layer, target: Target) -> list[Self]:
        """Every point worth measuring: inside the register budget, no two emitting the same."""

    @classmethod
    @abstractmethod
    def default(cls, layer: Layer, target: Target) -> Self:
        """The point of the space that the machine's facts alone favour."""

    @classmethod
    def worthwhile(cls, layer: Layer, target: Target) -> bool:
        """Whether the machine's facts favour this kernel; a block can be done layer by layer."""
        return True

    @abstractmethod
    def registers(self, layer: Layer, target: Target) -> int:
        """Vector registers live in the innermost loop."""

    @abstractmethod
    def tasks(self, layer: Layer) -> int:
        """Equal pieces of work that threads may share: the tiles of the loop they split."""

    @abstractmethod
    def body(self, layer: Layer, target: Target, operands: Operands) -> None:
        """Emit the loop nest."""

    @property
    @abstractmethod
    def panel(self) -> int:
        """Output channels of one panel of the packed weights."""

    def panels(self, layer: Layer) -> list[list[int]]:
        """Output channels of every panel of the weights of each part; the last may be narrower."""
        return [panel_widths(part.out_channels, self.panel) for part in layer.weighted]

    def pack(self, layer: Layer, parameters: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The arrays of `layer.parameters` as the kernel reads them: weights panel after panel."""
        panels = self.panels(layer)
        return [
            self.pack_weight(array, panels[parameter.part]) if parameter.role == "weight" else array
            for parameter, array in zip(layer.parameters, parameters, strict=True)
        ]

    def packed(self, layer: Layer) -> list[tuple[int, str]]:
        """How many values each of these arrays has, and of which type."""
        return [(prod(p.shape), p.storage) for p in layer.parameters]

    def pack_weight(self, weight: np.ndarray, widths: Sequence[int]) -> np.ndarray:
        """Weights [taps, in channels, out channels] of one part, cut into panels, flat."""
        panels = np.split(weight, np.cumsum(widths)[:-1], axis=2)
        return np.concatenate([panel.reshape(-1) for panel in panels])

    def panel_bytes(self, layer: Layer) -> int:
        """Packed weights that the innermost loops read again and again."""
        sizes = [
            layer.dtype.bytes * part.weight_count // part.out_channels * max(widths)
            for part, widths in zip(layer.weighted, self.panels(layer), strict=True)
        ]
        return max(sizes, default=0)

    def scratch_floats(self, layer: Layer) -> int:
        """Floats of memory that each thread needs while the kernel runs."""
        return 0

    def extents(self, layer: Layer) -> dict[str, int]:
        """What a decision cuts into tiles, by the decision's name."""
        return {}

    def features(self, layer: Layer, target: Target) -> dict[str, float]:
        """What may decide the speed: the shape, every decision, and what follows of both."""
        panel_bytes, cache = self.panel_bytes(layer), target.cache
        return {
            f"kernel={self.kernel()}": 1.0,
            **of_layer(layer),
            **of_decisions(self.to_json(), self.extents(layer)),
            "registers": self.registers(layer, target) / target.vector.registers,
            "tasks": log2(self.tasks(layer)),
            "scratch of L2": 4 * self.scratch_floats(layer) / cache.l2_bytes,
            "panel of L1": panel_bytes / cache.l1_bytes,
            "panel of L2": panel_bytes / cache.l2_bytes,
        }

    def emit(self, layer: Layer, target: Target, ahead_bytes: int = 0) -> tirx.PrimFunc:
        """One TIR function (x, parameters, [residual], first, last, y, [scratch]), NHWC.

        `first` and `last` bound the tiles that this call does, out of `tasks(layer)`. A kernel may
        fetch `ahead_bytes` of memory that follows its weights and its bias.
        """
        with IRBuilder() as builder:
            with T.prim_func(), _arguments(self, layer, ahead_bytes) as operands:
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


def panel_widths(channels: int, panel: int) -> list[int]:
    """The widths of the panels that `channels` are cut into."""
    return [min(panel, channels - start) for start in range(0, channels, panel)]


Point = TypeVar("Point")


def distinct(points: list[Point], key: Callable[[Point], Hashable]) -> list[Point]:
    """The first of the points with each key."""
    return list({key(point): point for point in reversed(points)}.values())[::-1]


@contextmanager
def _arguments(schedule: Schedule, layer: Layer, ahead_bytes: int) -> Iterator[Operands]:
    """Declare the parameters of the function and the flat views of them."""
    T.func_name(layer.name.replace("-", "_"))
    floats = schedule.scratch_floats(layer)
    T.func_attr(
        {
            "tirx.noalias": True,
            "layer": layer.name,
            "tasks": schedule.tasks(layer),
            "scratch_floats": floats,
        }
    )
    storage, parameters = layer.dtype.storage, layer.parameters
    x = _declare("x", layer.input_shape, storage)
    several = len(layer.weighted) > 1
    views = [
        _declare(f"{p.role}_{p.part}" if several else p.role, (size,), kind)
        for p, (size, kind) in zip(parameters, schedule.packed(layer), strict=True)
    ]
    residual = None
    if layer.epilogue == "residual":
        residual = _declare("residual", layer.output_shape, storage)
    span = Span(T.arg("first", T.int32()), T.arg("last", T.int32()))
    y = _declare("y", layer.output_shape, layer.output_storage)
    scratch = _declare("scratch", (floats,), "float32") if floats else None
    x_flat = x()
    parts: list[dict[Role, Any]] = [{} for _ in layer.parts]
    for parameter, view in zip(parameters, views, strict=True):
        parts[parameter.part][parameter.role] = view()
    yield Operands(
        x_flat,
        tuple(parts),
        residual and residual(),
        y(),
        scratch and scratch(),
        span,
        ahead_bytes,
    )


def _declare(name: str, shape: tuple[int, ...], storage: str) -> Callable[[], Any]:
    """Declare a parameter; the result makes its flat view, after all parameters stand."""
    parameter = T.arg(name, T.buffer(shape, storage))

    def view() -> Any:
        flat = T.decl_buffer((prod(shape),), storage, data=parameter.data)
        IRBuilder.name(f"{name}_flat", flat)
        return flat

    return view
