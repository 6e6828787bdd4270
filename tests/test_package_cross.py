"""Packages for three architectures in static programs under qemu, on CPUs that suffice and not."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ODD, TINY, Built
from packages import SOURCES, PackageFor, check_example, package_for, run, tool

import mnv2_tvm.deploy
from mnv2_tvm.build import build
from mnv2_tvm.deploy.cpu_features import CHECKS, cpu_define
from mnv2_tvm.deploy.package import STATIC_LIBRARY
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import this_host
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.target import HostNeeds, Target

__all__ = ["package_for"]

DEPLOY = Path(mnv2_tvm.deploy.__file__).parent
TRIPLES = {
    "x86_64": "x86_64-linux-musl",
    "aarch64": "aarch64-linux-musl",
    "armv7l": "arm-linux-musleabihf",
}
QEMU = {"x86_64": "qemu-x86_64", "aarch64": "qemu-aarch64", "armv7l": "qemu-arm"}
# A CPU that has what the target file names, and no more where qemu knows one.
CPUS = {
    "x86-avx2": "max",
    "rasp4": "cortex-a72",
    "rasp4-32": "max",
    "android-dotprod": "cortex-a76",
}
# Each lacks something that the target file names; the first of an architecture are real CPUs.
LACKING = {
    "x86-avx2": ["Nehalem", "max,avx2=off", "max,fma=off", "max,bmi2=off", "max,xsave=off"],
    "x86-avx512": ["Haswell"],
    "android-dotprod": ["cortex-a53"],
    "rasp4-32": ["cortex-a15", "cortex-a9", "cortex-a9,neon=off"],
}
_A53 = {"asimd", "crc32"}
_A76 = _A53 | {"atomics", "fphp", "asimdhp", "asimddp"}
KNOWN = {
    "aarch64": {"cortex-a53": _A53, "cortex-a76": _A76, "max": set(CHECKS["aarch64"])},
    "armv7l": {
        "cortex-a9": {"neon", "vfpv3"},
        "cortex-a15": {"neon", "vfpv3", "vfpv4", "idiva"},
        "max": set(CHECKS["armv7l"]),
    },
    "x86_64": {"Nehalem": {"sse4_1", "sse4_2"}},
}


def zig_cc(machine: str, program: Path, *arguments: object) -> Path:
    """Compile a static program for a machine, with musl; optimised, it would use vectors itself.

    Stripped, as our own programs are: else zig would build another musl for it.
    """
    flags = ["-target", TRIPLES[machine], "-static", "-s", "-fno-sanitize=all", "-o", program]
    run(sys.executable, "-m", "ziglang", "cc", *flags, *arguments)
    return program


def link(built: Built, name: str, folder: Path) -> Path:
    """The program of `c/NAME.c`, or the package's example, with the static library inside."""
    sources = {"example": built.folder / "example.c"}
    source = sources.get(name, SOURCES / f"{name}.c")
    library = ["-I", built.folder / "include", built.folder / STATIC_LIBRARY]
    return zig_cc(built.manifest.machine, folder / name, source, *library)


@pytest.mark.parametrize("target", CPUS)
def test_the_example_computes_what_torch_does(
    target: str, package_for: PackageFor, tmp_path: Path
) -> None:
    built = package_for(Target.load(target), ODD)
    qemu = tool(QEMU[built.manifest.machine])
    program = link(built, "example", tmp_path)
    check_example(built, [qemu, "-cpu", CPUS[target], program], tmp_path)


@pytest.mark.parametrize("target", CPUS)
def test_no_byte_outside_the_buffers_is_touched(
    target: str, package_for: PackageFor, tmp_path: Path
) -> None:
    """And none inside the workspace, full of NaN, is read before it is written."""
    built = package_for(Target.load(target), ODD)
    images = built.network.images(seed=3)
    (tmp_path / "input.raw").write_bytes(images.tobytes())
    qemu = tool(QEMU[built.manifest.machine])
    program, output = link(built, "guard", tmp_path), tmp_path / "output.raw"
    for threads in (1, 2):
        run(qemu, "-cpu", CPUS[target], program, tmp_path / "input.raw", output, threads)
        result = np.fromfile(output, np.float32).reshape(built.manifest.output_shape)
        assert relative_error(result, built.network.reference(images)) < 1e-4


@pytest.mark.parametrize("target", LACKING)
def test_a_cpu_that_lacks_a_feature_is_an_error_and_not_a_crash(
    target: str, package_for: PackageFor, tmp_path: Path
) -> None:
    built = package_for(Target.load(target), ODD)
    program = link(built, "refused", tmp_path)
    for cpu in LACKING[target]:
        run(tool(QEMU[built.manifest.machine]), "-cpu", cpu, program)


def ask_for_features(machine: str, folder: Path) -> Path:
    """A program that prints what the checks of all known features say."""
    target = Target.load("rasp4")
    target = replace(target, host=HostNeeds(machine, tuple(CHECKS[machine])))
    source = [SOURCES / "cpu_features.c", f"-I{DEPLOY}", cpu_define(target)]
    return zig_cc(machine, folder / "features", *source)


def features(machine: str, *command: object) -> Mapping[str, bool]:
    """What the program of `ask_for_features` says."""
    answers = run(*command).split("\n")[: len(CHECKS[machine])]
    return dict(zip(CHECKS[machine], [answer == "1" for answer in answers], strict=True))


@pytest.mark.parametrize("machine", KNOWN)
def test_checks_know_the_features_of_known_cpus(machine: str, tmp_path: Path) -> None:
    program = ask_for_features(machine, tmp_path)
    for cpu, wanted in KNOWN[machine].items():
        found = features(machine, tool(QEMU[machine]), "-cpu", cpu, program)
        assert {name for name, has in found.items() if has} == wanted, cpu


def test_checks_say_what_the_kernel_says_here(tmp_path: Path) -> None:
    host = this_host()
    found = features(host.machine, ask_for_features(host.machine, tmp_path))
    assert found == {name: name in host.features for name in CHECKS[host.machine]}


def test_a_feature_without_a_check_is_named(tmp_path: Path) -> None:
    target = Target.load("rasp4")
    target = replace(target, host=HostNeeds("aarch64", ("asimd", "sme9")))
    with pytest.raises(UserError, match=r"rasp4.toml: no C check .* aarch64 feature 'sme9'"):
        build(target, SourceNetwork.make(TINY, None, 0), tmp_path / "out", package=True)
    assert list(tmp_path.iterdir()) == []
