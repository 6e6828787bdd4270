"""Write the library: the generated object, the C runtime around it, and the weights inside."""

import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mnv2_tvm
from mnv2_tvm.deploy.elf import check_library
from mnv2_tvm.deploy.link import compile_c, ffi_includes, link_shared, write_object
from mnv2_tvm.deploy.loader import HEADER, LIBRARY
from mnv2_tvm.errors import UserError
from mnv2_tvm.pipeline import Compilation

MAX_THREADS = 64  # MNV2_MAX_THREADS of mnv2.h

_SOURCES = Path(__file__).resolve().parent
_EXPORTS = "{ global: mnv2_*; __tvm_ffi_mnv2_*; local: *; };\n"


@dataclass(frozen=True)
class Interface:
    """What a caller must know of a built network; it stands in mnv2.h and in the manifest."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    workspace_bytes: int
    layer_count: int
    threads: int

    @classmethod
    def of(cls, network: Compilation, threads: int) -> "Interface":
        """Of a compiled network. Raises UserError for a thread count that no library takes."""
        if not 1 <= threads <= MAX_THREADS:
            raise UserError(f"{threads} threads: give 1 to {MAX_THREADS}")
        first, last = network.steps[0].layer, network.steps[-1].layer
        return cls(
            input_shape=first.input_shape,
            output_shape=(last.batch, last.out_channels),
            workspace_bytes=network.plan.workspace_bytes,
            layer_count=len(network.steps),
            threads=threads,
        )


def write_library(network: Compilation, interface: Interface, folder: Path) -> None:
    """Write `libmnv2.so` and `mnv2.h` into `folder`."""
    header = folder / HEADER
    header.write_text(_header(interface), encoding="utf-8")
    target = network.target
    with tempfile.TemporaryDirectory(prefix="mnv2-") as scratch_name:
        scratch = Path(scratch_name)
        weights, exports = scratch / "weights.bin", scratch / "exports.map"
        weights.write_bytes(network.weights)
        exports.write_text(_EXPORTS, encoding="utf-8")
        objects = [scratch / name for name in ("network.o", "runtime.o", "packed.o")]
        write_object(network.module, target, objects[0])
        defines = [
            f'-DMNV2_WEIGHTS_FILE="{weights}"',
            f"-DMNV2_THREADS={interface.threads}",
            f"-DMNV2_SCRATCH_BYTES={network.plan.scratch_bytes}",
            f'-DMNV2_VERSION="{mnv2_tvm.__version__}"',
        ]
        compile_c(_SOURCES / "runtime.c", target, objects[1], f"-I{folder}", *defines)
        compile_c(_SOURCES / "packed.c", target, objects[2], f"-I{folder}", *ffi_includes())
        # nodelete: the library's threads outlive a dlclose.
        flags = [f"--version-script={exports}", "-z", "nodelete"]
        link_shared(objects, target, folder / LIBRARY, *flags)
    check_library(folder / LIBRARY, target)


def _header(interface: Interface) -> str:
    """The shipped mnv2.h with this network's sizes."""
    sizes = {
        "MNV2_INPUT_SIZE": prod(interface.input_shape),
        "MNV2_OUTPUT_SIZE": prod(interface.output_shape),
        "MNV2_WORKSPACE_BYTES": interface.workspace_bytes,
        "MNV2_LAYER_COUNT": interface.layer_count,
    }
    shapes = [
        f"/* input {list(interface.input_shape)}, output {list(interface.output_shape)} */",
        *(f"#define {name} {value}" for name, value in sizes.items()),
    ]
    text = (_SOURCES / HEADER).read_text(encoding="utf-8")
    return text + "\n".join(shapes) + "\n\n#endif\n"
