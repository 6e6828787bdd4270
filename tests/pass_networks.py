"""Networks as the passes see them, with every block as one kernel and layer by layer."""

import functools
from math import prod

import pytest

from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.network import SourceNetwork
from mnv2_tvm.passes.fuse_layers import fuse_layers
from mnv2_tvm.passes.list_steps import Step, list_steps
from mnv2_tvm.passes.select_kernels import select_kernels
from mnv2_tvm.pipeline import network_blocks
from mnv2_tvm.search.records import Decisions
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
