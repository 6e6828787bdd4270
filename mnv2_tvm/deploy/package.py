"""Write the C product: a folder that C, CMake and pkg-config builds take as it is.

    include/mnv2.h                 the interface
    lib/libmnv2.so                 shared library
    lib/libmnv2.a                  static library: one object, nothing global but the interface
    lib/cmake/mnv2/                find_package(mnv2): mnv2::mnv2 and mnv2::mnv2_static
    lib/pkgconfig/mnv2.pc          finds its folder by itself
    example.c                      a program, with the command that builds it

The folder may be moved: nothing in it names the place where it was built.
"""

from pathlib import Path

from elftools.elf.elffile import ELFFile

from mnv2_tvm.deploy.elf import check_object, linked_names
from mnv2_tvm.deploy.library import Interface, compile_objects, link_library, write_header
from mnv2_tvm.deploy.link import archive, link_object
from mnv2_tvm.deploy.loader import HEADER, PACKAGE_LIBRARY
from mnv2_tvm.deploy.localise import localise
from mnv2_tvm.files import scratch_folder
from mnv2_tvm.pipeline import Compilation
from mnv2_tvm.target import Target
from mnv2_tvm.versions import __version__

STATIC_LIBRARY = Path("lib") / "libmnv2.a"

_TEMPLATES = Path(__file__).resolve().parent / "package_files"
PLACES = {
    "example.c": Path(),
    "mnv2.pc": Path("lib/pkgconfig"),
    "mnv2-config.cmake": Path("lib/cmake/mnv2"),
    "mnv2-config-version.cmake": Path("lib/cmake/mnv2"),
}


def write_package(network: Compilation, interface: Interface, folder: Path) -> None:
    """Write all of the above into `folder`."""
    include, library = folder / "include", folder / PACKAGE_LIBRARY
    for part in (include, library.parent):
        part.mkdir()
    write_header(interface, include / HEADER)
    with scratch_folder() as name:
        scratch, target = Path(name), network.target
        objects = compile_objects(network, interface, include, scratch)
        link_library(objects, target, interface, library)
        whole = scratch / "mnv2.o"
        link_object(objects.interface, target, whole)
        localise(whole, linked_names(interface.name))
        check_object(whole, target, interface.name)
        archive(whole, folder / STATIC_LIBRARY)
    _write_templates(network.target, library, folder)


def _write_templates(target: Target, library: Path, folder: Path) -> None:
    major, minor, _ = __version__.split(".")
    with library.open("rb") as file:
        pointer_bytes = ELFFile(file).elfclass // 8
    words = {
        "@VERSION@": __version__,
        "@MAJOR@": major,
        "@MINOR@": minor,
        "@TARGET@": target.name,
        "@POINTER_BYTES@": str(pointer_bytes),
    }
    for name, place in PLACES.items():
        (template,) = _TEMPLATES.glob(f"{name}*")
        text = template.read_text(encoding="utf-8")
        for word, meaning in words.items():
            text = text.replace(word, meaning)
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / name).write_text(text, encoding="utf-8")
