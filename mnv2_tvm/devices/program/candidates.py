"""One program with the candidates of a layer: their kernels, their operands, the right answer."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import tvm
from msgspec import UNSET, Meta, UnsetType

from mnv2_tvm.deploy.elf import check_program
from mnv2_tvm.deploy.link import link_program, write_object
from mnv2_tvm.deploy.program import SOURCES, program_flags
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.measure.problem import problem
from mnv2_tvm.numbers import TOLERANCE
from mnv2_tvm.passes.lower_kernels import lower_kernels
from mnv2_tvm.target import Target
from mnv2_tvm.untrusted import decode_json

_ALIGNMENT = 64

Candidate = tuple[Schedule, Path]  # and its object


def build_candidate_object(layer: Layer, schedule: Schedule, target: Target, path: Path) -> Path:
    """A worker's job: write the object of a candidate's kernel, named after the file."""
    built = path.with_suffix(".o")
    kernels = tvm.IRModule({_symbol(built): schedule.emit(layer, target)})
    write_object(lower_kernels(kernels, target), target, built)
    return built


def write_candidates_program(
    layer: Layer, candidates: Sequence[Candidate], target: Target, path: Path
) -> None:
    """Write the program that checks and times the candidates, whose objects are all of `layer`."""
    task, data = problem(layer), _Data()
    calls, table, kernels = [], [], []
    for number, (schedule, built) in enumerate(candidates):
        operands = [f"at({data.offset(a)})" for a in task.arguments(layer, schedule)]
        floats = schedule.scratch_floats(layer)
        results = ["y", "scratch"] if floats else ["y"]
        types = ", ".join(
            [*["const float *"] * len(operands), "int", "int", *["float *"] * len(results)]
        )
        words = ", ".join([*operands, "0", str(schedule.tasks(layer)), *results])
        unused = "" if floats else "(void)scratch; "
        kernels.append(f"int {_symbol(built)}({types});")
        calls.append(
            f"static void run_{number}(float *y, float *scratch) "
            f"{{ {unused}{_symbol(built)}({words}); }}"
        )
        table.append(f"{{run_{number}, {floats}}}")
    reference = data.offset(task.reference)
    with scratch_folder() as scratch_name:
        scratch = Path(scratch_name)
        (scratch / "data.bin").write_bytes(data.blob)
        lines = [
            'EMBED(data, "data.bin");',
            "static const float *at(size_t offset) { return (const float *)(data + offset); }",
            *kernels,
            *calls,
            "static const struct candidate {",
            "    void (*run)(float *, float *);",
            "    size_t scratch_floats;",
            "} candidates[] = {" + ", ".join(table) + "};",
            f"#define PROGRAM_CANDIDATES {len(candidates)}",
            f"#define PROGRAM_REFERENCE {reference}",
            f"#define PROGRAM_Y_COUNT {task.reference.size}",
        ]
        (scratch / "candidates_data.h").write_text("\n".join(lines) + "\n", encoding="utf-8")
        inputs = [SOURCES / "candidates_program.c", *(built for _, built in candidates)]
        program = scratch / "mnv2_candidates"
        link_program(inputs, target, program, *program_flags(target))
        shutil.copy(program, path)
    check_program(path, target)


class _Result(msgspec.Struct, forbid_unknown_fields=True):
    """A line of the program: a signal, or the error, and a time where that is small."""

    candidate: Annotated[int, Meta(ge=0)]
    relative_error: Annotated[float, Meta(ge=0)] | UnsetType | None = UNSET  # null: no number
    median_us: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    signal: Annotated[int, Meta(ge=1, le=64)] | None = None

    def values(self) -> dict[str, float]:
        """Those that mean something together; empty where nothing does."""
        if self.signal is not None:
            return {"signal": self.signal}
        if self.relative_error is UNSET:
            return {}
        error = math.inf if self.relative_error is None else self.relative_error
        if self.median_us is None or error > TOLERANCE:
            return {"relative_error": error}
        return {"relative_error": error, "median_us": self.median_us}


def read_results(text: str, count: int, least_us: float = 0) -> dict[int, dict[str, float]]:
    """What the program printed, by the candidate's number: its lines that are whole and sound.

    A time below `least_us` is of a machine that does not exist, and its line is none.
    """
    found = {}
    for line in text.split("\n"):
        if not line.startswith('{"candidate": '):
            continue  # a login shell's words
        try:
            result = decode_json(line, _Result, "a device")
        except UserError:
            continue  # cut off, or nothing that our program prints
        sound = result.candidate < count and (result.median_us or math.inf) >= least_us
        if sound and (values := result.values()):
            found[result.candidate] = values
    return found


class _Data:
    """Arrays of float32 one after the other; equal ones, such as weights packed alike, once."""

    def __init__(self) -> None:
        self._offsets: dict[bytes, int] = {}
        self.blob = bytearray()

    def offset(self, array: np.ndarray) -> int:
        """Where the array is, in bytes."""
        values = np.ascontiguousarray(array, "<f4").tobytes()
        if values not in self._offsets:
            self.blob += bytes(-len(self.blob) % _ALIGNMENT)
            self._offsets[values] = len(self.blob)
            self.blob += values
        return self._offsets[values]


def _symbol(built: Path) -> str:
    return f"candidate_{built.stem}"
