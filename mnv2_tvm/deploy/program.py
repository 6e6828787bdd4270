"""Write `mnv2_bench`: the objects of the library in a static program that measures itself."""

import shutil
from pathlib import Path

import numpy as np

from mnv2_tvm.deploy.elf import check_program
from mnv2_tvm.deploy.library import Interface, compile_objects, write_header
from mnv2_tvm.deploy.link import link_program
from mnv2_tvm.deploy.loader import HEADER
from mnv2_tvm.deploy.peak_loop import flop_per_round, write_loop
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.numbers import TOLERANCE
from mnv2_tvm.pipeline import Compilation
from mnv2_tvm.target import Target

SOURCES = Path(__file__).resolve().parent


def write_bench_program(
    network: Compilation,
    interface: Interface,
    images: np.ndarray,
    expected: np.ndarray,
    path: Path,
) -> None:
    """Write the program to `path`, with `images` [n, y, x, 3] and their right logits inside."""
    target = network.target
    with scratch_folder() as scratch_name:
        scratch = Path(scratch_name)
        write_header(interface, scratch / HEADER)
        objects = compile_objects(network, interface, scratch, scratch).interface
        objects += write_loop(target, scratch / "peak")
        files = {"INPUT": scratch / "input.bin", "OUTPUT": scratch / "output.bin"}
        for file, values in zip(files.values(), (images, expected), strict=True):
            file.write_bytes(values.astype("<f4").tobytes())
        names = ",\n    ".join(f'"{step.layer.name}"' for step in network.steps)
        shape = "x".join(map(str, interface.input_shape))
        lines = [
            f'#define PROGRAM_NAME "MobileNetV2 {shape} for {target.name}"',
            *(f'#define PROGRAM_{key}_FILE "{file.name}"' for key, file in files.items()),
            f"#define PROGRAM_FLOP_PER_ROUND {flop_per_round(target)}.0",
            f"static const char *const layer_names[] = {{\n    {names}}};",
        ]
        (scratch / "bench_data.h").write_text("\n".join(lines) + "\n", encoding="utf-8")
        inputs = [SOURCES / "bench_program.c", *objects]
        program = scratch / "mnv2_bench"
        link_program(inputs, target, program, *program_flags(target))
        shutil.copy(program, path)
    check_program(path, target)


def program_flags(target: Target) -> list[str]:
    """What program.h wants to know."""
    needs = f"{target.name}, which needs {', '.join(target.host.features)}"
    return [f'-DPROGRAM_NEEDS="{needs}"', f"-DPROGRAM_TOLERANCE={TOLERANCE}"]
