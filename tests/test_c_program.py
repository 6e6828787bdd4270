"""The library in C programs that know nothing but mnv2.h, compiled without a system compiler."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ODD, TINY, Built, run_python

import mnv2_tvm
from mnv2_tvm.model import Architecture
from mnv2_tvm.target import Target

SOURCES = Path(__file__).parent / "c"

Compile = Callable[[str, Built], Path]


@pytest.fixture
def compile_program(here: Target, tmp_path: Path) -> Compile:
    """Compile `c/NAME.c` against the header and the library of a built network."""

    def compile_source(name: str, built: Built) -> Path:
        program = tmp_path / name
        flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-target", here.link.triple]
        libraries = [f"-L{built.folder}", "-lmnv2", "-lpthread", f"-Wl,-rpath,{built.folder}"]
        source = SOURCES / f"{name}.c"
        done = run_python(
            *("-m", "ziglang", "cc", *flags, f"-I{built.folder}", source, *libraries),
            *("-o", program),
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return program

    return compile_source


def a_cpu() -> int:
    """One that this process may use."""
    return min(os.sched_getaffinity(0))


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it with nothing in the environment: no path to any library."""
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, env={}, capture_output=True, text=True, check=False, timeout=120)


def write_images(built: Built, folder: Path) -> Path:
    path = folder / "input.raw"
    path.write_bytes(built.network.images(seed=3).tobytes())
    return path


def python_logits(built: Built) -> np.ndarray:
    return mnv2_tvm.load(built.folder, threads=1)(built.network.images(seed=3))


@pytest.mark.parametrize("architecture", [TINY, ODD], ids=["32", "47-batch-2"])
def test_c_program_computes_the_bits_that_python_does(
    architecture: Architecture,
    build_once: Callable[[Architecture], Built],
    compile_program: Compile,
    tmp_path: Path,
) -> None:
    built = build_once(architecture)
    output = tmp_path / "output.raw"
    done = run(compile_program("classify", built), write_images(built, tmp_path), output)
    assert done.returncode == 0, done
    assert output.read_bytes() == python_logits(built).tobytes()
    manifest = built.manifest
    sizes = f"{len(manifest.layers)} {manifest.workspace_bytes}"
    assert done.stdout == f"{mnv2_tvm.__version__} {sizes}\n"


def test_the_header_states_the_networks_sizes(tiny: Built) -> None:
    text = (tiny.folder / "mnv2.h").read_text()
    sizes = dict(re.findall(r"^#define (MNV2_\w+) (\d+)$", text, re.MULTILINE))
    assert sizes["MNV2_INPUT_SIZE"] == str(np.prod(tiny.manifest.input_shape))
    assert sizes["MNV2_OUTPUT_SIZE"] == str(np.prod(tiny.manifest.output_shape))
    assert sizes["MNV2_WORKSPACE_BYTES"] == str(tiny.manifest.workspace_bytes)
    assert sizes["MNV2_LAYER_COUNT"] == str(len(tiny.manifest.layers))


def test_threads_that_run_at_once_do_not_meet(tiny: Built, compile_program: Compile) -> None:
    done = run(compile_program("two_threads", tiny))
    assert done.returncode == 0, done


@pytest.mark.parametrize("architecture", [TINY, ODD], ids=["32", "47-batch-2"])
def test_no_byte_outside_the_buffers_is_touched(
    architecture: Architecture,
    build_once: Callable[[Architecture], Built],
    compile_program: Compile,
    tmp_path: Path,
) -> None:
    """And none inside the workspace is read before it is written."""
    built = build_once(architecture)
    program, images = compile_program("guard", built), write_images(built, tmp_path)
    for threads in (1, 2):
        output = tmp_path / f"output-{threads}.raw"
        done = run(program, images, output, threads)
        assert done.returncode == 0, done
        assert output.read_bytes() == python_logits(built).tobytes()


def test_a_forked_child_runs(tiny: Built, compile_program: Compile) -> None:
    """Python's multiprocessing forks; so do many servers."""
    done = run(compile_program("after_fork", tiny))
    assert done.returncode == 0, done


def test_the_library_may_be_closed(tiny: Built, compile_program: Compile) -> None:
    """As TVM does with a module that nobody holds."""
    done = run(compile_program("unload", tiny), tiny.folder / "libmnv2.so")
    assert done.returncode == 0, done


@pytest.mark.parametrize("name", ["crowd", "shutdown"])
def test_threads_that_share_a_cpu_let_each_other_in(
    name: str, tiny: Built, compile_program: Compile
) -> None:
    done = run(compile_program(name, tiny), a_cpu())
    assert done.returncode == 0, done


def test_a_real_time_caller_lets_its_workers_in(tiny: Built, compile_program: Compile) -> None:
    done = run(compile_program("real_time", tiny), a_cpu())
    if done.returncode == 77:
        pytest.skip("this user may not have real-time threads")
    assert done.returncode == 0, done


def test_signals_go_to_the_program(tiny: Built, compile_program: Compile) -> None:
    done = run(compile_program("signals", tiny))
    assert done.returncode == 0, done


def test_a_child_of_the_same_process_number_runs(tiny: Built, compile_program: Compile) -> None:
    done = run(compile_program("namespaces", tiny))
    if done.returncode == 77:
        pytest.skip("this user may not have process namespaces")
    assert done.returncode == 0, done
