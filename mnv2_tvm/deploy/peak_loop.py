"""The FMA loop whose rate is the peak: its size for a target, and its objects."""

from pathlib import Path

from mnv2_tvm.deploy.link import compile_c, ffi_includes, link_shared
from mnv2_tvm.dtype import F32
from mnv2_tvm.target import Target

SOURCE = Path(__file__).with_name("peak.c")

_SPARE_REGISTERS = 4  # factor and addend, and two that the compiler may want


def chains(target: Target) -> int:
    """Independent accumulators of the loop: all registers but a few."""
    return target.vector.registers - _SPARE_REGISTERS


def flop_per_round(target: Target) -> int:
    """Of the loop; two for each fused multiply-add."""
    return 2 * chains(target) * target.vector.lanes(F32)


def compile_flags(target: Target) -> tuple[str, ...]:
    """What `peak.c` needs beside the flags that all C of a target has."""
    return (
        f"-mcpu={target.link.cpu}",
        f"-DVECTOR_BYTES={target.vector.bytes}",
        f"-DCHAINS={chains(target)}",
    )


def write_probe(target: Target, path: Path) -> None:
    """Write the library with the FMA loop and its TVM entry."""
    entry = path.with_name(f"{path.stem}-entry.o")
    compile_c(SOURCE.with_name("peak_packed.c"), target, entry, *ffi_includes())
    link_shared([*write_loop(target, path), entry], target, path)


def write_loop(target: Target, path: Path) -> list[Path]:
    """Write the objects of the loop and of its threads beside `path`."""
    loop, threads = (path.with_name(f"{path.stem}-{part}.o") for part in ("loop", "threads"))
    compile_c(SOURCE, target, loop, *compile_flags(target))
    compile_c(SOURCE.with_name("peak_threads.c"), target, threads)
    return [loop, threads]
