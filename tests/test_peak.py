"""The FMA loop: what it computes, and that it is nothing but FMAs on whole registers."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mnv2_tvm.deploy.link import compile_c
from mnv2_tvm.peak import SOURCE, PeakProbe, chains, compile_flags
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


@pytest.fixture(scope="module")
def probe() -> PeakProbe:
    return PeakProbe(Target.load("x86"))


def test_every_round_of_every_chain_is_computed(probe: PeakProbe) -> None:
    vector, count = Target.load("x86").vector, chains(Target.load("x86"))
    starts = vector.lanes * sum(range(count))
    lanes = vector.lanes * count
    assert probe.run(1, 0, 5) == starts
    assert probe.run(1, 1, 5) == starts + 5 * lanes
    assert probe.run(2, 0, 3) == 8 * starts
    assert probe.run(0.5, 0.5, 1000) == lanes  # all have come to 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_rate_is_found_with_any_number_of_threads(probe: PeakProbe, threads: int) -> None:
    assert probe.gflop_per_s(threads, sample_s=0.001) > 0


def test_the_probe_is_of_the_width_of_its_target() -> None:
    """The same machine with vectors of four lanes."""
    target = Target.load("x86")
    narrow = replace(target, vector=replace(target.vector, bytes=16))
    assert PeakProbe(narrow).run(1, 0, 1) == 4 * sum(range(chains(target)))
