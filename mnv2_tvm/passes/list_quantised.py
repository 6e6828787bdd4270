"""List a quantised network as kernel calls: it is data already, and needs no Relax."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tvm

from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.list_steps import Blob, Step, Tensor
from mnv2_tvm.quantise.float_network import INPUT
from mnv2_tvm.quantise.network import QuantisedLayer, QuantisedNetwork
from mnv2_tvm.quantise.operands import operands
from mnv2_tvm.target import Target

_OUTPUT = "output"


@dataclass
class Listed:
    """Kernels, calls, constants and ends of a network, as the phases from `plan_memory` on want."""

    kernels: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    blob: Blob = field(default_factory=Blob)

    @property
    def module(self) -> tvm.IRModule:
        """Of the kernels."""
        return tvm.IRModule(self.kernels)


def list_quantised(
    network: QuantisedNetwork, target: Target, choose: Callable[[Layer], Schedule | None]
) -> tuple[Listed, Tensor, Tensor]:
    """The calls of all layers, one by one, and the network's input of bytes and output of floats.

    Equal layers share one kernel. Raises UserError where no kernel of the target takes a layer.
    """
    listed = Listed()
    first, last = network.layers[0], network.layers[-1]
    names = {layer.name: layer.name for layer in network.layers}
    names |= {INPUT: INPUT, last.name: _OUTPUT}
    for layer in network.layers:
        _add(listed, network, layer, names, target, choose)
    shape = last.layer.output_shape
    ends = Tensor(INPUT, first.layer.input_shape), Tensor(_OUTPUT, (shape[0], shape[-1]))
    return listed, *ends


def _add(
    listed: Listed,
    network: QuantisedNetwork,
    layer: QuantisedLayer,
    names: dict[str, str],
    target: Target,
    choose: Callable[[Layer], Schedule | None],
) -> None:
    shape = layer.layer
    schedule = choose(shape)
    assert schedule is not None  # there are no quantised blocks
    kernel = shape.name.replace("-", "_")
    if kernel not in listed.kernels:
        listed.kernels[kernel] = schedule.emit(shape, target)
    own = operands(network, layer)
    packed = schedule.pack(shape, [own[parameter.role] for parameter in shape.parameters])
    listed.steps.append(
        Step(
            layer=shape,
            kernel=kernel,
            tasks=schedule.tasks(shape),
            reads=tuple(names[name] for name in layer.reads),
            weights=tuple(listed.blob.place(array) for array in packed),
            y=names[layer.name],
            scratch_bytes=4 * schedule.scratch_floats(shape),
        )
    )
