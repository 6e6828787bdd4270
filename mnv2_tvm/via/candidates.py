"""One program with the candidates of a layer: their kernels, their operands, torch's answer."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tvm

from mnv2_tvm.deploy.elf import check_program
from mnv2_tvm.deploy.link import link_program, write_object
from mnv2_tvm.deploy.program import SOURCES, program_flags
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.kernels import Schedule
from mnv2_tvm.layer import Layer
from mnv2_tvm.passes.lower_kernels import lower_kernels
from mnv2_tvm.search.problem import TOLERANCE, problem
from mnv2_tvm.target import Target

_ALIGNMENT = 64

Candidate = tuple[Schedule, Path]  # and its object


def build_candidate_object(layer: Layer, schedule: Schedule, target_name: str, path: Path) -> Path:
    """A worker's job: write the object of a candidate's kernel, named after the file."""
    target, built = Target.load(target_name), path.with_suffix(".o")
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
        link_program(inputs, target, program, *program_flags(target, TOLERANCE))
        shutil.copy(program, path)
    check_program(path, target)


def read_results(text: str, count: int) -> dict[int, dict[str, float]]:
    """What the program printed, by the candidate's number: its lines that are whole and sound."""
    found = {}
    for line in text.splitlines():
        try:
            table = json.loads(line)
            number, values = table.pop("candidate"), {k: float(v) for k, v in table.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a login shell's words, or a line that was cut off
        if number in range(count) and values.keys() & {"relative_error", "signal"}:
            found[number] = values
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
