"""Which target a machine takes by itself: by its CPU's name, by its features, and why."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mnv2_tvm import cli
from mnv2_tvm.data import data_folder
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import Host, core_name, this_host
from mnv2_tvm.target import Target

ARMV8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
PI4 = "fp asimd evtstrm crc32 cpuid"
ARMV8_2 = f"{ARMV8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
SVE = f"{ARMV8_2} sve i8mm bf16"
HASWELL = "sse4_2 avx fma bmi1 bmi2 avx2"
SKYLAKE = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"

Pretend = Callable[..., None]

# The machine, LLVM's name of its CPU, the features in /proc/cpuinfo, and what is taken.
MACHINES = {
    "Raspberry Pi 3": ("aarch64", "cortex-a53", PI4, "rasp3"),
    "Raspberry Pi 4": ("aarch64", "cortex-a72", PI4, "rasp4"),
    "Raspberry Pi 5": ("aarch64", "cortex-a76", ARMV8_2, "rasp5"),
    "Graviton 1": ("aarch64", "cortex-a72", ARMV8, "rasp4"),
    "Graviton 2, Ampere Altra": ("aarch64", "neoverse-n1", ARMV8_2, "rasp5"),
    "Graviton 3": ("aarch64", "neoverse-v1", SVE, "rasp5"),
    "Graviton 4": ("aarch64", "neoverse-v2", SVE, "rasp5"),
    "Apple M1": ("aarch64", "apple-m1", ARMV8_2, "rasp5"),
    "Apple M1 in a virtual machine": ("aarch64", "generic", ARMV8_2, "aarch64"),
    "a CPU that no file names": ("aarch64", "cortex-a57", ARMV8, "aarch64"),
    "an in-order one with dot product": ("aarch64", "cortex-a55", ARMV8_2, "aarch64"),
    "a named one whose features are hidden": ("aarch64", "cortex-a76", "fp asimd", "aarch64"),
    "a 32-bit system on a Raspberry Pi 4": ("armv7l", "cortex-a72", "neon vfpv4 crc32", "rasp4-32"),
    "Zen 3": ("x86_64", "znver3", HASWELL, "x86-avx2"),
    "Zen 4": ("x86_64", "znver4", SKYLAKE, "x86-avx512"),
    "Zen 4, with VNNI": ("x86_64", "znver4", f"{SKYLAKE} avx512_vnni", "x86-avx512"),
    "Xeon Phi, with half of AVX-512": ("x86_64", "knl", f"{HASWELL} avx512f", "x86-avx2"),
}


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Let this machine be another one."""

    def be(machine: str, core: str, features: str, libc: str = "glibc") -> None:
        host = Host(machine, "", 4, frozenset(features.split()), libc)
        monkeypatch.setattr("mnv2_tvm.target.this_host", lambda: host)
        monkeypatch.setattr("mnv2_tvm.target.core_name", lambda: core)

    return be


@pytest.mark.parametrize("name", MACHINES)
def test_every_machine_takes_its_target(name: str, pretend: Pretend) -> None:
    *machine, wanted = MACHINES[name]
    pretend(*machine)
    target, why = Target.load_with_reason("host")
    assert target.name == wanted and not target.missing_here()
    assert f"({machine[1]})" in why and why.isprintable()


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        ("Zen 3", "this CPU (znver3) has avx2, fma and bmi2, not avx512f"),
        ("Raspberry Pi 4", "its file names this CPU (cortex-a72)"),
        ("a CPU that no file names", "this CPU (cortex-a57) has asimd, and no file names it"),
    ],
)
def test_the_verbs_say_why(
    machine: str, why: str, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    *host, wanted = MACHINES[machine]
    pretend(*host)
    assert cli.load_target("host").name == wanted
    assert capsys.readouterr() == ("", f"target {wanted}: {why}\n")
    assert cli.load_target(wanted).name == wanted  # it was named: there is nothing to say
    assert capsys.readouterr() == ("", "")


def test_android_runs_beside_its_own_libc_alone(pretend: Pretend) -> None:
    for libc, wanted in (("bionic", "android-dotprod"), ("glibc", "aarch64")):
        pretend("aarch64", "generic", ARMV8_2, libc)
        assert Target.load("host").name == wanted
    lacking = Target.load("android").missing_here()
    assert lacking == ["the C library bionic (here is glibc)"]


def test_the_libc_of_this_process_is_known() -> None:
    """The tests run where TVM's wheels do: beside glibc."""
    assert this_host().libc == "glibc"


def test_an_old_cpu_is_told_what_it_lacks_and_what_to_do(pretend: Pretend) -> None:
    pretend("x86_64", "ivybridge", "sse4_2 avx fma")
    for group in ("host", "x86"):
        with pytest.raises(UserError) as error:
            Target.load(group)
        told = str(error.value)
        assert f"can run none of the targets of '{group}'" in told
        assert "x86-avx2 needs avx2, bmi2" in told and "x86-avx512 needs avx512f, " in told
        assert "rasp4" not in told
        assert "with --target (python -m mnv2_tvm.doctor lists them)" in told
        assert ("'Add a target' in docs/targets.md" in told) == (group == "host")


def test_a_group_of_other_machines_names_them_and_points_to_host(pretend: Pretend) -> None:
    pretend("aarch64", "cortex-a76", ARMV8_2)
    match = r"CPU of kind x86_64 \(this is aarch64\)\..* --target host for this one"
    with pytest.raises(UserError, match=match):
        Target.load("x86")
    pretend("riscv64", "sifive-u74", "")
    with pytest.raises(UserError, match=r"aarch64, .*x86_64 \(this is riscv64\)"):
        Target.load("host")


def test_a_file_for_this_cpu_goes_before_all_others(
    pretend: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more file is all that a new machine needs, and it is for no CPU that it does not name."""
    shutil.copytree(data_folder("targets"), tmp_path / "targets")
    monkeypatch.setattr("mnv2_tvm.target.data_folder", lambda name: tmp_path / name)
    text = (tmp_path / "targets" / "x86-avx2.toml").read_text()
    text = text.replace("[host]\n", '[host]\ncpus = ["znver4"]\n')
    (tmp_path / "targets" / "mine.toml").write_text(text)
    for core, wanted in (("znver4", "mine"), ("znver5", "x86-avx512")):
        pretend("x86_64", core, SKYLAKE)
        assert Target.load("host").name == wanted
    pretend("x86_64", "znver4", "avx")
    with pytest.raises(UserError, match="mine needs avx2"):
        Target.load("host")


@pytest.mark.parametrize(
    ("model", "core", "name"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4", "cortex-a72", "Raspberry Pi 4 Model B Rev 1.4"),
        ("", "neoverse-n1", "neoverse-n1"),  # a server's cpuinfo has no name
        ("", "generic", "aarch64"),
    ],
)
def test_the_name_for_provenance(
    model: str, core: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnv2_tvm.host.core_name", lambda: core)
    assert Host("aarch64", model, 4, frozenset(), "glibc").cpu == name


def test_llvm_names_this_cpu() -> None:
    assert core_name().isprintable() and core_name()
