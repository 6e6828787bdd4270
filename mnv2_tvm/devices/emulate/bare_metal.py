"""A microcontroller on this host: one run of a network in a program without libc, under QEMU.

QEMU executes every instruction and gives it a nanosecond, so the count of instructions is exact
and the same on every host. It knows no pipeline, no cache and no wait states of flash: the count
is no time.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from mnv2_tvm.deploy.build import build
from mnv2_tvm.deploy.link import compile_c, run_tool
from mnv2_tvm.deploy.loader import HEADER, whole_library
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork, open_source
from mnv2_tvm.numbers import check_numbers
from mnv2_tvm.target import Microcontroller, Target
from mnv2_tvm.untrusted import printable

_SOURCES = Path(__file__).resolve().parent
_CALIBRATION = 2 * 1_000_000  # instructions; as in bare_metal.c
_DEADLINE_S = 600
_VALUES = ("error", "calibration", "ticks_high", "ticks", "stack", "output")


@dataclass(frozen=True)
class Run:
    """One emulated run."""

    manifest: Manifest
    error: float  # largest, over the largest logit
    instructions: int
    stack_bytes: int
    notes: tuple[str, ...] = ()  # of the network's weights

    @property
    def per_multiply_add(self) -> float:
        """Instructions of all kinds for each multiply-add of the network."""
        return 2 * self.instructions / self.manifest.flops


def emulate_once(
    target: Target,
    architecture: Architecture,
    library: Path | None,
    weights: Path | None,
    state: str | None = None,
) -> Run:
    """One run of the build in the folder `library`, or of one that is made for it here."""
    if library is not None:
        manifest = Manifest.read(library)
        return run_emulated(target, library, open_source(manifest.identity, weights, state))
    network = SourceNetwork.make(architecture, weights, seed=0, state=state)
    with scratch_folder() as scratch:
        build(target, network, Path(scratch) / "out")
        return run_emulated(target, Path(scratch) / "out", network)


def run_emulated(target: Target, folder: Path, network: SourceNetwork) -> Run:
    """Run the library in `folder`, which was built from `network`, on a seeded random image.

    Raises UserError where QEMU is missing, the library is not the target's, does not come to an
    end, or the reference says something else.
    """
    manifest = Manifest.read(folder)
    memory = target.microcontroller
    assert memory is not None
    if manifest.target != target.name:
        raise UserError(f"{folder} was built for {manifest.target}, not for {target.name}")
    library = whole_library(folder, manifest)
    images = np.random.default_rng(1).standard_normal(manifest.input_shape, dtype=np.float32)
    with scratch_folder() as scratch:
        program = _link(target, library, images, Path(scratch))
        told = read_told(_run(memory, program), int(np.prod(manifest.output_shape)))
    if code := told["error"][0]:
        raise UserError(f"mnv2_run of {library} ended with error {code}")
    logits = np.array(told["output"], np.uint32).view(np.float32)
    high, low = told["ticks_high"][0], told["ticks"][0]
    reference = network.reference(images)
    advice = "Give the --weights it was built with, or build it again"
    error = check_numbers(logits.reshape(reference.shape), reference, str(library), advice)
    instructions = ((high << 32) + low) * round(_CALIBRATION / told["calibration"][0])
    return Run(manifest, error, instructions, told["stack"][0], network.notes)


def _link(target: Target, library: Path, images: np.ndarray, scratch: Path) -> Path:
    """The program with the library and the image inside."""
    memory = target.microcontroller
    assert memory is not None
    image, part, program = scratch / "input.raw", scratch / "program.o", scratch / "program"
    image.write_bytes(images.tobytes())
    shutil.copy(library.parent / HEADER, scratch)
    flags = [f"-mcpu={target.link.cpu}", f'-DINPUT_FILE="{image.name}"']
    flags += ["-ffreestanding", "-fno-builtin", "-fno-pic"]
    compile_c(_SOURCES / "bare_metal.c", target, part, *flags)
    script = scratch / "program.ld"
    places = f"CODE : {memory.qemu_code} WEIGHTS : {memory.qemu_weights} RAM : {memory.qemu_ram}"
    sections = (_SOURCES / "bare_metal.ld").read_text(encoding="utf-8")
    script.write_text(f"MEMORY {{ {places} }}\n{sections}", encoding="utf-8")
    options = ["-m", target.link.emulation, "--gc-sections", "-T", str(script)]
    run_tool(["ld.lld", *options, str(part), str(library)], program)
    return program


def find_qemu() -> str:
    """The path of QEMU for ARM boards. Raises UserError where there is none."""
    if path := shutil.which("qemu-system-arm"):
        return path
    raise UserError("no qemu-system-arm on the PATH; apt install qemu-system-arm")


def _run(memory: Microcontroller, program: Path) -> str:
    """What the program tells. Raises UserError unless it ends well and in time."""
    command = [find_qemu(), "-M", memory.qemu_machine, "-cpu", memory.qemu_cpu]
    command += ["-icount", "shift=0", "-semihosting-config", "enable=on,target=native"]
    command += ["-display", "none", "-monitor", "none", "-serial", "none", "-kernel", str(program)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_DEADLINE_S)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"the emulated run did not end in {_DEADLINE_S} s") from error
    # By its version QEMU passes on what the program tells to one stream or to the other.
    said = "\n".join(part.decode(errors="replace") for part in (done.stdout, done.stderr))
    if done.returncode:
        raise UserError(f"the emulated run failed: {_last_words(said)}")
    return said


def read_told(text: str, outputs: int) -> dict[str, list[int]]:
    """The values that the program told, by name: so many outputs, and one of each other.

    What else is in the text are warnings of QEMU. Raises UserError where values are missing.
    """
    told: dict[str, list[int]] = {name: [] for name in _VALUES}
    for name, value in re.findall(rf"^({'|'.join(_VALUES)}) ([0-9a-f]{{8}})$", text, re.MULTILINE):
        told[name].append(int(value, 16))
    for name, values in told.items():
        expected = outputs if name == "output" else 1
        if len(values) != expected:
            raise UserError(
                f"the emulated run told '{name}' {len(values)} times, not {expected}: "
                f"{_last_words(text)}"
            )
    if not told["calibration"][0]:
        raise UserError("the emulated run counted no instructions: QEMU ignores -icount")
    return told


def _last_words(text: str) -> str:
    lines = text.strip().splitlines()
    return printable(lines[-1]) if lines else "no output"


def run_table(run: Run) -> Table:
    """One emulated run in a few rows."""
    manifest = run.manifest
    table = Table.grid(padding=(0, 2))
    table.add_row("network", f"{manifest.width}-{manifest.resolution}, fp32")
    table.add_row("target", f"{manifest.target}, emulated: counts of instructions, no times")
    table.add_row("largest error", f"{run.error:.0e} of the largest logit")
    per = f"{run.per_multiply_add:.2f} a multiply-add"
    table.add_row("instructions", f"{run.instructions} ({per})")
    table.add_row("workspace", f"{manifest.workspace_bytes} bytes, stack {run.stack_bytes}")
    flash = manifest.weight_bytes + manifest.code_bytes
    table.add_row("flash", f"{flash} bytes, of them code {manifest.code_bytes}")
    return table
