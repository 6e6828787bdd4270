"""Target files: those that ship are valid, and a broken one is named with its key."""

import copy
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from conftest import machines

from mnv2_tvm.data import data_folder
from mnv2_tvm.dtype import F32
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import Host, as_process, this_host
from mnv2_tvm.layer import Layer
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Policy, Target, target_names

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
    """Make the copy of x86-avx2.toml the shipped file with a pattern replaced by another text."""
    path = folder / "x86-avx2.toml"
    old = path.read_text()

    def edit_file(pattern: str, text: str) -> None:
        new = re.sub(pattern, text, old, count=1, flags=re.MULTILINE)
        assert new != old
        path.write_text(new)

    return edit_file


def pretend(monkeypatch: pytest.MonkeyPatch, machine: str, features: tuple[str, ...]) -> None:
    """Let this host be another one."""
    host = Host(machine, "a CPU", 1, frozenset(features), "glibc")
    monkeypatch.setattr("mnv2_tvm.target.this_host", lambda: host)


def test_the_code_generator_knows_every_machine() -> None:
    for name in machines():
        target = Target.load(name)
        codegen = target.codegen()
        assert str(codegen.kind.name) == target.tvm.kind == "llvm", name
        assert str(codegen.attrs["mtriple"]) == target.tvm.mtriple, name
        assert str(codegen.attrs["mcpu"]) == target.tvm.mcpu, name
        assert list(map(str, codegen.attrs.get("mattr", ()))) == list(target.tvm.mattr), name


def test_vectors_of_the_x86_files_are_those_of_the_instruction_set() -> None:
    """AVX2: 16 registers of 8 float32; AVX-512: 32 of 16."""
    for name, lanes, registers in (("x86-avx2", 8, 16), ("x86-avx512", 16, 32)):
        vector = Target.load(name).vector
        assert (vector.lanes(F32), vector.registers) == (lanes, registers)


def test_optional_facts_have_defaults(edit: Edit) -> None:
    edit(r"^dot = .*\n", "")
    target = Target.load("x86-avx2")
    assert (target.vector.dot.qs8, target.policy) == (None, Policy())
    edit(r"^dot = .*$", 'dot = { qs8 = "vpdpbusd" }\n[policy]\nfuse = "always"\npasses = 2')
    target = Target.load("x86-avx2")
    assert (target.vector.dot.qs8, target.policy) == ("vpdpbusd", Policy("always", 2))
    block = Layer.parse("f32-irb-3x3s1-7x7x160-960-320-linear")
    schedule = Decisions(target, {})(block)
    assert schedule is not None and schedule.to_json()["chunk"] == 480
    assert Decisions(replace(target, policy=Policy()), {})(block) is None


def test_unknown_target_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'abacus'.*x86-avx2"):
        Target.load("abacus")


def test_only_the_stem_of_a_file_is_a_name() -> None:
    for name in ("", "../targets/x86", "x86.toml", "X86"):
        with pytest.raises(UserError, match=re.escape(repr(name))):
            Target.load(name)


def test_broken_file_and_key_are_named(edit: Edit, subtests: pytest.Subtests) -> None:
    for pattern, text, told in (
        (r"^registers = .*$", 'registers = "16"', "vector.registers"),
        (r"^registers = .*$", "registers = 0", "vector.registers"),
        (r"^registers = .*$", "registers = -16", "vector.registers"),
        (r"^registers = .*$", "registers = 1.5", "vector.registers"),
        (r"^registers = .*$", "registers = true", "vector.registers"),
        (r"^registers = .*$", f"registers = {2**70}", "vector.registers"),
        (r"^registers = .*$", "registers = inf", "infinite"),
        (r"^bytes = .*\n", "", "`bytes` - at `$.vector`"),
        (r"^l2_bytes = .*\n", "", "`l2_bytes` - at `$.cache`"),
        (r"^features = .*\n", "", "`features` - at `$.host`"),
        (r"^description = .*\n", "", "`description`"),
        (r"^\[tvm\]\n(.+\n)+", "", "`tvm`"),
        (r"^\[cache\]\n(.+\n)+", "", "`cache`"),
        (r"^description = .*$", "description = 7", "description"),
        (r"^\[link\]\n(.+\n)+", "", "`link`"),
        (r"^machine = .*$", "machine = 64", "host.machine"),
        (r"^triple = .*$", "triple = []", "link.triple"),
        (r"^registers = .*$", "registers = 16\nspeed = 1", "'vector.speed' is not known"),
        (r"^description = ", 'colour = "red"\ndescription = ', "'colour' is not known"),
        (r"^description = ", 'name = "x86-avx512"\ndescription = ', "'name' is not known"),
        (r"^\[cache\]\n(.+\n)+", "[cache.l1]\nx = 1\n", "'cache.l1' is not known"),
        (r"^registers = .*$", "registers = ", "not valid TOML"),
        (r"^\[vector\]$", "[vector", "not valid TOML"),
        (r"^\[cache\]$", "[policy]\npasses = 0\n[cache]", "policy.passes"),
        (r"^\[cache\]$", '[policy]\nfuse = "never"\n[cache]', "policy.fuse"),
        (r"^\[cache\]$", "[policy]\nsplit = 1\n[cache]", "'policy.split' is not known"),
        (r"^dot = .*$", "dot = 4", "vector.dot"),
        (r"^dot = .*$", 'dot = { qs8 = "vpdp" }', "vector.dot.qs8"),
        (r"^dot = .*$", "dot = { qs8 = 4 }", "vector.dot.qs8"),
        (r"^dot = .*$", 'dot = { qs9 = "vpdpbusd" }', "'vector.dot.qs9' is not known"),
        (r"^registers = .*$", "registers = 16\nregisters = 16", "not valid TOML"),
        (r"^registers = .*$", f"registers = {5000 * '9'}", "not valid TOML"),
        (r"^features = .*$", f"features = {10_000 * '['}", "not valid TOML: nested"),
        (r"^features = .*$", f"{'.'.join(5000 * 'a')} = 1", "'host.a' is not known"),
        (r"^\[cache\]\n(.+\n)+", "[cache]\n[[cache.x]]\n" * 5000, "more than|larger than"),
    ):
        with subtests.test(f"{pattern} {text[:30]}"):
            edit(pattern, text)
            with pytest.raises(UserError) as error:
                Target.load("x86-avx2")
            assert "x86-avx2.toml" in str(error.value)
            assert any(one in str(error.value) for one in told.split("|"))
            assert len(str(error.value)) < 500 and str(error.value).isprintable()


def test_what_llvm_does_not_know_is_refused(edit: Edit, subtests: pytest.Subtests) -> None:
    """LLVM itself would take a generic CPU, or crash."""
    for pattern, text, key in (
        (r"^mcpu = .*$", 'mcpu = "haswel"', "mcpu.*haswell"),
        (r"^mcpu = .*$", 'mcpu = "cortex-a72"', "mcpu"),
        (r"^mcpu = .*\n", "", "mcpu"),
        (r"^mcpu = .*$", "mcpu = 3", "mcpu"),
        (r"^mtriple = .*$", 'mtriple = "abacus-linux-gnu"', "mtriple"),
        (r"^mtriple = .*$", 'mtriple = ""', "mtriple"),
        (r"^mtriple = .*\n", "", "mtriple"),
        (r"^mcpu = ", 'matr = ["+avx"]\nmcpu = ', "matr"),
        (r"^mcpu = ", 'mattr = ["+avx3"]\nmcpu = ', r"mattr.*\+avx3"),
        (r"^mcpu = ", 'mattr = ["avx2"]\nmcpu = ', "mattr.*avx2"),
        (r"^mcpu = ", 'mattr = "+avx2"\nmcpu = ', "mattr"),
        (r"^features = ", 'cpus = ["znver33"]\nfeatures = ', "host.cpus.*znver3"),
        (r"^features = ", 'libc = "uclibc"\nfeatures = ', "host.libc"),
        (r"^kind = .*$", 'kind = "cuda"', "kind"),
        (r"^kind = .*$", 'kind = "llvm"\nvector-width = -1', "vector-width"),
    ):
        edit(pattern, text)
        with (
            subtests.test(text),
            pytest.raises(UserError, match=rf"x86-avx2\.toml: .*{key}"),
        ):
            Target.load("x86-avx2")


def test_what_llvm_knows_is_taken(edit: Edit) -> None:
    for word in ("+avx2", "-avx512f"):
        edit(r"^mcpu = ", f'mattr = ["{word}"]\nmcpu = ')
        assert Target.load("x86-avx2").tvm.mattr == (word,)


def test_a_byte_order_mark_is_no_part_of_the_file(folder: Path) -> None:
    path = folder / "x86-avx2.toml"
    before = Target.load("x86-avx2")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Target.load("x86-avx2") == before


def test_what_is_no_ordinary_file_is_named(folder: Path) -> None:
    (folder / "directory.toml").mkdir()
    os.mkfifo(folder / "fifo.toml")
    (folder / "gone.toml").symlink_to("nowhere")
    for name in ("directory", "fifo", "gone"):
        with pytest.raises(UserError, match=f"{name}.toml"):
            Target.load(name)
    target, why = Target.load_with_reason("host")  # does no harm to the others, and is told
    assert not target.missing_here() and "; directory, fifo, gone left out, broken" in why


def test_a_target_can_be_sent_to_another_process() -> None:
    for target in map(Target.load, machines()):
        assert pickle.loads(pickle.dumps(target)) == target == copy.deepcopy(target)
        assert hash(pickle.loads(pickle.dumps(target))) == hash(target)
        assert replace(target, description="another") != target


def test_android_is_the_last_word_of_the_triple() -> None:
    for target in map(Target.load, machines()):
        assert target.android is target.name.startswith("android"), target.name
        other = msgspec.structs.replace(target.tvm, mtriple="aarch64-android-linux")
        assert not replace(target, tvm=other).android, target.name


def test_a_value_in_the_place_of_a_table_is_refused(folder: Path) -> None:
    path = folder / "x86-avx2.toml"
    whole = path.read_text()
    for section in ("cache", "host", "link", "tvm", "vector"):
        text = re.sub(rf"^\[{section}\]\n(.+\n)+", "", whole, flags=re.MULTILINE)
        path.write_text(f"{section} = 5\n{text}")
        with pytest.raises(UserError, match=rf"x86-avx2.toml: .*{section}"):
            Target.load("x86-avx2")


def test_features_are_a_list_of_names(edit: Edit, subtests: pytest.Subtests) -> None:
    for value in ('"avx2"', "7", "[1, 2]", "true"):
        edit(r"^features = .*$", f"features = {value}")
        with (
            subtests.test(value),
            pytest.raises(UserError, match=r"x86-avx2.toml: .*host.features"),
        ):
            Target.load("x86-avx2")


def test_a_vector_holds_whole_floats(edit: Edit, subtests: pytest.Subtests) -> None:
    for value in (1, 3, 30):
        edit(r"^bytes = .*$", f"bytes = {value}")
        with (
            subtests.test(bytes=value),
            pytest.raises(UserError, match=r"x86-avx2.toml: .*vector.bytes"),
        ):
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


def test_a_machine_loads_wherever_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-compiling: only a group looks at the host."""
    pretend(monkeypatch, "riscv64", ())
    for name in machines():
        target = Target.load(name)
        assert target.missing_here() == [f"a CPU of kind {target.host.machine} (this is riscv64)"]


def test_broken_group_is_named(folder: Path, subtests: pytest.Subtests) -> None:
    for value in ("[]", "7", '"x86-avx2"', '["x86"]', "[7]", '["x86-*", "z*"]'):
        (folder / "x86.toml").write_text(f"best_of = {value}\n")
        with subtests.test(value), pytest.raises(UserError, match=r"x86.toml: .*best_of"):
            Target.load("x86")


def test_group_has_no_other_key(folder: Path) -> None:
    (folder / "x86.toml").write_text('best_of = ["x86-avx2"]\nspeed = 1\n')
    with pytest.raises(UserError, match=r"x86.toml: .*speed"):
        Target.load("x86")


def test_a_32_bit_process_on_a_64_bit_kernel_is_an_armv7_host() -> None:
    """As on a 32-bit Raspberry Pi OS, whose kernel is a 64-bit one."""
    flags = {"asimd", "crc32"}
    assert as_process("aarch64", flags, 2**31 - 1) == ("armv7l", flags | {"neon", "vfpv4"})
    assert as_process("aarch64", flags, 2**63 - 1) == ("aarch64", flags)
    assert as_process("x86_64", {"avx2"}, 2**63 - 1) == ("x86_64", {"avx2"})


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"model name\t: caf\xe9\xff\nflags\t: fma avx2\n", ({"fma", "avx2"}, "caf\ufffd\ufffd")),
        (b"cpu family: 6\nmodel name: x\nflags:\n", (set(), "x (family 6 model ?)")),
        (None, (set(), "")),
    ],
)
def test_whatever_cpuinfo_holds(
    data: bytes | None, told: tuple[set[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if data is not None:
        (tmp_path / "cpuinfo").write_bytes(data)
    monkeypatch.setattr("mnv2_tvm.host.CPUINFO", tmp_path / "cpuinfo")
    host = this_host.__wrapped__()
    assert (set(host.features), host.model) == told
