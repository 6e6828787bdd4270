"""Write the library: the generated object, the C runtime around it, and the weights inside."""

import hashlib
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path

from mnv2_tvm.deploy.cpu_features import cpu_define
from mnv2_tvm.deploy.elf import check_library
from mnv2_tvm.deploy.link import compile_c, ffi_includes, link_shared, write_object
from mnv2_tvm.deploy.loader import HEADER, LIBRARY
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.pipeline import Compilation
from mnv2_tvm.target import Target
from mnv2_tvm.versions import __version__

MAX_THREADS = 64  # MNV2_MAX_THREADS of mnv2.h

_SOURCES = Path(__file__).resolve().parent
_NAME_DIGITS = 12  # of a SHA-256, hexadecimal
_EXPORTS = "{ global: mnv2_*; __tvm_ffi_mnv2_*; local: *; };\n"


@dataclass(frozen=True)
class Interface:
    """What a caller must know of a built network; it stands in mnv2.h and in the manifest."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    workspace_bytes: int
    layer_count: int
    threads: int
    name: str  # of this network alone: what its functions end in for the linker

    @classmethod
    def of(cls, network: Compilation, threads: int) -> "Interface":
        """Of a compiled network.

        Raises UserError for a thread count that no library takes, and for a network that takes or
        returns several tensors: the functions of mnv2.h have one of each.
        """
        if not 1 <= threads <= MAX_THREADS:
            raise UserError(f"{threads} threads: give 1 to {MAX_THREADS}")
        if not len(network.inputs) == len(network.outputs) == 1:
            raise UserError("a library takes one tensor and returns one")
        inputs, outputs = network.inputs[0].shape, network.outputs[0].shape
        workspace_bytes, layer_count = network.plan.workspace_bytes, len(network.steps)
        # All that a program may rely on, and the weights: equal names are equal networks.
        facts = (network.target.name, inputs, outputs, workspace_bytes, layer_count)
        digest = hashlib.sha256(repr(facts).encode() + network.weights).hexdigest()
        shapes = ["x".join(map(str, shape)) for shape in (inputs, outputs)]
        return cls(
            input_shape=inputs,
            output_shape=outputs,
            workspace_bytes=workspace_bytes,
            layer_count=layer_count,
            threads=threads,
            name="_".join([*shapes, digest[:_NAME_DIGITS]]),
        )


@dataclass(frozen=True)
class Objects:
    """The compiled parts of a library: those of the C interface, and TVM's entries to it."""

    interface: list[Path]
    packed: Path


def write_library(network: Compilation, interface: Interface, folder: Path) -> None:
    """Write `libmnv2.so` and `mnv2.h` into `folder`."""
    write_header(interface, folder / HEADER)
    with scratch_folder() as scratch:
        objects = compile_objects(network, interface, folder, Path(scratch))
        link_library(objects, network.target, interface, folder / LIBRARY)


def compile_objects(
    network: Compilation, interface: Interface, include: Path, scratch: Path
) -> Objects:
    """Compile all parts into `scratch`; `include` is the folder of this network's mnv2.h."""
    target, weights = network.target, scratch / "weights.bin"
    weights.write_bytes(network.weights)
    defines = runtime_defines(network, interface, weights)
    parts = [scratch / f"{name}.o" for name in ("network", "runtime", "steps", "team", "cpu")]
    packed = scratch / "packed.o"
    if include != scratch:
        shutil.copy(include / HEADER, scratch)
    write_object(network.module, target, parts[0])
    for part in parts[1:4]:
        compile_c(_SOURCES / f"{part.stem}.c", target, part, *defines)
    compile_c(_SOURCES / "cpu.c", target, parts[4], cpu_define(target))
    compile_c(_SOURCES / "packed.c", target, packed, *ffi_includes())
    return Objects(parts, packed)


def runtime_defines(network: Compilation, interface: Interface, weights: Path) -> list[str]:
    """What the C runtime must know beside mnv2.h; `weights` is a file beside the object."""
    return [
        f'-DMNV2_WEIGHTS_FILE="{weights.name}"',
        f"-DMNV2_THREADS={interface.threads}",
        f"-DMNV2_SCRATCH_BYTES={network.plan.scratch_bytes}",
    ]


def link_library(objects: Objects, target: Target, interface: Interface, path: Path) -> None:
    """Link the shared library and hold it against what the target file and mnv2.h promise."""
    with scratch_folder() as scratch:
        exports = Path(scratch) / "exports.map"
        exports.write_text(_EXPORTS, encoding="utf-8")
        # nodelete: the library's threads outlive a dlclose. -Bsymbolic: its calls of itself stay
        # inside, also where another network's library was loaded before it for all to see.
        flags = [f"--version-script={exports}", "-z", "nodelete", "-Bsymbolic"]
        link_shared([*objects.interface, objects.packed], target, path, *flags)
    check_library(path, target, interface.name)


def write_header(interface: Interface, path: Path, template: str = HEADER) -> None:
    """Write a header of this package with the version and this network's name and sizes."""
    major, minor, patch = __version__.split(".")
    inputs, outputs = interface.input_shape, interface.output_shape
    version: dict[str, object] = {
        "MNV2_VERSION_MAJOR": major,
        "MNV2_VERSION_MINOR": minor,
        "MNV2_VERSION_PATCH": patch,
        "MNV2_VERSION": f'"{__version__}"',
    }
    constants: dict[str, object] = {
        "MNV2_NETWORK": f'"{interface.name}"',
        "MNV2_INPUT_SHAPE": f"{{{', '.join(map(str, inputs))}}}",
        "MNV2_OUTPUT_SHAPE": f"{{{', '.join(map(str, outputs))}}}",
        "MNV2_OUTPUT_RANK": len(outputs),
        "MNV2_INPUT_SIZE": prod(inputs),
        "MNV2_OUTPUT_SIZE": prod(outputs),
        "MNV2_WORKSPACE_BYTES": interface.workspace_bytes,
        "MNV2_LAYER_COUNT": interface.layer_count,
    }
    text = (_SOURCES / template).read_text(encoding="utf-8")
    for place, values in (("@VERSION@", version), ("@CONSTANTS@", constants)):
        lines = "\n".join(f"#define {name} {value}" for name, value in values.items())
        text = text.replace(place, lines)
    path.write_text(text.replace("@NETWORK@", interface.name), encoding="utf-8")
