"""The FMA loop: what it computes, and that it is nothing but FMAs on whole registers."""

import ctypes
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from device_boards import ready_tracker, wait_for_boards
from tvm import runtime

from mnv2_tvm.deploy.link import compile_c
from mnv2_tvm.deploy.peak_loop import SOURCE, chains, compile_flags, write_probe
from mnv2_tvm.devices.emulate.board import LocalBoards
from mnv2_tvm.devices.rpc.session import Address, Session
from mnv2_tvm.dtype import F32
from mnv2_tvm.errors import UserError
from mnv2_tvm.measure.peak import PeakProbe
from mnv2_tvm.target import Target

X86 = ("x86-avx2", "x86-avx512")


@pytest.mark.parametrize("name", X86)
def test_chains_hide_the_latency_and_fit_the_registers(name: str) -> None:
    vector = Target.load(name).vector
    count = chains(Target.load(name))
    assert vector.fma_latency * vector.fma_per_cycle <= count <= vector.registers - 2


def inner_loop(name: str, scratch: Path) -> list[str]:
    """The instructions of the one loop, from the compiler's assembly."""
    target, listing = Target.load(name), scratch / "peak.s"
    flags = (*compile_flags(target), "-S", "-Wno-unused-command-line-argument")
    compile_c(SOURCE, target, listing, *flags)
    lines = [line.split("#")[0].strip() for line in listing.read_text().splitlines()]
    lines = [line for line in lines if line]
    body: list[list[str]] = []
    for end, line in enumerate(lines):
        jump = re.fullmatch(r"j\w+\s+(\.\w+)", line)
        if jump and f"{jump[1]}:" in lines[:end]:
            start = lines.index(f"{jump[1]}:")
            body.append(lines[start + 1 : end + 1])
    (loop,) = body
    return loop


@pytest.mark.parametrize("name", X86)
def test_the_loop_is_fmas_on_whole_registers(name: str, tmp_path: Path) -> None:
    """No spill, no half registers, every chain as often as the others."""
    target = Target.load(name)
    loop = inner_loop(name, tmp_path)
    register = {32: "ymm", 64: "zmm"}[target.vector.bytes]
    fmas = [line for line in loop if re.match(rf"vfmadd\w+ps\s+(%{register}\d+(, )?){{3}}$", line)]
    accumulators = [line.rsplit("%", 1)[1] for line in fmas]
    assert len(set(accumulators)) == chains(target)
    assert len(fmas) % chains(target) == 0
    assert len(loop) - len(fmas) <= 3  # the counter and the jump
    assert not any("(" in line for line in loop)


def rounds(target: Target, folder: Path) -> Callable[[float, float, int], float]:
    """The C function of the loop: the sum of all lanes of all chains after so many rounds."""
    write_probe(target, folder / "libpeak.so")
    function = ctypes.CDLL(str(folder / "libpeak.so")).mnv2_fma_rounds
    function.argtypes = [ctypes.c_float, ctypes.c_float, ctypes.c_long]
    function.restype = ctypes.c_float
    return function


def test_every_round_of_every_chain_is_computed(tmp_path: Path) -> None:
    target = Target.load("host")
    run, vector, count = rounds(target, tmp_path), target.vector, chains(target)
    starts = vector.lanes(F32) * sum(range(count))
    lanes = vector.lanes(F32) * count
    assert run(1, 0, 5) == starts
    assert run(1, 1, 5) == starts + 5 * lanes
    assert run(2, 0, 3) == 8 * starts
    assert run(0.5, 0.5, 1000) == lanes  # all have come to 1


def test_the_loop_is_of_the_width_of_its_target(tmp_path: Path) -> None:
    """The same machine with vectors of four lanes."""
    target = Target.load("host")
    narrow = replace(target, vector=replace(target.vector, bytes=16))
    assert rounds(narrow, tmp_path)(1, 0, 1) == 4 * sum(range(chains(target)))


@pytest.fixture(scope="module")
def probe() -> PeakProbe:
    return PeakProbe(Target.load("host"))


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_a_rate_is_found_with_any_number_of_threads(probe: PeakProbe, threads: int) -> None:
    assert probe.gflop_per_s(threads, sample_s=0.001) > 0


@pytest.mark.parametrize("threads", [0, 65])
def test_no_rate_of_threads_that_cannot_be_had(probe: PeakProbe, threads: int) -> None:
    with pytest.raises(UserError, match=f"of {threads} threads cannot be measured"):
        probe.gflop_per_s(threads, sample_s=0.001)


def test_the_time_is_that_of_the_rounds(tmp_path: Path) -> None:
    """Ten times the rounds take far longer, on one thread and on two."""
    write_probe(Target.load("host"), tmp_path / "libpeak.so")
    seconds = runtime.load_module(str(tmp_path / "libpeak.so"))["mnv2_fma_seconds"]
    for threads in (1, 2):
        short, long = (
            min(seconds(0.999, 0.001, count, threads) for _ in range(5))
            for count in (100_000, 1_000_000)
        )
        assert long > 4 * short


def test_a_board_measures_its_own_peak() -> None:
    """Compiled for it, uploaded and timed there: an emulated Raspberry Pi 4."""
    rasp4 = Target.load("rasp4")
    with ready_tracker() as tracker:
        address = Address((tracker.host, tracker.port), rasp4.name)
        with LocalBoards(rasp4, address.tracker, qemu=True):
            wait_for_boards(address.tracker, address.key)
            with closing(Session(address)) as session:
                probe = PeakProbe(rasp4, session.load)
                assert all(probe.gflop_per_s(threads, sample_s=0.01) > 0 for threads in (1, 2))
                with pytest.raises(UserError, match="of 65 threads cannot be measured"):
                    probe.gflop_per_s(65, sample_s=0.01)
