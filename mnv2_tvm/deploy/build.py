"""Compile a network into a folder with its library, or into a program that measures itself."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mnv2_tvm.deploy.bare_metal import write_static_library
from mnv2_tvm.deploy.elf import code_bytes
from mnv2_tvm.deploy.library import Interface, write_library
from mnv2_tvm.deploy.link import require_programs, require_tools
from mnv2_tvm.deploy.loader import library_path
from mnv2_tvm.deploy.manifest import Manifest, file_sha256
from mnv2_tvm.deploy.memory_fit import check_fit
from mnv2_tvm.deploy.package import write_package
from mnv2_tvm.deploy.program import write_bench_program
from mnv2_tvm.deploy.written import file_names, written_files
from mnv2_tvm.errors import UserError
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.model.source import Source
from mnv2_tvm.pipeline import Compilation, compile_network
from mnv2_tvm.records.decisions import SOURCES, Decisions
from mnv2_tvm.replace import replacing, tree_files
from mnv2_tvm.target import Target
from mnv2_tvm.untrusted import printable
from mnv2_tvm.versions import versions


def build(
    target: Target,
    network: Source,
    output: Path,
    *,
    threads: int = 1,
    decisions: Decisions | None = None,
    dump: Path | None = None,
    package: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Write `libmnv2.so`, `mnv2.h` and `manifest.json` to `output`, all of them or none.

    `package` writes the folder of `mnv2_tvm.deploy.package` and `manifest.json` instead. For a
    microcontroller the library is `libmnv2.a`; UserError where it does not fit its memory.
    `decisions` are by default those of the user's records, then of the shipped ones. The files of
    an earlier build in `output` are replaced as `mnv2_tvm.replace` tells, and nothing else there is
    touched. `say` is told what goes on. Raises UserError where `output` cannot be written, holds
    other things only, or an earlier build that was changed since.
    """
    decisions = decisions or Decisions.load(target, threads)
    names = file_names(target, package)
    with _naming(output):
        if output.exists() and not output.is_dir():
            raise UserError(f"{output} is a file; give another -o")
        require_tools()
        with replacing(output, written_files, names) as folder:
            say("scheduling the layers")
            compilation = compile_network(network.relax(), target, decisions, dump=dump)
            check_fit(compilation, network.identity)
            say(f"generating machine code of {len(compilation.steps)} kernels")
            interface = Interface.of(compilation, threads)
            _write(compilation, interface, folder, package)
            library = library_path(folder)
            check_fit(compilation, network.identity, code_bytes(library))
            manifest = _manifest(compilation, interface, decisions, network, library)
            manifest = dataclasses.replace(manifest, files=tree_files(folder))
            manifest.write(folder)
    return manifest


def build_program(
    target: Target,
    network: Source,
    path: Path,
    *,
    threads: int = 1,
    seed: int = 0,
    decisions: Decisions | None = None,
) -> Manifest:
    """Write a static program that measures the network on any machine of the target to `path`.

    It holds the objects of the library, a seeded input and the right answer. The manifest is that
    of the library, with the program's SHA-256. Raises UserError where `path` cannot be written.
    """
    decisions = decisions or Decisions.load(target, threads)
    require_programs(target)
    require_tools()
    with _naming(path):
        _check_program(path)
        place = path.resolve()  # not a link to it
        place.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(place.parent) as scratch:
            compilation = compile_network(network.relax(), target, decisions)
            interface = Interface.of(compilation, threads)
            images = network.images(seed)
            program = scratch / "mnv2_bench"
            expected = network.reference(images)
            write_bench_program(compilation, interface, images, expected, program)
            manifest = _manifest(compilation, interface, decisions, network, program)
            _check_program(path)
            program.replace(place)
    return manifest


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn an OSError into a UserError that names what cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror or error}") from error


def _check_program(path: Path) -> None:
    """Only a program may be replaced by one."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the program a name in it")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no ordinary file; give another name")
    if path.exists():
        with path.open("rb") as file:
            if file.read(4) not in (b"", b"\x7fELF"):
                raise UserError(f"{path} is no program; give another name")


def _write(compilation: Compilation, interface: Interface, folder: Path, package: bool) -> None:
    """Write the library and its header: a static one where nothing could load another."""
    target = compilation.target
    if target.microcontroller is None:
        write = write_package if package else write_library
        write(compilation, interface, folder)
    elif package:
        raise UserError(
            f"{target.name} has no packages: its library is static; leave --package out"
        )
    else:
        write_static_library(compilation, interface, folder)


def _manifest(
    compilation: Compilation,
    interface: Interface,
    decisions: Decisions,
    network: Source,
    binary: Path,
) -> Manifest:
    target, identity = compilation.target, network.identity
    layers = [step.layer for step in compilation.steps]
    flops = sum(layer.flops for layer in layers)
    share = dict.fromkeys(SOURCES, 0.0)
    for layer in layers:
        share[decisions.source(layer)] += layer.flops / flops
    return Manifest(
        target=target.name,
        machine=target.host.machine,
        cpu_features=list(target.host.features),
        input_shape=list(interface.input_shape),
        output_shape=list(interface.output_shape),
        dtype=layers[0].dtype.storage,
        width=identity["width"],
        resolution=identity["resolution"],
        classes=identity["classes"],
        weights=printable(network.weights),
        network=identity,
        threads=interface.threads,
        workspace_bytes=interface.workspace_bytes,
        weight_bytes=len(compilation.weights),
        code_bytes=code_bytes(binary),
        sha256=file_sha256(binary),
        versions=versions(),
        flops=flops,
        flops_share={source: round(value, 4) for source, value in share.items()},
        layers=[
            {
                "name": layer.name,
                "flops": layer.flops,
                "source": decisions.source(layer),
                "kernel": schedule.kernel(),
                "decisions": schedule.to_json(),
            }
            for layer, schedule in zip(layers, map(decisions.schedule, layers), strict=True)
        ],
    )
