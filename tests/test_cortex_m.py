"""Microcontrollers: the static library, and its run in an emulated Cortex-M."""

import functools
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Built, run_python

from mnv2_tvm import UserError
from mnv2_tvm import device as device
from mnv2_tvm.assembly import assembly, inner_loops
from mnv2_tvm.build import build
from mnv2_tvm.cli import run_verb
from mnv2_tvm.deploy.bare_metal import check_static_library
from mnv2_tvm.deploy.link import archive, compile_c, link_object
from mnv2_tvm.deploy.loader import STATIC_LIBRARY
from mnv2_tvm.deploy.manifest import MANIFEST
from mnv2_tvm.devices.emulate.bare_metal import _link, _run, read_told, run_emulated
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import network_blocks
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target

M7, M4 = Target.load("cortex-m7"), Target.load("cortex-m4")
SMALL = Architecture(0.35, 96)  # as in README.md
FEW = replace(SMALL, classes=10)  # fits the 2 MiB of cortex-m4
BATCH = Architecture(0.35, 47, classes=12, batch=2)

BuildFor = Callable[[Target, Architecture], Built]


@pytest.fixture(scope="module")
def build_for(tmp_path_factory: pytest.TempPathFactory) -> BuildFor:
    """Build a network with random weights for a target, once. Do not change it."""

    @functools.cache
    def build_architecture(name: str, architecture: Architecture) -> Built:
        folder = tmp_path_factory.mktemp(name) / "out"
        network = SourceNetwork.make(architecture, None, seed=0)
        return Built(folder, network, build(Target.load(name), network, folder))

    return lambda target, architecture: build_architecture(target.name, architecture)


@pytest.mark.parametrize(
    ("target", "architecture", "instructions", "workspace"),
    [(M7, SMALL, 23_339_480, 101_568), (M4, FEW, 33_535_920, 101_568)],
    ids=["cortex-m7", "cortex-m4"],
)
def test_emulated_run_computes_what_torch_does_in_no_more_instructions(
    target: Target,
    architecture: Architecture,
    instructions: int,
    workspace: int,
    build_for: BuildFor,
) -> None:
    """Counted exactly, so that 3 % more is a change of the code; a gain moves the figure here."""
    built = build_for(target, architecture)
    run = run_emulated(target, built.folder, built.network)
    assert run.error < 1e-5
    assert 0.97 * instructions <= run.instructions <= 1.03 * instructions
    assert built.manifest.workspace_bytes == workspace
    assert 0 < run.stack_bytes < 1024


@pytest.mark.parametrize("target", [M7, M4], ids=["cortex-m7", "cortex-m4"])
@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_nan_stays_nan(
    target: Target,
    special: float,
    build_for: BuildFor,
    tmp_path: Path,
) -> None:
    """One pixel's reaches all classes; an infinite one is cut off by ReLU6."""
    built = build_for(target, TINY)
    images = built.network.images(seed=1)
    images[0, 30, 20, 1] = special
    assert target.microcontroller
    program = _link(target, built.folder / STATIC_LIBRARY, images, tmp_path)
    told = read_told(_run(target.microcontroller, program), math.prod(built.manifest.output_shape))
    logits = np.array(told["output"], np.uint32).view(np.float32)
    wanted = built.network.reference(images)
    assert np.isnan(wanted).all() == np.isnan(special)
    np.testing.assert_allclose(logits, wanted[0], rtol=1e-4, atol=1e-4)


def test_the_count_is_the_same_each_time(build_for: BuildFor) -> None:
    built = build_for(M7, BATCH)
    first, second = (run_emulated(M7, built.folder, built.network) for _ in range(2))
    assert first == second
    assert first.instructions > 1_000_000


def test_library_header_and_manifest(build_for: BuildFor) -> None:
    built = build_for(M7, TINY)
    assert {path.name for path in built.folder.iterdir()} == {STATIC_LIBRARY, "mnv2.h", MANIFEST}
    assert built.manifest.threads == 1
    symbols = run_python("-m", "ziglang", "ar", "t", built.folder / STATIC_LIBRARY)
    assert symbols.stdout.split() == ["mnv2.o"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "int mnv2_run(void) { extern int malloc(int); return malloc(1); }",
            "beyond memset and memcpy: .*malloc",
        ),
        ("int mnv2_run(void) { return 0; } int network;", "global symbols differ by .*network"),
        ("double f(double x) { return x * x; }", "beyond memset and memcpy: __aeabi_dmul"),
    ],
)
def test_a_library_is_read_back(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "part.c").write_text(source)
    compile_c(tmp_path / "part.c", M4, tmp_path / "part.o", f"-mcpu={M4.link.cpu}")
    link_object([tmp_path / "part.o"], M4, tmp_path / "whole.o", "*(.ARM.exidx*)")
    archive(tmp_path / "whole.o", tmp_path / "lib.a")
    with pytest.raises(UserError, match=message):
        check_static_library(tmp_path / "lib.a", M4, frozenset({"mnv2_run"}))


def test_a_library_of_another_float_abi_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part.c").write_text("float f(float x) { return x; }")
    soft = replace(M7, link=replace(M7.link, triple="thumb-freestanding-eabi"))
    compile_c(tmp_path / "part.c", soft, tmp_path / "part.o", f"-mcpu={M7.link.cpu}")
    link_object([tmp_path / "part.o"], soft, tmp_path / "whole.o", "*(.ARM.exidx*)")
    archive(tmp_path / "whole.o", tmp_path / "lib.a")
    with pytest.raises(UserError, match="lack EF_ARM_ABI_FLOAT_HARD"):
        check_static_library(tmp_path / "lib.a", M7, frozenset({"f"}))


def test_a_microcontroller_has_no_threads(tmp_path: Path) -> None:
    network = SourceNetwork.make(TINY, None, seed=0)
    with pytest.raises(UserError, match="cortex-m7 has no threads; leave --threads out"):
        build(M7, network, tmp_path / "out", threads=2)
    assert not list(tmp_path.iterdir())


def test_inner_loops_are_fused_multiply_adds_in_registers() -> None:
    """Of the cortex-m7; on the cortex-m4 LLVM takes pairs, which are the faster there.

    To nine of a depthwise part come the two bounds of ReLU6 and the additions that look for NaN.
    """
    decisions = Decisions.load(M7, 1)
    module = SourceNetwork.make(SMALL, None, 0).relax()
    for block in dict.fromkeys(network_blocks(module)):
        loops = [
            loop
            for loop in inner_loops(assembly(block, decisions.schedule(block), M7))
            if loop.fmas
        ]
        assert len(loops) >= len(block.parts), block.name
        for loop in loops:
            assert loop.spills == 0, (block.name, loop)
            assert loop.fma_share >= 0.75, (block.name, loop)
        assert sum(loop.fma_share < 0.8 for loop in loops) <= 1, (block.name, loops)


# Errors of the emulation


def test_wrong_numbers_are_found(build_for: BuildFor) -> None:
    built = build_for(M7, TINY)
    with pytest.raises(UserError, match=r"wrong numbers: .*libmnv2.a"):
        run_emulated(M7, built.folder, SourceNetwork.make(TINY, None, seed=5))


def test_a_fault_of_the_program_is_told(build_for: BuildFor) -> None:
    built = build_for(M7, TINY)
    assert M7.microcontroller
    nowhere = replace(M7.microcontroller, qemu_weights="ORIGIN = 0x90000000, LENGTH = 16M")
    with pytest.raises(UserError, match="the emulated run failed: "):
        run_emulated(replace(M7, microcontroller=nowhere), built.folder, built.network)


def test_warnings_of_qemu_are_no_values(
    build_for: BuildFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both streams, before and after what the program tells."""
    built, real = build_for(M7, TINY), shutil.which("qemu-system-arm")
    warning = "qemu-system-arm: warning: \\377 nic stellaris_enet.0 has no peer"
    lines = f"printf '{warning}\\n'; printf '{warning}\\n' >&2"
    (tmp_path / "qemu-system-arm").write_text(f'#!/bin/sh\n{lines}\n{real} "$@" && {lines}\n')
    (tmp_path / "qemu-system-arm").chmod(0o700)
    plain = run_emulated(M7, built.folder, built.network)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert run_emulated(M7, built.folder, built.network) == plain


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda text: "", "no output"),
        (lambda text: text.replace("ticks 0", "ticks x"), "'ticks' 0 times"),
        (lambda text: text + text, "2 times"),
        (lambda text: text + "output 00000000\n", "'output' 3 times"),
        (lambda text: text.replace("calibration 00000001", "calibration 00000000"), "icount"),
        (lambda text: text.replace("stack ", "stack \x1b[2J"), "'stack' 0 times"),
    ],
)
def test_values_that_are_missing(damage: Callable[[str], str], match: str) -> None:
    names = ("error", "calibration", "ticks_high", "ticks", "stack", "output", "output")
    text = "".join(f"{name} 0000000{int(name != 'error')}\n" for name in names)
    assert read_told(text, 2)["stack"] == [1]
    with pytest.raises(UserError, match=match) as caught:
        read_told(damage(text), 2)
    assert str(caught.value).isprintable()


def test_a_library_of_another_target_is_refused(build_for: BuildFor) -> None:
    built = build_for(M7, TINY)
    with pytest.raises(UserError, match="was built for cortex-m7, not for cortex-m4"):
        run_emulated(M4, built.folder, built.network)


def test_emulation_without_qemu_names_the_package(
    build_for: BuildFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_for(M7, TINY)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="apt install qemu-system-arm"):
        run_emulated(M7, built.folder, built.network)


def emulate(*arguments: str | Path) -> int:
    """The exit code of `python -m mnv2_tvm.device emulate ARGUMENTS`."""
    with pytest.raises(SystemExit) as ended:
        run_verb(device.main, ["emulate", *map(str, arguments)], verbs=device.VERBS)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_command_line_runs_a_build(build_for: BuildFor, capsys: pytest.CaptureFixture[str]) -> None:
    built = build_for(M7, TINY)
    assert emulate("--target", "cortex-m7", "--library", built.folder) == 0
    output = capsys.readouterr().out
    assert "emulated: counts of instructions, no times" in output
    assert f"{built.manifest.workspace_bytes} bytes" in output


def test_command_line_builds_what_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--width", "0.35", "--resolution", "32", "--classes", "10")
    assert emulate("--target", "cortex-m4", *size) == 0
    assert "0.35-32, fp32" in capsys.readouterr().out


def test_only_a_microcontroller_takes_a_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert emulate("--target", "rasp4", "--library", tmp_path) == 1
    assert "are for microcontrollers, not for rasp4" in capsys.readouterr().err


def test_a_damaged_library_is_refused(build_for: BuildFor, tmp_path: Path) -> None:
    built = build_for(M7, TINY)
    table = json.loads((built.folder / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(table))
    with pytest.raises(UserError, match="holds no library"):
        run_emulated(M7, tmp_path, built.network)
    (tmp_path / STATIC_LIBRARY).write_bytes(b"!<arch>\n")
    with pytest.raises(UserError, match="damaged"):
        run_emulated(M7, tmp_path, built.network)
