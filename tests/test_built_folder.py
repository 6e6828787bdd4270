"""What a built folder holds: a manifest that tells it, and a library that needs nothing else."""

import ctypes
import dataclasses
import re
import tempfile
from pathlib import Path

from built_folder import FILES, names
from conftest import TINY, Built
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

import mnv2_tvm.deploy.manifest
from mnv2_tvm.build import build
from mnv2_tvm.deploy.elf import code_bytes
from mnv2_tvm.deploy.loader import HEADER, LIBRARY
from mnv2_tvm.deploy.manifest import Manifest, file_sha256
from mnv2_tvm.kernels import schedule_of
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.pipeline import compile_network
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target


def test_manifest_tells_what_is_there(tiny: Built, here: Target) -> None:
    manifest, library = Manifest.read(tiny.folder), tiny.folder / LIBRARY
    assert manifest == tiny.manifest
    assert names(tiny.folder) == FILES
    assert manifest.sha256 == file_sha256(library)
    assert manifest.code_bytes == code_bytes(library) > 0
    assert manifest.target == here.name
    assert manifest.weights == "random, seed 0"
    assert (manifest.width, manifest.resolution, manifest.classes) == (0.35, 32, 10)
    assert manifest.input_shape == [1, 32, 32, 3]
    assert manifest.output_shape == [1, 10]
    steps = compile_network(tiny.network.relax(), here, Decisions.load(here, 1)).steps
    layers = [step.layer for step in steps]
    assert [layer["name"] for layer in manifest.layers] == [layer.name for layer in layers]
    assert manifest.flops == sum(layer["flops"] for layer in manifest.layers)
    assert manifest.flops == sum(layer.flops for layer in layers)
    assert abs(sum(manifest.flops_share.values()) - 1) < 1e-3
    for layer, entry in zip(layers, manifest.layers, strict=True):
        schedule = schedule_of(layer, entry["kernel"], entry["decisions"])
        assert schedule in search_space(layer, here)
    floats = TINY.weights + sum(conv.out_channels for conv in TINY.convolutions())
    assert 0 <= manifest.weight_bytes - 4 * floats < 64 * 2 * len(layers)  # with the alignment


def test_documented_keys_of_the_manifest_are_its_keys() -> None:
    rows = re.findall(r"^\|(.+?)\|.+\|$", mnv2_tvm.deploy.manifest.__doc__ or "", re.MULTILINE)
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert keys == [field.name for field in dataclasses.fields(Manifest)]


def test_equal_builds_are_equal_files(tmp_path: Path, here: Target, tiny: Built) -> None:
    """Also into a folder that is there and empty."""
    (tmp_path / "again").mkdir()
    build(here, tiny.network, tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tiny.folder / name).read_bytes()


def test_library_needs_no_other_library(tiny: Built) -> None:
    with (tiny.folder / LIBRARY).open("rb") as file:
        (dynamic,) = [s for s in ELFFile(file).iter_sections() if isinstance(s, DynamicSection)]
        tags = [tag for tag in dynamic.iter_tags()]
        assert [tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"] == []
        assert [tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"] == [LIBRARY]
        assert not {"DT_RPATH", "DT_RUNPATH"} & {tag.entry.d_tag for tag in tags}


def test_exported_symbols_are_the_header_and_tvms_entry(tiny: Built) -> None:
    with (tiny.folder / LIBRARY).open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        symbols = [symbol for symbol in table.iter_symbols() if symbol.name]
    exported = {s.name for s in symbols if s["st_shndx"] != "SHN_UNDEF"}
    header = (tiny.folder / HEADER).read_text()
    declared = set(re.findall(r"^MNV2_API [\w *]*?(mnv2_\w+)\(", header, re.MULTILINE))
    assert len(declared) == 15
    (network,) = re.findall(r'^#define MNV2_NETWORK "(\w+)"$', header, re.MULTILINE)
    named = {f"{name}_{network}" for name in declared}
    packed = {f"__tvm_ffi_mnv2_{name}" for name in ("run", "profile", "set_threads")}
    assert exported == declared | named | packed
    libc = ctypes.CDLL("libc.so.6")
    for symbol in symbols:
        if symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK":
            assert hasattr(libc, symbol.name), f"{symbol.name} is not in libc"


def test_no_path_of_the_building_machine_is_in_the_library(tiny: Built) -> None:
    content = (tiny.folder / LIBRARY).read_bytes()
    for path in (Path(mnv2_tvm.__file__).parent, Path(tempfile.gettempdir()), Path.home()):
        assert str(path).encode() + b"/" not in content
