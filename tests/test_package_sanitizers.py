"""The C runtime under gcc's sanitizers, around the generated object, in the programs of tests/c."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import ODD
from packages import SOURCES, run, tool

import mnv2_tvm.deploy
from mnv2_tvm.deploy.cpu_features import cpu_define
from mnv2_tvm.deploy.library import Interface, compile_objects, runtime_defines, write_header
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.pipeline import compile_network
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target

DEPLOY = Path(mnv2_tvm.deploy.__file__).parent
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


@dataclass(frozen=True)
class Parts:
    """A network for this host in pieces: what gcc compiles the runtime with."""

    network: SourceNetwork
    generated: Path  # network.o
    flags: list[str]


@pytest.fixture(scope="module")
def parts(here: Target, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("parts")
    network = SourceNetwork.make(ODD, None, seed=0)
    compilation = compile_network(network.relax(), here, Decisions.load(here, 1))
    interface = Interface.of(compilation, 2)
    write_header(interface, folder / "mnv2.h")
    compile_objects(compilation, interface, folder, folder)
    defines = runtime_defines(compilation, interface, folder / "weights.bin")
    flags = [f"-I{folder}", f"-Wa,-I{folder}", cpu_define(here), *defines]
    return Parts(network, folder / "network.o", flags)


def program(name: str, parts: Parts, sanitizer: str, folder: Path) -> Path:
    """`c/NAME.c` with the C runtime, all with the sanitizer in."""
    runtime = [DEPLOY / f"{part}.c" for part in ("runtime", "steps", "team", "cpu")]
    sources = [SOURCES / f"{name}.c", *runtime, parts.generated]
    flags = ["-std=c11", "-O1", "-g", "-pthread", *SANITIZERS[sanitizer], "-DRUNS=5", *parts.flags]
    run(tool("gcc"), *flags, *sources, "-o", folder / name)
    return folder / name


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("name", ["classify", "guard"])
def test_a_clean_run_computes_what_torch_does(
    name: str, sanitizer: str, parts: Parts, tmp_path: Path
) -> None:
    images = parts.network.images(seed=3)
    wanted = parts.network.reference(images)
    (tmp_path / "input.raw").write_bytes(images.tobytes())
    arguments = [tmp_path / "input.raw", tmp_path / "output.raw"]
    built = program(name, parts, sanitizer, tmp_path)
    run(built, *arguments, *["2"] * (name == "guard"))
    result = np.fromfile(tmp_path / "output.raw", np.float32).reshape(wanted.shape)
    assert relative_error(result, wanted) < 1e-4


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_threads_that_run_at_once_are_clean(sanitizer: str, parts: Parts, tmp_path: Path) -> None:
    run(program("two_threads", parts, sanitizer, tmp_path))


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("name", ["crowd", "shutdown"])
def test_threads_that_share_a_cpu_are_clean(
    name: str, sanitizer: str, parts: Parts, tmp_path: Path
) -> None:
    run(program(name, parts, sanitizer, tmp_path), min(os.sched_getaffinity(0)))


def test_a_forked_child_is_clean(parts: Parts, tmp_path: Path) -> None:
    run(program("after_fork", parts, "address", tmp_path))
