"""Read the Relax `main` as the list of kernel calls it is, and lay its weights into one blob."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(frozen=True)
class Step:
    """One kernel call. Tensors by name; weights by their byte offset in the blob."""

    layer: Layer
    kernel: str  # name of the PrimFunc
    tasks: int
    x: str
    residual: str | None
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

    The network's own tensors are named `input` and `output`; only the last step writes `output`.
    Raises UserError where `main` has several of either, or does nothing.
    """
    reader = _Reader(mod)
    main = mod["main"]
    if len(main.params) != 1 or not isinstance(main.body.body.ty, relax.TensorType):
        raise UserError("a network takes one tensor and returns one")
    reader.names[main.params[0]] = "input"
    for block in main.body.blocks:
        for binding in block.bindings:
            reader.read(binding)
    last = reader.names[main.body.body]
    if last == "input":
        raise UserError("a network that returns its input needs no library")
    steps = [replace(s, y="output") if s.y == last else s for s in reader.steps]
    return tuple(steps), bytes(reader.blob)


def output_shape(mod: tvm.IRModule) -> tuple[int, ...]:
    """What `main` returns: [n, c], or [n, y, x, c] where the network ends in a map."""
    return tuple(int(extent) for extent in mod["main"].body.body.ty.shape)


class _Reader:
    def __init__(self, mod: tvm.IRModule) -> None:
        self._mod = mod
        self.names: dict[Any, str] = {}
        self.steps: list[Step] = []
        self.blob = bytearray()

    def read(self, binding: Any) -> None:
        value = binding.value
        if isinstance(value, relax.Var):
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
                x=tensors[0],
                residual=tensors[1] if len(tensors) > 1 else None,
                weights=tuple(self._place(constant.value.numpy()) for constant in constants),
                y=y,
                scratch_bytes=4 * int(kernel.attrs["scratch_floats"]),
            )
        )

    def _place(self, array: np.ndarray) -> int:
        self.blob.extend(bytes(aligned(len(self.blob)) - len(self.blob)))
        offset = len(self.blob)
        self.blob.extend(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return offset
