"""Read the Relax `main` as the list of kernel calls it is, and lay its weights into one blob."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(frozen=True)
class Tensor:
    """What the caller gives to a network or takes from it; the plan has no place for it."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One kernel call. Tensors by name; weights by their byte offset in the blob."""

    layer: Layer
    kernel: str  # name of the PrimFunc
    tasks: int
    reads: tuple[str, ...]
    weights: tuple[int, ...]  # offsets of the packed parameters, in the layer's order
    y: str
    scratch_bytes: int = 0

    @property
    def scratch(self) -> str:
        """The name of its scratch memory in the plan."""
        return f"{self.y}.scratch"


def aligned(size: int) -> int:
    """`size` in bytes rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def list_steps(mod: tvm.IRModule) -> tuple[tuple[Step, ...], bytes]:
    """The steps of `main` in order and the blob of all constants, each aligned.

    The network's own tensors have the names of `ends`; a step may read an output again.
    Raises UserError where `main` returns what no step writes, or one tensor twice.
    """
    reader = _Reader(mod)
    inputs, outputs = ends(mod)
    reader.names |= {v: t.name for v, t in zip(mod["main"].params, inputs, strict=True)}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            reader.read(binding)
    returned = [reader.names[variable] for variable in _returned(mod)]
    if not set(returned) <= {step.y for step in reader.steps}:
        raise UserError("a network that returns its input needs no library")
    if len(set(returned)) < len(returned):
        raise UserError("a network that returns a tensor twice; return it once")
    final = {name: tensor.name for name, tensor in zip(returned, outputs, strict=True)}
    steps = [
        replace(
            step,
            y=final.get(step.y, step.y),
            reads=tuple(final.get(name, name) for name in step.reads),
        )
        for step in reader.steps
    ]
    return tuple(steps), bytes(reader.blob.data)


def ends(mod: tvm.IRModule) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What `main` takes and returns: `input` and `output`, numbered from 0 if there are several.

    An input is [n, y, x, c]; an output too where the network ends in a map, else [n, c].
    """
    inputs = _tensors("input", mod["main"].params)
    images = [
        replace(i, shape=i.shape[:-1] + (1,) * (4 - len(i.shape)) + i.shape[-1:]) for i in inputs
    ]
    return tuple(images), _tensors("output", _returned(mod))


def _returned(mod: tvm.IRModule) -> list[Any]:
    """The variables that `main` returns: one, or those of a tuple."""
    body = mod["main"].body
    bound = {b.var: b.value for block in body.blocks for b in block.bindings}
    value = body.body
    while value in bound and isinstance(bound[value], relax.Tuple | relax.Var):
        value = bound[value]
    return list(value.fields) if isinstance(value, relax.Tuple) else [value]


def _tensors(name: str, variables: Sequence[Any]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name if len(variables) == 1 else f"{name}_{number}",
            tuple(int(extent) for extent in variable.ty.shape),
        )
        for number, variable in enumerate(variables)
    )


class Blob:
    """All constants of a network, one behind another."""

    def __init__(self) -> None:
        self.data = bytearray()

    def place(self, array: np.ndarray) -> int:
        """Add an array, aligned and of little-endian values; its offset in bytes."""
        self.data.extend(bytes(aligned(len(self.data)) - len(self.data)))
        offset = len(self.data)
        self.data.extend(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return offset


class _Reader:
    def __init__(self, mod: tvm.IRModule) -> None:
        self._mod = mod
        self.names: dict[Any, str] = {}
        self.steps: list[Step] = []
        self.blob = Blob()

    def read(self, binding: Any) -> None:
        value = binding.value
        if isinstance(value, relax.Tuple):
            pass  # of what `main` returns
        elif isinstance(value, relax.Var):
            if value in self.names:  # else of such a tuple
                self.names[binding.var] = self.names[value]
        elif isinstance(value, relax.TupleGetItem):  # the output of a kernel, not its scratch
            self.names[binding.var] = self.names[value.tuple_value]
        elif value.op.name == "relax.reshape":
            self.names[binding.var] = self.names[value.args[0]]
        else:
            self.names[binding.var] = f"t{len(self.steps)}"
            self._call(value, self.names[binding.var])

    def _call(self, call: Any, y: str) -> None:
        name, arguments = call.args[0], list(call.args[1].fields)
        kernel = self._mod[name]
        tensors = [self.names[a] for a in arguments if isinstance(a, relax.Var)]
        constants = [a for a in arguments if isinstance(a, type(relax.const(0.0)))]
        self.steps.append(
            Step(
                layer=Layer.parse(str(kernel.attrs["layer"])),
                kernel=name.name_hint,
                tasks=int(kernel.attrs["tasks"]),
                reads=tuple(tensors),
                weights=tuple(self.blob.place(constant.value.numpy()) for constant in constants),
                y=y,
                scratch_bytes=4 * int(kernel.attrs["scratch_floats"]),
            )
        )
