"""A whole quantised network in one library: from an image's bytes to the reference's logits."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import machines, skip_if_not_runnable
from quantised_networks import PIXELS, images_of, quantised

from mnv2_tvm.deploy.library import Interface, write_library
from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import Schedule, default_schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.pipeline import compile_quantised
from mnv2_tvm.quantise import reference
from mnv2_tvm.target import Target

ODD = Architecture(0.35, 47, classes=10)
TARGETS = [t for t in map(Target.load, machines()) if t.vector.dot.qs8 is not None]


def defaults(target: Target) -> Callable[[Layer], Schedule]:
    return lambda layer: default_schedule(layer, target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_library_gives_the_bits_of_the_reference(target: Target, tmp_path: Path) -> None:
    """Twice, as the second run finds the first one's rubbish in the workspace; on any threads."""
    skip_if_not_runnable(target)
    network = quantised(ODD)
    compilation = compile_quantised(network, target, defaults(target))
    interface = Interface.of(compilation, 1)
    write_library(compilation, interface, tmp_path)
    library = ctypes.CDLL(str(tmp_path / "libmnv2.so"))
    image = PIXELS.bytes_of(images_of(ODD, 1, 77))
    expected = reference.logits(network, image)
    memory = np.full(interface.workspace_bytes + 64, 0xFF, np.uint8)
    workspace = -(-memory.ctypes.data // 64) * 64
    for threads in (1, 3, 1):
        assert library.mnv2_set_threads(threads) == 0
        logits = np.full(expected.shape, np.nan, np.float32)
        pointers = (image.ctypes.data, logits.ctypes.data, workspace)
        assert library.mnv2_run(*map(ctypes.c_void_p, pointers)) == 0
        np.testing.assert_array_equal(logits, expected)


def test_a_target_without_such_kernels_is_named() -> None:
    target = Target.load("cortex-m4")
    with pytest.raises(UserError, match=r"no kernel for qs8-.* on cortex-m4"):
        compile_quantised(quantised(ODD), target, defaults(target))
