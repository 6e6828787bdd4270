"""Lines that a built network fetches into the last cache, by valgrind's cachegrind.

The library keeps the names of its kernels, so that the misses of each are known.
"""

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mnv2_tvm.errors import UserError
from mnv2_tvm.target import Cache, Target

LINE_BYTES = 64
_FEW, _MANY = 1, 2  # runs; the difference leaves out the start of the program and a cold cache
_MISSES = ("DLmr", "DLmw")  # reads and writes of data that miss the last cache
_L1_WAYS, _LAST_WAYS = 8, 16


def fetched_bytes(library: Path, target: Target, cache: Cache) -> dict[str, float]:
    """Bytes that cross the last cache in one run of the library in that folder, by function.

    Raises UserError without valgrind, and where this host cannot run `target`.
    """
    if shutil.which("valgrind") is None:
        raise UserError("valgrind is missing; apt install valgrind")
    if lacking := target.missing_here():
        raise UserError(f"the model runs {target.name}; this host lacks {', '.join(lacking)}")
    with tempfile.TemporaryDirectory(prefix="mnv2-") as scratch:
        program = _compile(library, target, Path(scratch))
        few, many = (_misses(program, runs, cache) for runs in (_FEW, _MANY))
    return {name: LINE_BYTES * (many[name] - few[name]) / (_MANY - _FEW) for name in many}


def _compile(library: Path, target: Target, scratch: Path) -> Path:
    program = scratch / "run_network"
    source = Path(__file__).with_name("run_network.c")
    _run(
        *(sys.executable, "-m", "ziglang", "cc", "-std=c11", "-O2", "-g0", source, "-o", program),
        *("-target", target.link.triple, f"-I{library}", f"-L{library}", "-lmnv2"),
        f"-Wl,-rpath,{library}",
    )
    return program


def _misses(program: Path, runs: int, cache: Cache) -> Counter[str]:
    """Misses of the last cache by function."""
    report = program.with_name(f"cachegrind-{runs}.out")
    _run(
        *("valgrind", "--tool=cachegrind", "--cache-sim=yes", f"--cachegrind-out-file={report}"),
        f"--D1={_geometry(cache.l1_bytes, _L1_WAYS)}",
        f"--LL={_geometry(cache.l2_bytes, _LAST_WAYS)}",
        *(program, str(runs)),
    )
    return _read(report.read_text(encoding="utf-8").splitlines())


def _geometry(size: int, ways: int) -> str:
    """`size,ways,line` with the ways that cachegrind takes: it wants 2**n sets."""
    lines = size // LINE_BYTES
    sets = 1 << (lines // ways).bit_length() - 1 if lines >= ways else 1
    return f"{size},{lines // sets},{LINE_BYTES}"


def _read(report: Iterable[str]) -> Counter[str]:
    """The sums of a report by function; below a `fn=` stand its lines, each with all counts."""
    misses: Counter[str] = Counter()
    columns: list[int] = []
    function = ""
    for line in report:
        if line.startswith("events:"):
            names = line.split()[1:]
            columns = [names.index(name) + 1 for name in _MISSES]  # a line number comes first
        elif line.startswith("fn="):
            function = line.removeprefix("fn=")
        elif line[:1].isdigit():
            counts = line.split()
            misses[function] += sum(int(counts[column]) for column in columns)
    return misses


def _run(*command: str | Path) -> None:
    """Raises UserError with the program's own words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{command[0]} failed:\n{(done.stderr or done.stdout).strip()}")
