"""Write `mnv2_load`: a static program that runs a built library where nothing is installed."""

import shutil
from pathlib import Path

from mnv2_tvm.deploy.elf import check_program
from mnv2_tvm.deploy.library import Interface, write_header
from mnv2_tvm.deploy.link import link_program, require_programs
from mnv2_tvm.deploy.loader import HEADER
from mnv2_tvm.deploy.peak_loop import flop_per_round, write_loop
from mnv2_tvm.deploy.program import SOURCES, program_flags
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.target import Target

PROGRAM = "mnv2_load"

_ANY = Interface((1, 1, 1, 1), (1, 1), 0, 0, 1, "any")  # its sizes are asked of the library


def write_load_program(target: Target, path: Path) -> None:
    """Write the program for machines of `target` to `path`; it takes any library of that target.

    Raises UserError for a target without an operating system.
    """
    require_programs(target)
    with scratch_folder() as scratch:
        write_header(_ANY, scratch / HEADER)
        inputs = [SOURCES / "load_program.c", SOURCES / "elf_load.c"]
        inputs += write_loop(target, scratch / "peak")
        program = scratch / PROGRAM
        rounds = f"-DPROGRAM_FLOP_PER_ROUND={flop_per_round(target)}.0"
        link_program(inputs, target, program, rounds, *program_flags(target))
        shutil.copy(program, path)
    check_program(path, target)
