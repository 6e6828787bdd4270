"""Find the inverted residual blocks among the layers of `main`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm import relax

from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.describe_layer import Description


@dataclass(frozen=True)
class Operation:
    """A layer or a block as the kernel sees it: what it reads, in terms of `main`."""

    layer: Layer
    x: Any
    parameters: tuple[Any, ...]  # constants, in the order of `layer.parameters`
    residual: Any | None


def operations(
    mod: tvm.IRModule, parts: Mapping[Any, Description]
) -> dict[Any, tuple[Operation, ...]]:
    """For each variable of `main` that a layer defines: the layer, and the block that it ends.

    A block is an expansion (or the first convolution), a depthwise layer and a projection whose two
    tensors between nobody else reads: no other layer, and not the caller. Blocks may overlap, where
    the projection of one is the expansion of the next.
    """
    body = mod["main"].body
    bindings = [b for block in body.blocks for b in block.bindings]
    calls = {b.var: b.value for b in bindings if isinstance(b.value, relax.Call)}
    readers = Counter(
        v for value in (*(b.value for b in bindings), body.body) for v in _read(value)
    )
    found: dict[Any, tuple[Operation, ...]] = {}
    for variable, call in calls.items():
        if isinstance(call.op, tvm.ir.GlobalVar):
            last = _operation(call, parts[call.op])
            block = _block(last, found, readers)
            found[variable] = (last, block) if block else (last,)
    return found


def _read(value: Any) -> list[Any]:
    """What an expression reads: the arguments of a call, the parts of a tuple, or itself."""
    if isinstance(value, relax.Call):
        return list(value.args)
    return list(value.fields) if isinstance(value, relax.Tuple) else [value]


def _operation(call: Any, part: Description) -> Operation:
    parameters = tuple(call.args[position] for position in part.parameters)
    residual = None if part.residual is None else call.args[part.residual]
    return Operation(part.layer, call.args[part.x], parameters, residual)


def _block(
    last: Operation, found: Mapping[Any, tuple[Operation, ...]], readers: Mapping[Any, int]
) -> Operation | None:
    middle = found[last.x][0] if last.x in found else None
    first = found[middle.x][0] if middle and middle.x in found else None
    if middle is None or first is None or not readers[last.x] == readers[middle.x] == 1:
        return None
    stem = first.layer.operator == "conv"
    whole = replace(
        first.layer,
        operator="stem" if stem else "irb",
        out_channels=last.layer.out_channels,
        window=first.layer.window if stem else middle.layer.window,
        epilogue=last.layer.epilogue,
        hidden_channels=first.layer.out_channels,
    )
    if whole.parts != (first.layer, middle.layer, last.layer):
        return None
    if last.residual is not None and not last.residual.same_as(first.x):
        return None
    parameters = first.parameters + middle.parameters + last.parameters
    return Operation(whole, first.x, parameters, last.residual)


def absorbed(variable: Any, found: Mapping[Any, tuple[Operation, ...]]) -> tuple[Any, Any]:
    """The variables of the first two layers of the block that ends in `variable`."""
    middle = found[variable][0].x
    return found[middle][0].x, middle
