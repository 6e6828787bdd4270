"""From a network to a folder with a library, and back into this process."""

import ctypes
import dataclasses
import errno
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from conftest import TINY, Built, run_python
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

import mnv2_tvm.deploy.manifest
from mnv2_tvm import UserError, load
from mnv2_tvm.build import build
from mnv2_tvm.deploy.elf import code_bytes
from mnv2_tvm.deploy.loader import HEADER, LIBRARY
from mnv2_tvm.deploy.manifest import MANIFEST, Manifest, file_sha256
from mnv2_tvm.kernels import schedule_class
from mnv2_tvm.model import Architecture
from mnv2_tvm.network import SourceNetwork, relative_error
from mnv2_tvm.pipeline import compile_network, network_blocks, network_layers
from mnv2_tvm.search.records import Decisions, Record, TuningLog
from mnv2_tvm.target import Target

FILES = {LIBRARY, HEADER, MANIFEST}
ODD = Architecture(0.35, 47, classes=12, batch=2)
WIDE = Architecture(0.5, 33, classes=1, batch=3)

BuildOnce = Callable[[Architecture], Built]


@pytest.fixture
def tiny_copy(tiny: Built, tmp_path: Path) -> Path:
    """A copy of the tiny network's folder, to be broken."""
    return Path(shutil.copytree(tiny.folder, tmp_path / "copy"))


@pytest.fixture
def tiny_network() -> SourceNetwork:
    return SourceNetwork.make(TINY, None, seed=0)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def edit_manifest(folder: Path, **changes: object) -> None:
    """Change keys of the manifest; `...` removes one."""
    table = json.loads((folder / MANIFEST).read_text()) | changes
    kept = {key: value for key, value in table.items() if value is not ...}
    (folder / MANIFEST).write_text(json.dumps(kept))


# Numbers


@pytest.mark.parametrize("architecture", [TINY, ODD, WIDE], ids=["32", "47-batch-2", "33-batch-3"])
def test_built_network_computes_what_torch_does(
    architecture: Architecture, build_once: BuildOnce
) -> None:
    built = build_once(architecture)
    images = built.network.images(seed=1)
    wanted = built.network.reference(images)
    logits = load(built.folder)(images)
    assert logits.shape == wanted.shape == (architecture.batch, architecture.classes)
    assert relative_error(logits, wanted) < 1e-5


def test_every_machine_here_computes_what_torch_does(
    runnable: Target, tmp_path: Path, tiny_network: SourceNetwork
) -> None:
    build(runnable, tiny_network, tmp_path / "out")
    images = tiny_network.images(seed=1)
    logits = load(tmp_path / "out")(images)
    assert relative_error(logits, tiny_network.reference(images)) < 1e-5


def test_command_line_builds_what_the_function_does(tmp_path: Path, here: Target) -> None:
    """With every option that changes the network or its library."""
    output = tmp_path / "new folder" / "out"
    done = run_python(
        *("-m", "mnv2_tvm.build", "--target", here.name, "--output", output, "--width", "0.35"),
        *("--resolution", "47", "--classes", "12", "--batch", "2", "--threads", "2"),
        *("--seed", "7", "--dump", tmp_path / "ir"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert LIBRARY in done.stdout and "2 thread(s)" in done.stdout
    assert len(names(tmp_path / "ir")) > 0
    network = SourceNetwork.make(ODD, None, seed=7)
    loaded, images = load(output), network.images(seed=1)
    assert loaded.threads == loaded.manifest.threads == 2
    assert loaded.manifest.weights == "random, seed 7"
    assert relative_error(loaded(images), network.reference(images)) < 1e-5


@pytest.mark.parametrize("architecture", [TINY, ODD], ids=["32", "47-batch-2"])
def test_threads_do_not_change_a_bit(architecture: Architecture, build_once: BuildOnce) -> None:
    built = build_once(architecture)
    images = built.network.images(seed=2)
    network = load(built.folder, threads=1)
    alone = network(images)
    for threads in (2, 3, 5):
        again = load(built.folder, threads=threads)
        assert again.threads == threads
        for _ in range(10):
            np.testing.assert_array_equal(again(images), alone)


def test_threads_given_to_build_are_those_of_a_run(
    tmp_path: Path, here: Target, tiny: Built
) -> None:
    manifest = build(here, tiny.network, tmp_path / "out", threads=2)
    network, images = load(tmp_path / "out"), tiny.network.images(seed=2)
    assert network.threads == manifest.threads == 2
    np.testing.assert_array_equal(network(images), load(tiny.folder, threads=1)(images))


def test_instances_run_at_once_with_a_workspace_each(tiny: Built) -> None:
    images = [tiny.network.images(seed) for seed in range(3)]
    wanted = [load(tiny.folder, threads=1)(one) for one in images]
    networks = [load(tiny.folder, threads=2) for _ in images]
    wrong: list[int] = []

    def run(index: int) -> None:
        for _ in range(30):
            if not np.array_equal(networks[index](images[index]), wanted[index]):
                wrong.append(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_any_number_of_images_is_cut_into_batches(count: int, build_once: BuildOnce) -> None:
    built = build_once(ODD)
    images = np.concatenate([built.network.images(seed) for seed in range(3)])[:count]
    logits = load(built.folder)(images)
    assert logits.shape == (count, ODD.classes)
    assert logits.dtype == np.float32
    if count:
        assert relative_error(logits, built.network.reference(images)) < 1e-5


def test_images_need_not_be_contiguous(tiny: Built) -> None:
    network, images = load(tiny.folder), tiny.network.images(seed=4)
    flipped = images[:, ::-1]
    assert not flipped.flags.c_contiguous
    before = images.copy()
    np.testing.assert_array_equal(network(flipped), network(flipped.copy()))
    assert (network(flipped) != network(images)).any()
    np.testing.assert_array_equal(images, before)


def test_profile_has_a_time_for_each_layer(tiny: Built) -> None:
    seconds = load(tiny.folder).profile(tiny.network.images(seed=0))
    assert list(seconds) == list(range(len(tiny.manifest.layers)))
    assert all(value >= 0 for value in seconds.values())


def test_tuned_schedules_are_taken_and_change_no_number(
    tmp_path: Path, here: Target, tiny: Built
) -> None:
    """Another point for every layer: the last of each space, as if a search had found it.

    The first blocks have one of their own, the others are done layer by layer.
    """
    module = tiny.network.relax()
    blocks = list(dict.fromkeys(network_blocks(module)))
    layers = network_layers(module) + blocks[:3]
    log = TuningLog.of(here, tmp_path / "logs")
    log.open_for_writing()
    log.keep(
        Record(layer, 1, schedule_class(layer).space(layer, here)[-1], 1.0, (1.0,), 0.0)
        for layer in set(layers)
    )
    log.keep(Record(block, 1, None, 1.0, (1.0,), 0.0) for block in blocks[3:])
    decisions = Decisions.load(here, 1, tmp_path / "logs")
    manifest = build(here, tiny.network, tmp_path / "out", decisions=decisions)
    assert {layer["source"] for layer in manifest.layers} == {"tuned"}
    assert manifest.flops_share == {"tuned": 1.0, "default": 0.0, "fallback": 0.0}
    assert manifest.sha256 != tiny.manifest.sha256
    images = tiny.network.images(seed=1)
    wanted = tiny.network.reference(images)
    assert relative_error(load(tmp_path / "out")(images), wanted) < 1e-5


# The folder


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
        schedule_class(layer).from_json(entry["decisions"])
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
    assert len(declared) == 12
    packed = {f"__tvm_ffi_mnv2_{name}" for name in ("run", "profile", "set_threads")}
    assert exported == declared | packed
    libc = ctypes.CDLL("libc.so.6")
    for symbol in symbols:
        if symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK":
            assert hasattr(libc, symbol.name), f"{symbol.name} is not in libc"


def test_no_path_of_the_building_machine_is_in_the_library(tiny: Built) -> None:
    content = (tiny.folder / LIBRARY).read_bytes()
    for path in (Path(mnv2_tvm.__file__).parent, Path(tempfile.gettempdir()), Path.home()):
        assert str(path).encode() + b"/" not in content


# TVM's entry


def on_tensors(built: Built) -> tuple[Any, Any, Any, Any]:
    """The packed function and tensors for input, output and workspace."""
    function = tvm.runtime.load_module(str(built.folder / LIBRARY))["mnv2_run"]
    images = tvm.runtime.tensor(built.network.images(seed=5))
    output = tvm.runtime.tensor(np.full(built.manifest.output_shape, np.nan, np.float32))
    workspace = tvm.runtime.tensor(np.zeros(built.manifest.workspace_bytes, np.uint8))
    return function, images, output, workspace


@pytest.mark.parametrize("architecture", [TINY, ODD], ids=["32", "47-batch-2"])
def test_tvms_entry_computes_the_same_bits(
    architecture: Architecture, build_once: BuildOnce
) -> None:
    built = build_once(architecture)
    function, images, output, workspace = on_tensors(built)
    function(images, output, workspace)
    np.testing.assert_array_equal(output.numpy(), load(built.folder)(images.numpy()))


def test_tvms_entry_refuses_wrong_arguments(tiny: Built) -> None:
    function, images, output, workspace = on_tensors(tiny)

    def small(tensor: Any) -> Any:
        array = tensor.numpy().reshape(-1)
        return tvm.runtime.tensor(array[:-1])

    for arguments in (
        (),
        (images, output),
        (images, output, workspace, workspace),
        (images, output, 0),
        (images, "output", workspace),
        (None, output, workspace),
        (small(images), output, workspace),
        (images, small(output), workspace),
        (images, output, small(workspace)),
    ):
        with pytest.raises(ValueError, match="mnv2_run"):
            function(*arguments)
    assert np.isnan(output.numpy()).all()


def test_tvms_entry_refuses_other_types(tiny: Built) -> None:
    function, images, output, workspace = on_tensors(tiny)
    for kind in (np.float64, np.int32):
        with pytest.raises(ValueError, match="mnv2_run"):
            function(tvm.runtime.tensor(images.numpy().astype(kind)), output, workspace)


# Whole or not at all


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (UserError("ld.lld failed:\nno such thing"), "ld.lld failed"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write to .*: No space left"),
        (KeyboardInterrupt("Ctrl-C"), "Ctrl-C"),
    ],
    ids=["linker", "disk-full", "interrupt"],
)
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "over-an-earlier-build"])
def test_failed_build_leaves_what_was_there(
    tmp_path: Path,
    here: Target,
    tiny: Built,
    tiny_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    message: str,
    earlier: bool,
) -> None:
    def write_some(compilation: object, interface: object, folder: Path) -> None:
        assert folder.parents[1] == output.parent, "another file system cannot be renamed from"
        (folder / LIBRARY).write_bytes(b"half a library")
        raise failure

    monkeypatch.setattr("mnv2_tvm.build.write_library", write_some)
    expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else UserError
    parent = tmp_path / "parent"
    parent.mkdir()
    output = parent / "out"
    if earlier:
        tiny_copy.rename(output)
    with pytest.raises(expected, match=message):
        build(here, tiny.network, output)
    assert names(parent) == ({"out"} if earlier else set())
    if earlier:
        assert names(output) == FILES
        load(output)


def test_failure_of_the_last_step_leaves_the_earlier_build(
    here: Target, tiny: Built, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == tiny_copy and self.name == "new":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="cannot write to"):
        build(here, tiny.network, tiny_copy)
    assert names(tiny_copy.parent) == {"copy"}
    load(tiny_copy)


def test_full_disk_is_said_in_one_sentence(tmp_path: Path, here: Target) -> None:
    """No file may grow past 1 MB in that process, and the weights are larger."""
    script = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6));"
        "runpy.run_module('mnv2_tvm.build', run_name='__main__')"
    )
    options = ["--width", "0.35", "--resolution", "32", "--classes", "10", "--target", here.name]
    output = tmp_path / "parent" / "out"
    done = run_python("-c", script, *options, "-o", output)
    assert done.returncode == 1
    assert done.stderr == f"error: cannot write to {output}: File too large\n"
    assert names(output.parent) == set()


def test_rebuild_replaces_the_earlier_one(tmp_path: Path, here: Target, tiny_copy: Path) -> None:
    """Also for the next load in a process that has loaded the earlier one from the same path."""
    (tiny_copy / "stale.txt").write_text("of the earlier build")
    network = SourceNetwork.make(TINY, None, seed=9)
    images = network.images(seed=1)
    earlier = load(tiny_copy)
    before = earlier(images)
    manifest = build(here, network, tiny_copy)
    assert names(tiny_copy) == FILES
    assert names(tmp_path) == {"copy"}
    assert Manifest.read(tiny_copy) == manifest
    assert relative_error(load(tiny_copy)(images), network.reference(images)) < 1e-5
    np.testing.assert_array_equal(earlier(images), before)


@pytest.fixture
def never_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the compiler starts: what is wrong with the output is said before that."""

    def compile_network(*arguments: object, **keywords: object) -> None:
        raise AssertionError("compiled before the output was looked at")

    monkeypatch.setattr("mnv2_tvm.build.compile_network", compile_network)


@pytest.mark.usefixtures("never_compile")
def test_a_file_is_not_overwritten(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out is a file; give another -o"):
        build(here, tiny_network, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.usefixtures("never_compile")
def test_a_folder_of_other_things_is_not_overwritten(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no earlier build"):
        build(here, tiny_network, tmp_path)
    assert names(tmp_path) == {"letter.txt"}


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    """Below a file: no permission is asked of the tests' user, who may be root."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write to .*out: (Not a directory|File exists)"):
        build(here, tiny_network, tmp_path / "file" / "below" / "out")
    assert names(tmp_path) == {"file"}


@pytest.mark.usefixtures("never_compile")
def test_a_name_too_long_for_a_file_is_named(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    with pytest.raises(UserError, match="cannot write to"):
        build(here, tiny_network, tmp_path / ("x" * 300))


def test_a_dump_that_cannot_be_written_is_named(
    tmp_path: Path, here: Target, tiny_network: SourceNetwork
) -> None:
    (tmp_path / "ir").write_text("mine")
    with pytest.raises(UserError, match="ir"):
        build(here, tiny_network, tmp_path / "out", dump=tmp_path / "ir")


@pytest.mark.parametrize("threads", [0, 65])
def test_impossible_thread_counts_are_refused(
    tmp_path: Path, here: Target, tiny: Built, threads: int
) -> None:
    with pytest.raises(UserError, match=f"{threads} threads: give 1 to 64"):
        build(here, tiny.network, tmp_path / "out", threads=threads)
    assert names(tmp_path) == set()
    with pytest.raises(UserError, match=f"{threads} threads cannot be had: give 1 to 64"):
        load(tiny.folder, threads=threads)


def test_command_line_errors_are_one_sentence(tmp_path: Path) -> None:
    done = run_python("-m", "mnv2_tvm.build", "--target", "abacus", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert re.fullmatch(r"error: unknown target 'abacus'; known targets: .*\n", done.stderr)
    assert names(tmp_path) == set()


# The loader


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing holds no manifest.json; build it with"):
        load(tmp_path / "missing")


def test_missing_library_is_named(tiny_copy: Path) -> None:
    (tiny_copy / LIBRARY).unlink()
    with pytest.raises(UserError, match=r"holds no libmnv2.so; build it again"):
        load(tiny_copy)


@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_damaged_library_is_never_opened(tiny_copy: Path, place: float) -> None:
    content = bytearray((tiny_copy / LIBRARY).read_bytes())
    content[int(place * len(content)) if place > 0 else int(place)] ^= 1
    (tiny_copy / LIBRARY).write_bytes(content)
    with pytest.raises(UserError, match=r"libmnv2.so is damaged: its SHA-256"):
        load(tiny_copy)


def test_cut_library_is_never_opened(tiny_copy: Path) -> None:
    os.truncate(tiny_copy / LIBRARY, 4096)
    with pytest.raises(UserError, match="is damaged"):
        load(tiny_copy)


def test_manifest_of_another_build_is_refused(tiny_copy: Path, build_once: BuildOnce) -> None:
    shutil.copy(build_once(ODD).folder / MANIFEST, tiny_copy / MANIFEST)
    with pytest.raises(UserError, match="SHA-256 is not the manifest's"):
        load(tiny_copy)


def test_manifest_of_another_workspace_is_refused(tiny_copy: Path) -> None:
    """Its workspace would be too small: the library would write past it."""
    edit_manifest(tiny_copy, workspace_bytes=64)
    with pytest.raises(UserError, match="is not of the library beside it"):
        load(tiny_copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "{}"])
def test_file_that_is_no_manifest_is_named(tiny_copy: Path, text: str) -> None:
    (tiny_copy / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"manifest.json .*build it with python -m mnv2_tvm.build"):
        load(tiny_copy)


@pytest.mark.parametrize("changes", [{"dtype": ...}, {"colour": "red"}])
def test_manifest_of_another_version_is_named(tiny_copy: Path, changes: dict[str, object]) -> None:
    edit_manifest(tiny_copy, **changes)
    with pytest.raises(UserError, match=r"manifest.json is not a manifest of this version"):
        load(tiny_copy)


def test_library_for_another_machine_is_refused(tiny_copy: Path) -> None:
    edit_manifest(tiny_copy, machine="riscv64", target="sifive")
    with pytest.raises(UserError) as error:
        load(tiny_copy)
    here = os.uname().machine
    assert f"was built for sifive; this host lacks a riscv64 CPU (this is {here})" in str(
        error.value
    )


def test_library_for_a_later_machine_is_refused(tiny_copy: Path, here: Target) -> None:
    """Rather than end in an illegal instruction."""
    edit_manifest(tiny_copy, cpu_features=[*here.host.features, "avx4096"])
    with pytest.raises(UserError, match=r"this host lacks avx4096\. Build for this host with"):
        load(tiny_copy)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([[1.0]], "the input is list"),
        (None, "the input is NoneType"),
        (np.zeros((1, 32, 32, 3)), "the input is float64"),
        (np.zeros((1, 32, 32, 3), np.uint8), "the input is uint8"),
        (np.zeros((1, 32, 32, 3), ">f4"), "the input is >f4"),
        (np.zeros((32, 32, 3), np.float32), r"shape \[32, 32, 3\]"),
        (np.zeros((1, 3, 32, 32), np.float32), r"shape \[1, 3, 32, 32\]"),
        (np.zeros((1, 33, 32, 3), np.float32), r"shape \[1, 33, 32, 3\]"),
        (np.zeros((1, 1, 32, 32, 3), np.float32), r"shape \[1, 1, 32, 32, 3\]"),
    ],
)
def test_other_arrays_are_refused(tiny: Built, images: Any, message: str) -> None:
    network = load(tiny.folder)
    with pytest.raises(UserError, match=message) as error:
        network(images)
    assert "the network takes float32 [m, 32, 32, 3]" in str(error.value)
