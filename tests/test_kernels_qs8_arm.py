"""Quantised kernels of ARM targets, run under qemu: the bits of the definition there as well."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm
from byte_layers import schedules, with_a_dot
from byte_runner import Array, ByteOperands, numpy_result

from mnv2_tvm.deploy.link import link_program, write_object
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.lower_kernels import lower_kernels
from mnv2_tvm.target import Target

SOURCE = Path(__file__).parent / "c/kernel.c"
QEMU = ("qemu-aarch64", "-cpu", "cortex-a76")  # no more than the targets promise

TARGETS = [target for target in with_a_dot() if target.host.machine == "aarch64"]
LAYERS = (
    "qs8-pwconv-3x3x12-5-residual",
    "qs8-pwconv-2x2x7-59",
    "qs8-pwconv-7x5x24-24-residual",
    "qs8-pwconv-2x3x3-1",
    "qs8-pwconv-1x1x133-45-logits",
    "qs8-dwconv-3x3s2-9x11x40",
    "qs8-dwconv-3x3s1-5x7x13-linear",
    "qs8-conv-3x3s2-9x11x3-16",
    "qs8-conv-3x3s2p0x1-12x12x3-24",
    "qs8-avgpool-2x3x5x13",
)


def emulated(
    layer: Layer, schedule: Schedule, target: Target, operands: ByteOperands, folder: Path
) -> Array:
    """The output of a static program with the kernel, after all its tasks."""
    arrays = [operands.x, *schedule.pack(layer, operands.parameters)]
    if operands.residual is not None:
        arrays.append(operands.residual)
    count, y = len(arrays), np.full(layer.output_shape, 77, layer.output_storage)
    kernels = tvm.IRModule({"kernel": schedule.emit(layer, target)})
    write_object(lower_kernels(kernels, target), target, folder / "kernel.o")
    types = ", ".join([*["void *"] * count, "int", "int", "void *"])
    call = ", ".join([*(f"arrays[{i}]" for i in range(count)), "0", "tasks", f"arrays[{count}]"])
    defines = (f"-DARGUMENTS={types}", f"-DCALL={call}", f"-DCOUNT={count}")
    link_program([SOURCE, folder / "kernel.o"], target, folder / "program", *defines)
    numbers = np.array([*(array.nbytes for array in [*arrays, y]), schedule.tasks(layer)], "<i4")
    given = b"".join(array.tobytes() for array in [numbers, *arrays, y])
    run = subprocess.run(
        [*QEMU, str(folder / "program")], input=given, capture_output=True, timeout=60, check=True
    )
    return np.frombuffer(run.stdout, layer.output_storage).reshape(layer.output_shape)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("name", LAYERS)
def test_kernels_have_the_bits_of_the_definition(name: str, target: Target, tmp_path: Path) -> None:
    assert shutil.which(QEMU[0]), "scripts/test installs qemu-user"
    layer = Layer.parse(name)
    operands = ByteOperands.random(layer)
    for schedule in schedules(name, target)[:2]:
        np.testing.assert_array_equal(
            emulated(layer, schedule, target, operands, tmp_path),
            numpy_result(layer, operands),
            str(schedule),
        )
