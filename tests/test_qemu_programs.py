"""The very libmnv2.so of every ARM target, run under qemu from C programs that know only mnv2.h.

The programs are linked with Debian's C libraries: those for a Raspberry Pi with glibc, those for
Android with musl, whose headers its libraries are compiled with. Bionic's loader is not at hand;
what it asks of a library is checked in the ELF file by every build.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from arm_sysroot import arm_sysroot
from conftest import ODD, Built, machines, run_python
from packages import SOURCES, PackageFor, package_for

from mnv2_tvm.deploy.link import compile_c
from mnv2_tvm.model import Architecture
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.target import Target

__all__ = ["package_for"]

LIBRARY = "lib/libmnv2.so"
EVEN = Architecture(0.35, 64, classes=10)


@dataclass(frozen=True)
class System:
    """What runs and links the programs of one triple."""

    qemu: str
    loader: str
    libc: str


SYSTEMS = {
    "arm-linux-gnueabihf": System("qemu-arm", "ld-linux-armhf.so.3", "libc.so.6"),
    "aarch64-linux-gnu": System("qemu-aarch64", "ld-linux-aarch64.so.1", "libc.so.6"),
    "aarch64-linux-musl": System("qemu-aarch64", "ld-musl-aarch64.so.1", "libc.so"),
}
TARGETS = [name for name in machines() if Target.load(name).link.triple in SYSTEMS]
# The least CPU of each: what a target does not promise must not be used. qemu-arm knows no
# ARMv8 by name, only all of it.
CPUS = {
    "aarch64": "cortex-a53",
    "rasp3": "cortex-a53",
    "rasp4": "cortex-a72",
    "rasp5": "cortex-a76",
    "android": "cortex-a53",
    "android-dotprod": "cortex-a76",
}

ONE_OF_EACH_SYSTEM = ["rasp4-32", "rasp4", "android"]


def compile_program(name: str, built: Built, folder: Path, *flags: str) -> Path:
    """Compile `c/NAME.c` and link it with the library and the C library of its target."""
    link = Target.load(built.manifest.target).link
    system, root = SYSTEMS[link.triple], arm_sysroot()
    program, part = folder / name, folder / f"{name}.o"
    # Without its CPU, 32-bit ARM has no division.
    flags = (*flags, "-Wextra", f"-I{built.folder}/include", f"-mcpu={link.cpu}")
    compile_c(SOURCES / f"{name}.c", Target.load(built.manifest.target), part, *flags)
    done = run_python(
        *("-m", "ziglang", "ld.lld", "-m", link.emulation, "-o", program, "--as-needed"),
        *("-rpath", built.folder / "lib", "-dynamic-linker", f"/lib/{system.loader}"),
        *(root / f"usr/lib/{link.triple}/crt1.o", part, built.folder / LIBRARY),
        root / f"lib/{link.triple}/{system.libc}",
    )
    assert done.returncode == 0, done.stderr
    return program


def run(target: str, program: Path, *arguments: object) -> None:
    """Run the program on the target's CPU and expect that it ends well."""
    system = SYSTEMS[Target.load(target).link.triple]
    qemu = shutil.which(system.qemu)
    assert qemu, f"no {system.qemu} on the PATH; apt install qemu-user"
    command = [qemu, "-cpu", CPUS.get(target, "max"), "-L", str(arm_sysroot()), str(program)]
    command += map(str, arguments)
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done


@pytest.mark.parametrize(
    ("target", "architecture"),
    [
        *(pytest.param(name, ODD, id=f"{name}-47-batch-2") for name in TARGETS),
        *(pytest.param(name, EVEN, id=f"{name}-64") for name in ONE_OF_EACH_SYSTEM),
    ],
)
def test_an_arm_program_computes_what_torch_does(
    target: str, architecture: Architecture, package_for: PackageFor, tmp_path: Path
) -> None:
    """The same bits with one thread and with two, and no byte outside the buffers is touched."""
    built = package_for(Target.load(target), architecture)
    images = built.network.images(seed=3)
    (tmp_path / "input.raw").write_bytes(images.tobytes())
    program = compile_program("guard", built, tmp_path)
    outputs = []
    for threads in (1, 2):
        run(target, program, tmp_path / "input.raw", tmp_path / "output.raw", threads)
        outputs.append((tmp_path / "output.raw").read_bytes())
    assert outputs[0] == outputs[1]
    logits = np.frombuffer(outputs[0], np.float32).reshape(built.manifest.output_shape)
    assert relative_error(logits, built.network.reference(images)) < 1e-4


@pytest.mark.parametrize("target", ["rasp4-32", "rasp4"])
def test_nan_stays_nan_on_arm(target: str, package_for: PackageFor, tmp_path: Path) -> None:
    """One pixel's reaches all classes; an infinite one is cut off by ReLU6."""
    built = package_for(Target.load(target), EVEN)
    program = compile_program("guard", built, tmp_path)
    for special in (np.nan, np.inf):
        images = built.network.images(seed=3)
        images[0, 30, 20, 1] = special
        (tmp_path / "input.raw").write_bytes(images.tobytes())
        run(target, program, tmp_path / "input.raw", tmp_path / "output.raw", 1)
        logits = np.fromfile(tmp_path / "output.raw", np.float32)
        wanted = built.network.reference(images)
        assert np.isnan(wanted).all() == np.isnan(special)
        np.testing.assert_allclose(logits, wanted[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ONE_OF_EACH_SYSTEM)
def test_arm_threads_that_run_at_once_do_not_meet(
    target: str, package_for: PackageFor, tmp_path: Path
) -> None:
    """Against each C library: its mutexes, conditions and threads."""
    run(
        target,
        compile_program(
            "two_threads", package_for(Target.load(target), EVEN), tmp_path, "-DRUNS=2"
        ),
    )


@pytest.mark.parametrize("target", ONE_OF_EACH_SYSTEM)
def test_an_arm_library_may_be_opened_and_closed(
    target: str, package_for: PackageFor, tmp_path: Path
) -> None:
    """By name, as an app does."""
    built = package_for(Target.load(target), EVEN)
    run(target, compile_program("unload", built, tmp_path), built.folder / LIBRARY)
