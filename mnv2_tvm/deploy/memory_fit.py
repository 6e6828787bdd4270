"""Does a network fit the flash and the RAM of a microcontroller, and if not, which one would?"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from mnv2_tvm.errors import UserError
from mnv2_tvm.model import Architecture, relax_module
from mnv2_tvm.passes.list_steps import aligned
from mnv2_tvm.pipeline import Compilation, plan_network
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Microcontroller, Target

# Before a network is built: more than any width takes for cortex-m7 and cortex-m4.
CODE_BYTES = 128 * 1024

_WIDTHS = (0.35, 0.5, 0.75, 1.0)
_RESOLUTIONS = (64, 96, 128, 160, 192, 224)
_UNITS = {"": 1, "K": 1024, "M": 1024 * 1024}


@dataclass(frozen=True)
class Need:
    """Memory of one network in bytes. The stack, which is the program's, comes on top."""

    weights: int
    code: int
    workspace: int
    buffers: int  # input and output

    @classmethod
    def of(cls, planned: Compilation, code: int) -> "Need":
        """Of a network whose memory is planned."""
        buffers = 4 * sum(prod(end.shape) for end in (*planned.inputs, *planned.outputs))
        return cls(len(planned.weights), code, planned.plan.workspace_bytes, buffers)

    @property
    def flash(self) -> int:
        """Weights and code."""
        return self.weights + self.code

    @property
    def ram(self) -> int:
        """Workspace, input and output."""
        return self.workspace + self.buffers

    def fits(self, memory: Microcontroller) -> bool:
        """Whether both are enough."""
        return self.flash <= memory.flash_bytes and self.ram <= memory.ram_bytes


def check_fit(network: Compilation, identity: Mapping[str, Any], code: int = 0) -> None:
    """Raise UserError, with what would fit, where the target's memory is less than needed."""
    memory, need = network.target.microcontroller, Need.of(network, code)
    if memory is None or need.fits(memory):
        return
    sizes = (identity[key] for key in ("width", "resolution", "classes", "batch"))
    architecture = Architecture(*sizes)
    rows = [
        f"  --width {one.width} --resolution {one.resolution}: {_words(its)}"
        for one, its in fitting(network.target, architecture)
    ]
    would = f"with --classes {architecture.classes} these fit, with about {_kib(CODE_BYTES)} code:"
    if not rows:
        would = f"no width fits with --classes {architecture.classes}; give fewer, or more memory"
    raise UserError(
        f"{architecture.width}-{architecture.resolution} does not fit {network.target.name}, which "
        f"has {_kib(memory.flash_bytes)} flash and {_kib(memory.ram_bytes)} RAM (see --flash and "
        f"--ram):\n  it takes {_words(need)}\n" + "\n".join([would, *rows])
    )


def fitting(target: Target, like: Architecture) -> Iterator[tuple[Architecture, Need]]:
    """The networks that fit, from plans of memory; code is not generated but estimated."""
    memory = target.microcontroller
    assert memory is not None
    decisions = Decisions.load(target, threads=1)
    for width in _WIDTHS:
        for resolution in _RESOLUTIONS:
            architecture = replace(like, width=width, resolution=resolution)
            if weight_bytes(architecture) + CODE_BYTES > memory.flash_bytes:
                break
            module = relax_module(architecture, _zeros(architecture))
            need = Need.of(plan_network(module, target, decisions), CODE_BYTES)
            if not need.fits(memory):
                break  # nor would a larger image
            yield architecture, need


def weight_bytes(architecture: Architecture) -> int:
    """Bytes of weights and biases as they lie in the library, each rounded up."""
    return sum(
        aligned(4 * prod(conv.weight_shape)) + aligned(4 * conv.out_channels)
        for conv in architecture.convolutions()
    )


def with_memory(target: Target, flash: int | None, ram: int | None) -> Target:
    """The target with other sizes. Raises UserError if it is no microcontroller."""
    if flash is None and ram is None:
        return target
    memory = target.microcontroller
    if memory is None:
        raise UserError(f"{target.name} is no microcontroller; leave --flash and --ram out")
    other = replace(
        memory, flash_bytes=flash or memory.flash_bytes, ram_bytes=ram or memory.ram_bytes
    )
    return replace(target, microcontroller=other)


def byte_count(text: str) -> int:
    """`320K`, `2M` or plain bytes. Raises UserError for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,9})([KM]?)", text)
    if match is None:
        raise UserError(f"'{text}' is no size; give bytes, or such as 320K or 2M")
    return int(match[1]) * _UNITS[match[2]]


def _zeros(architecture: Architecture) -> dict[str, np.ndarray]:
    shapes = {
        f"{conv.name}.{part}": shape
        for conv in architecture.convolutions()
        for part, shape in (("weight", conv.weight_shape), ("bias", (conv.out_channels,)))
    }
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def _words(need: Need) -> str:
    return (
        f"flash {_kib(need.flash)} (weights {_kib(need.weights)}), RAM {_kib(need.ram)} "
        f"(workspace {_kib(need.workspace)}, input and output {_kib(need.buffers)})"
    )


def _kib(size: int) -> str:
    return f"{-(-size // 1024)} KiB"
