"""Networks as the passes see them, with every block as one kernel and layer by layer.

And small networks of other forms than MobileNetV2's, each beside its own numbers by torch.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from tvm import relax

from mnv2_tvm.deploy.library import Interface, write_library
from mnv2_tvm.deploy.link import link_shared, write_object
from mnv2_tvm.deploy.loader import LIBRARY
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.passes.fuse_layers import fuse_layers
from mnv2_tvm.passes.list_steps import Step, list_steps
from mnv2_tvm.passes.select_kernels import select_kernels
from mnv2_tvm.pipeline import Compilation, network_blocks
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target

NETWORKS = [
    Architecture(1.0, 224),
    Architecture(0.35, 32, classes=10),
    Architecture(0.5, 47, classes=1, batch=2),
    Architecture(1.4, 160),
    Architecture(0.75, 255, batch=3),
]
ALIGNMENT = 64  # bytes: the header asks it of the workspace, the widest vectors want it
IDS = [f"{a.width}-{a.resolution}-{a.batch}" for a in NETWORKS]
FUSED = pytest.mark.parametrize("fused", [False, True], ids=["layers", "blocks"])


def decisions_of(architecture: Architecture, target: Target, fused: bool) -> Decisions:
    """The defaults, or those that do every block layer by layer."""
    blocks = network_blocks(network_of(architecture).relax())
    return Decisions(target, {} if fused else dict.fromkeys(blocks))


@functools.cache
def steps_of(architecture: Architecture, fused: bool) -> tuple[tuple[Step, ...], bytes]:
    """The steps of a network for AVX2 and its weights."""
    target = Target.load("x86-avx2")
    choose = decisions_of(architecture, target, fused)
    return list_steps(select_kernels(fuse_layers(network_of(architecture).relax()), target, choose))


@functools.cache
def network_of(architecture: Architecture) -> SourceNetwork:
    return SourceNetwork.make(architecture, None, seed=0)


def byte_count(layer: Layer) -> int:
    """Of the output."""
    return 4 * prod(layer.output_shape)


@dataclass(frozen=True)
class Drawn:
    """A tensor of a small network: its Relax variable, and its values by torch [n, c, y, x]."""

    variable: Any
    value: torch.Tensor


class Drawing:
    """A small network, drawn operator by operator; torch computes it on the way."""

    def __init__(self) -> None:
        self._builder = relax.BlockBuilder()
        self._random = np.random.default_rng(0)

    def _normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return self._random.standard_normal(shape, np.float32) * np.float32(scale)

    def convolution(
        self,
        x: Drawn,
        channels: int,
        window: int = 1,
        stride: int = 1,
        *,
        relu6: bool = True,
        residual: Drawn | None = None,
        padding: tuple[int, int] | None = None,
    ) -> Drawn:
        """1x1 or 3x3, with bias, then ReLU6 or an addition."""
        depth = int(x.value.shape[1])
        shape = (window, window, depth, channels)
        return self._convolve(x, shape, stride, padding, relu6, residual)

    def depthwise(
        self,
        x: Drawn,
        stride: int = 1,
        *,
        relu6: bool = True,
        padding: tuple[int, int] | None = None,
    ) -> Drawn:
        """3x3 of each channel, with bias."""
        shape = (3, 3, int(x.value.shape[1]), 1)
        return self._convolve(x, shape, stride, padding, relu6, None)

    def mean(self, x: Drawn) -> Drawn:
        """Over the image: [n, c]."""
        pooled = self._builder.emit(relax.op.mean(x.variable, [1, 2]))
        return Drawn(pooled, x.value.mean(dim=(2, 3)))

    def _convolve(
        self,
        x: Drawn,
        shape: tuple[int, ...],
        stride: int,
        padding: tuple[int, int] | None,
        relu6: bool,
        residual: Drawn | None,
    ) -> Drawn:
        """`padding` is that before and after the image, by default as much on both sides."""
        window, _, depth, channels = shape
        before, after = padding or (window // 2,) * 2
        groups = depth if channels == 1 else 1
        weight = self._normal(*shape, scale=2 / (window**2 * depth / groups) ** 0.5)
        bias = self._normal(channels * groups)
        y = relax.op.nn.conv2d(
            x.variable,
            relax.const(weight),
            strides=(stride, stride),
            padding=(before, before, after, after),
            groups=groups,
            data_layout="NHWC",
            kernel_layout="HWIO" if groups == 1 else "HWOI",
        )
        y = self._builder.emit(relax.op.add(self._builder.emit(y), relax.const(bias)))
        axes = (3, 2, 0, 1) if groups == 1 else (2, 3, 0, 1)
        value = functional.conv2d(
            functional.pad(x.value, (before, after) * 2),
            torch.from_numpy(weight.transpose(axes).copy()),
            torch.from_numpy(bias),
            stride,
            groups=groups,
        )
        if residual is not None:
            y = self._builder.emit(relax.op.add(residual.variable, y))
            return Drawn(y, residual.value + value)
        if relu6:
            return Drawn(self._builder.emit(relax.op.clip(y, 0, 6)), value.clamp(0, 6))
        return Drawn(y, value)

    def draw(
        self, shape: tuple[int, ...], emit: Callable[["Drawing", Drawn], Drawn]
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """The Relax module of a network, an input [n, y, x, c] and what torch makes of it."""
        module, (images,), (wanted,) = self.draw_several([shape], lambda net, x: [emit(net, x)])
        return module, images, wanted

    def draw_several(
        self, shapes: Sequence[tuple[int, ...]], emit: Callable[..., list[Drawn]]
    ) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
        """The same with several inputs and several outputs, which are a tuple in Relax."""
        images = [self._normal(*shape) for shape in shapes]
        variables = [relax.Var("x", relax.TensorType(shape, "float32")) for shape in shapes]
        with self._builder.function("main", variables):
            with self._builder.dataflow():
                values = [torch.from_numpy(image).permute(0, 3, 1, 2) for image in images]
                results = emit(self, *map(Drawn, variables, values))
                returned = [result.variable for result in results]
                value = relax.Tuple(returned) if len(returned) > 1 else returned[0]
                output = self._builder.emit_output(value)
            self._builder.emit_func_output(output)
        wanted = [r.value.permute(0, 2, 3, 1) if r.value.ndim == 4 else r.value for r in results]
        return self._builder.get(), images, [np.ascontiguousarray(w.numpy()) for w in wanted]


def entry_results(
    compiled: Compilation, images: Sequence[np.ndarray], folder: Path
) -> list[np.ndarray]:
    """What the function `network` gives, without the C runtime and its single input and output."""
    write_object(compiled.module, compiled.target, folder / "network.o")
    link_shared([folder / "network.o"], compiled.target, folder / "network.so")
    entry = ctypes.CDLL(str(folder / "network.so")).network
    outputs = [np.full(end.shape, np.nan, np.float32) for end in compiled.outputs]
    weights = np.frombuffer(compiled.weights, np.uint8)
    memory = np.zeros(compiled.plan.workspace_bytes + len(weights) + 2 * ALIGNMENT, np.uint8)
    workspace = -memory.ctypes.data % ALIGNMENT + memory.ctypes.data
    after = workspace + -(-compiled.plan.workspace_bytes // ALIGNMENT) * ALIGNMENT
    ctypes.memmove(after, weights.ctypes.data, len(weights))
    ends = [array.ctypes.data for array in (*images, *outputs)]
    pointers = [ctypes.c_void_p(place) for place in (*ends, workspace, after, workspace)]
    for step in range(len(compiled.steps)):
        assert entry(*pointers, step, 0, 1, 0) == 0
    return outputs


def library_result(compiled: Compilation, images: np.ndarray, folder: Path) -> np.ndarray:
    """What the C library gives for the images; nothing outside its output may change."""
    interface = Interface.of(compiled, threads=1)
    write_library(compiled, interface, folder)
    library = ctypes.CDLL(str(folder / LIBRARY))
    workspace = np.zeros(interface.workspace_bytes + ALIGNMENT, np.uint8)
    start = -workspace.ctypes.data % ALIGNMENT + workspace.ctypes.data
    size = library.mnv2_output_size()
    assert size == prod(interface.output_shape)
    output = np.full(size + 4096, -12345.5, np.float32)
    pointers = (images.ctypes.data, output.ctypes.data, start)
    assert library.mnv2_run(*map(ctypes.c_void_p, pointers)) == 0
    assert (output[size:] == -12345.5).all(), "the library wrote behind its output"
    return output[:size].reshape(interface.output_shape)
