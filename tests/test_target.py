"""Target files: those that ship are valid, and a broken one is named with its key."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import machines

from mnv2_tvm.data import data_folder
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import Host, as_process
from mnv2_tvm.target import Target, target_names

Edit = Callable[[str, str], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped target files, in the place of the shipped ones."""
    copy = tmp_path / "targets"
    shutil.copytree(data_folder("targets"), copy)
    monkeypatch.setattr("mnv2_tvm.target.data_folder", lambda name: tmp_path / name)
    return copy


@pytest.fixture
def edit(folder: Path) -> Edit:
    """Replace a pattern in the copy of x86-avx2.toml by another text."""

    def replace(pattern: str, text: str) -> None:
        path = folder / "x86-avx2.toml"
        old = path.read_text()
        new = re.sub(pattern, text, old, count=1, flags=re.MULTILINE)
        assert new != old
        path.write_text(new)

    return replace


def pretend(monkeypatch: pytest.MonkeyPatch, machine: str, features: tuple[str, ...]) -> None:
    """Let this host be another one."""
    host = Host(machine, "a CPU", 1, frozenset(features))
    monkeypatch.setattr("mnv2_tvm.target.this_host", lambda: host)


def test_every_machine_loads(target: Target) -> None:
    assert target.name in target_names()
    assert target.description
    assert target.vector.lanes * 4 == target.vector.bytes
    assert target.link.elf_machine.startswith("EM_")


def test_the_code_generator_knows_every_machine(target: Target) -> None:
    codegen = target.codegen()
    assert str(codegen.kind.name) == target.tvm["kind"] == "llvm"
    assert str(codegen.attrs["mtriple"]) == target.tvm["mtriple"]


def test_vectors_of_the_x86_files_are_those_of_the_instruction_set() -> None:
    """AVX2: 16 registers of 8 float32; AVX-512: 32 of 16."""
    for name, lanes, registers in (("x86-avx2", 8, 16), ("x86-avx512", 16, 32)):
        vector = Target.load(name).vector
        assert (vector.lanes, vector.registers) == (lanes, registers)


def test_unknown_target_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown target 'abacus'; known targets: .*x86-avx2"):
        Target.load("abacus")


@pytest.mark.parametrize("name", ["", "../targets/x86", "x86.toml", "X86"])
def test_only_the_stem_of_a_file_is_a_name(name: str) -> None:
    with pytest.raises(UserError, match="unknown target"):
        Target.load(name)


@pytest.mark.parametrize(
    ("pattern", "text", "message"),
    [
        (r"^registers = .*$", 'registers = "16"', "'vector.registers' must be a positive integer"),
        (r"^registers = .*$", "registers = 0", "'vector.registers' must be a positive integer"),
        (r"^registers = .*$", "registers = -16", "'vector.registers' must be a positive integer"),
        (r"^registers = .*$", "registers = 1.5", "'vector.registers' must be a positive integer"),
        (r"^registers = .*$", "registers = true", "'vector.registers' must be a positive integer"),
        (r"^bytes = .*\n", "", "'vector.bytes' is missing"),
        (r"^l2_bytes = .*\n", "", "'cache.l2_bytes' is missing"),
        (r"^features = .*\n", "", "'host.features' is missing"),
        (r"^description = .*\n", "", "'description' is missing"),
        (r"^\[tvm\]\n(.+\n)+", "", "'tvm' is missing"),
        (r"^\[cache\]\n(.+\n)+", "", "'cache' is missing"),
        (r"^description = .*$", "description = 7", "'description' must be a str"),
        (r"^\[link\]\n(.+\n)+", "", "'link' is missing"),
        (r"^machine = .*$", "machine = 64", "'host.machine' must be a str"),
        (r"^triple = .*$", "triple = []", "'link.triple' must be a str"),
        (r"^registers = .*$", "registers = 16\nspeed = 1", "'vector.speed' is not known"),
        (r"^description = ", 'colour = "red"\ndescription = ', "'colour' is not known"),
        (r"^\[cache\]\n(.+\n)+", "[cache.l1]\nx = 1\n", "'cache.*' is missing"),
        (r"^registers = .*$", "registers = ", "not valid TOML"),
        (r"^\[vector\]$", "[vector", "not valid TOML"),
        (r"^registers = .*$", "registers = 16\nregisters = 16", "not valid TOML"),
    ],
)
def test_broken_file_and_key_are_named(edit: Edit, pattern: str, text: str, message: str) -> None:
    edit(pattern, text)
    with pytest.raises(UserError, match=message) as error:
        Target.load("x86-avx2")
    assert "x86-avx2.toml" in str(error.value)


def test_a_value_in_the_place_of_a_table_is_refused(folder: Path) -> None:
    path = folder / "x86-avx2.toml"
    text = re.sub(r"^\[cache\]\n(.+\n)+", "", path.read_text(), flags=re.MULTILINE)
    path.write_text(f"cache = 5\n{text}")
    with pytest.raises(UserError, match=r"x86-avx2.toml: key 'cache' must be a dict, not 5"):
        Target.load("x86-avx2")


@pytest.mark.parametrize("value", ['"avx2"', "7", "[1, 2]", "true"])
def test_features_are_a_list_of_names(edit: Edit, value: str) -> None:
    edit(r"^features = .*$", f"features = {value}")
    with pytest.raises(UserError, match=r"x86-avx2.toml: key 'host.features' must be"):
        Target.load("x86-avx2")


@pytest.mark.parametrize("value", [1, 3, 30])
def test_a_vector_holds_whole_floats(edit: Edit, value: int) -> None:
    edit(r"^bytes = .*$", f"bytes = {value}")
    with pytest.raises(UserError, match=r"x86-avx2.toml: key 'vector.bytes'"):
        Target.load("x86-avx2")


def test_file_that_is_not_text_is_named(folder: Path) -> None:
    (folder / "x86-avx2.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"x86-avx2.toml: not valid TOML"):
        Target.load("x86-avx2")


def test_a_new_machine_is_one_file(folder: Path) -> None:
    shutil.copy(folder / "x86-avx2.toml", folder / "haswell.toml")
    assert "haswell" in target_names()
    assert Target.load("haswell").name == "haswell"
    assert Target.load("haswell").vector == Target.load("x86-avx2").vector


def test_alias_takes_the_first_that_the_host_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    best, second = (Target.load(name) for name in ("x86-avx512", "x86-avx2"))
    pretend(monkeypatch, "x86_64", best.host.features)
    assert Target.load("x86") == best
    pretend(monkeypatch, "x86_64", second.host.features)
    assert Target.load("x86") == second
    without_one = tuple(f for f in best.host.features if f != "avx512vl")
    pretend(monkeypatch, "x86_64", without_one)
    assert Target.load("x86") == second


def test_alias_says_what_each_of_its_targets_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "x86_64", ("avx2", "bmi2"))
    with pytest.raises(UserError) as error:
        Target.load("x86")
    assert "can run none of the targets of 'x86'" in str(error.value)
    assert "x86-avx2 needs fma" in str(error.value)
    assert re.search("x86-avx512 needs [^;]*avx512f", str(error.value))
    assert "--target x86-avx2" in str(error.value)


def test_alias_on_another_architecture_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "riscv64", ())
    with pytest.raises(UserError, match=r"needs a CPU of kind x86_64 \(this is riscv64\)"):
        Target.load("x86")


def test_a_machine_loads_wherever_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-compiling: only an alias looks at the host."""
    pretend(monkeypatch, "riscv64", ())
    for name in machines():
        target = Target.load(name)
        assert target.missing_here() == [f"a CPU of kind {target.host.machine} (this is riscv64)"]


@pytest.mark.parametrize("value", ["[]", "7", '"x86-avx2"', '["x86"]', "[7]"])
def test_broken_alias_is_named(folder: Path, value: str) -> None:
    (folder / "x86.toml").write_text(f"best_of = {value}\n")
    with pytest.raises(UserError, match=r"x86.toml: key 'best_of'"):
        Target.load("x86")


def test_alias_has_no_other_key(folder: Path) -> None:
    (folder / "x86.toml").write_text('best_of = ["x86-avx2"]\nspeed = 1\n')
    with pytest.raises(UserError, match=r"x86.toml: key 'speed' is not known"):
        Target.load("x86")


def test_a_32_bit_process_on_a_64_bit_kernel_is_an_armv7_host() -> None:
    """As on a 32-bit Raspberry Pi OS, whose kernel is a 64-bit one."""
    flags = {"asimd", "crc32"}
    assert as_process("aarch64", flags, 2**31 - 1) == ("armv7l", flags | {"neon", "vfpv4"})
    assert as_process("aarch64", flags, 2**63 - 1) == ("aarch64", flags)
    assert as_process("x86_64", {"avx2"}, 2**63 - 1) == ("x86_64", {"avx2"})
