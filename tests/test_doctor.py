"""The doctor on this machine, and on machines that lack something."""

import os
import re
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ended

import mnv2_tvm.doctor as verb
import mnv2_tvm.hardware as hardware
import mnv2_tvm.target
from mnv2_tvm.data import data_folder
from mnv2_tvm.doctor import Finding, doctor, satisfies
from mnv2_tvm.host import Host
from mnv2_tvm.target import target_names

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
REQUIREMENTS: list[str] = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without starting TVM and the linker."""
    monkeypatch.setattr(verb, "_probe", lambda name, *_: Finding(name, "not started"))


def named(name: str) -> Finding:
    return next(finding for finding in doctor() if finding.name == name)


def invoke(capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code and both streams of `python -m mnv2_tvm.doctor`."""
    return ended(capsys, verb.main)


def test_this_machine_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    """The one test that starts TVM and the linker for real."""
    code, output, errors = invoke(capsys)
    assert (code, errors) == (0, "")
    assert "MISSING" not in output
    assert re.search(r"TVM +ok +LLVM \d+", output)
    assert re.search(r"linker +ok +LLD \d+", output)
    for name in target_names():
        assert f"target {name} " in output


@pytest.mark.usefixtures("quick")
def test_tools_of_single_options_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("adb", "qemu-aarch64-static"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert named("adb").value == str(tmp_path / "adb")
    assert named("qemu-aarch64").value == str(tmp_path / "qemu-aarch64-static")
    absent = named("qemu-system-arm")
    assert absent.ok and "apt install qemu-system-arm" in absent.value


@pytest.mark.usefixtures("quick")
def test_every_requirement_is_looked_up_and_understood() -> None:
    names = [re.split("[<>=]", requirement)[0] for requirement in REQUIREMENTS]
    assert set(names) <= {finding.name for finding in doctor()}
    for requirement in REQUIREMENTS:
        assert re.fullmatch(r"[\w-]+((==|>=|<)[\w.]+,?)+", requirement), requirement


@pytest.mark.parametrize(
    ("installed", "requirement", "met"),
    [
        ("0.1.14.post1", "==0.1.14.post1", True),
        ("0.1.14", "==0.1.14.post1", False),
        ("0.1.15", "==0.1.14.post1", False),
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13.1+cpu", "==2.13.0", False),
        ("10", ">=10.0", True),
        ("9.9.9", ">=10", False),
        ("3.12.4rc1", ">=3.12", True),
        ("0.17.1", "<0.18,>=0.15", True),
        ("0.18.0", "<0.18,>=0.15", False),
        ("0.9", "<0.18,>=0.15", False),
        ("1.0", "", True),
    ],
)
def test_versions_are_compared_as_numbers(installed: str, requirement: str, met: bool) -> None:
    assert satisfies(installed, requirement) is met


@pytest.mark.usefixtures("quick")
def test_another_version_than_the_pin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = metadata.version
    fake = {"apache-tvm-ffi": "0.1.15", "ziglang": "0.18.0"}
    monkeypatch.setattr(metadata, "version", lambda name: fake.get(name) or real(name))
    code, output, errors = invoke(capsys)
    pin = next(r for r in REQUIREMENTS if r.startswith("apache-tvm-ffi"))
    assert code == 1
    assert errors.startswith("error: not as needed: apache-tvm-ffi, ziglang; run")
    assert f"needed for apache-tvm-ffi: python -m pip install {pin}\n" in output
    # Quoted, or the shell would read from a file named by the version.
    assert "needed for ziglang: python -m pip install 'ziglang" in output


@pytest.mark.usefixtures("quick")
def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "apache-tvm-ffi":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    finding = named("apache-tvm-ffi")
    assert not finding.ok
    assert finding.value.startswith("not installed; needs ==")
    assert finding.remedy is not None
    assert finding.remedy.startswith("python -m pip install apache-tvm-ffi==")


@pytest.mark.usefixtures("quick")
def test_pins_are_those_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    required = ["torch==1.0", "numpy<2000,>=1; python_version > '3'", "onnx>=1; extra == 'peers'"]
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    monkeypatch.setattr(
        metadata, "version", lambda name: "0.1.0" if name == "mnv2-tvm" else real(name)
    )
    findings = {finding.name: finding for finding in doctor()}
    assert findings["mnv2-tvm"] == Finding("mnv2-tvm", "0.1.0")
    assert not findings["torch"].ok
    assert findings["numpy"].ok
    assert "onnx" not in findings


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("checkout", [True, False])
def test_a_folder_that_is_not_installed(
    checkout: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "mnv2-tvm":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    if not checkout:  # the package alone, copied
        monkeypatch.setattr(verb, "data_folder", lambda name: tmp_path / name)
    finding = named("mnv2-tvm")
    assert finding.ok is checkout
    assert finding.remedy == "python -m pip install -e ."
    assert finding.value.endswith("not installed")


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("raise ImportError('no such library')", "ImportError: no such library (exit code 1)"),
        # Not 11: where qemu runs this, it would have the last word.
        ("import os; os.kill(os.getpid(), 9)", "no output (exit code -9)"),
    ],
)
def test_tvm_that_raises_or_crashes(code: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "TVM_PROBE", code)
    findings = {finding.name: finding for finding in doctor()}
    tvm = findings["TVM"]
    assert not tvm.ok
    assert tvm.value == value
    assert tvm.remedy is not None
    words = tvm.remedy.split()
    assert "--force-reinstall" in words
    assert [w.split("==")[0] for w in words[-2:]] == ["apache-tvm-ffi", "apache-tvm"]
    assert not any(name.startswith("target") for name in findings)


def test_a_probe_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "PROBE_TIMEOUT_S", 0.1)
    finding = verb._probe("linker", ["-c", "import time; time.sleep(60)"], "a remedy")
    assert not finding.ok
    assert "timed out" in finding.value


@pytest.mark.usefixtures("quick")
def test_a_host_of_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is missing there: it builds for others, and the groups have no answer."""
    host = Host("riscv64", "Some RISC-V", 4, frozenset(), "glibc")
    for module in (verb, hardware, mnv2_tvm.target):
        monkeypatch.setattr(module, "this_host", lambda: host)
    findings = {finding.name: finding for finding in doctor()}
    assert all(finding.ok for finding in findings.values())
    assert findings["CPU"].value == "Some RISC-V, 4 cores"
    assert findings["CPU features"].value == "no target asks for any"
    assert findings["target x86-avx2"].value == (
        "builds only; to run: a CPU of kind x86_64 (this is riscv64)"
    )
    for group in ("host", "x86"):
        assert findings[f"target {group}"].value.startswith("this host can run none")


@pytest.mark.usefixtures("quick")
def test_a_host_without_a_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host("x86_64", "Old", 4, frozenset({"avx2", "fma", "bmi2"}), "glibc")
    for module in (verb, hardware, mnv2_tvm.target):
        monkeypatch.setattr(module, "this_host", lambda: host)
    findings = {finding.name: finding for finding in doctor()}
    for group in ("host", "x86"):
        assert findings[f"target {group}"].value.startswith("is x86-avx2 here: this CPU (")
    assert findings["target x86-avx2"].value == "runs here"
    assert findings["target x86-avx512"].value.startswith("builds only; to run: avx512f, ")
    assert "avx2, no avx512_vnni, no avx512bw, " in findings["CPU features"].value


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("words", ["not valid TOML", "No such file"])
def test_a_broken_target_file(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "targets").mkdir()
    file = tmp_path / "targets" / "mine.toml"
    if words == "not valid TOML":
        file.write_text("description = [\n")
    else:
        file.symlink_to("gone.toml")
    for module in (verb, mnv2_tvm.target):
        monkeypatch.setattr(module, "data_folder", lambda name: tmp_path / name)
    finding = named("target mine")
    assert not finding.ok
    assert "mine.toml" in finding.value and words in finding.value
    assert finding.remedy is not None
    assert "mine.toml" in finding.remedy
    assert data_folder("targets") != tmp_path / "targets"


@pytest.mark.usefixtures("quick")
def test_memory_and_disk_that_do_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "MEMORY_MIB", 1 << 40)
    monkeypatch.setattr(hardware, "DISK_MIB", 1 << 40)
    for name in ("memory", "temp folder"):
        finding = named(name)
        assert not finding.ok
        assert finding.value.endswith(f"; needs {1 << 40} MiB")
        assert finding.remedy


@pytest.mark.usefixtures("quick")
def test_a_temp_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "not/there")
    assert not named("temp folder").ok


@pytest.mark.usefixtures("quick")
def test_a_temp_folder_that_is_not_the_one_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "/nowhere")
    finding = named("temp folder")
    assert finding.ok and finding.remedy
    assert "/nowhere" in finding.value and str(tmp_path) in finding.value


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("home", "told"),
    [(None, "not set"), ("", "not set"), ("/dev/null/home", "/dev/null/home/.cache"), ("{}", "{}")],
)
def test_a_home_that_is_not_there(
    home: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home.format(tmp_path))
    finding = named("home folder")
    assert finding.ok and told.format(tmp_path) in finding.value
    assert bool(finding.remedy) is (home != "{}")


@pytest.mark.usefixtures("quick")
def test_a_temp_folder_without_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flags:
        f_flag = os.ST_NOEXEC

    monkeypatch.setattr(os, "statvfs", lambda folder: Flags)
    monkeypatch.setattr(
        hardware.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 9})
    )
    assert named("temp folder").value.endswith("is mounted noexec")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("governor", ["performance", "schedutil", None])
def test_governor_is_advice_alone(
    governor: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "CPUS", tmp_path)
    if governor:
        file = tmp_path / "cpu0" / "cpufreq" / "scaling_governor"
        file.parent.mkdir(parents=True)
        file.write_text(f"{governor}\n")
    finding = named("governor")
    assert finding.ok
    assert bool(finding.remedy) is (governor == "schedutil")


def test_another_system_or_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb.sys, "platform", "darwin")
    python, system = doctor()
    assert (python.name, python.ok, system.name, system.ok) == ("Python", True, "system", False)
    assert "on Apple silicon the container is a 64-bit ARM one" in system.value
    assert system.remedy and system.remedy.startswith("docker run")
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    (finding,) = doctor()
    assert not finding.ok
    assert finding.remedy == "python3.11 -m venv .venv"
