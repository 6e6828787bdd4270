"""`python -m mnv2_tvm.doctor`: what this machine has, what it lacks, and the command that helps."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from mnv2_tvm.cli import plain_console, run_verb
from mnv2_tvm.data import data_folder
from mnv2_tvm.errors import UserError
from mnv2_tvm.hardware import Finding, hardware
from mnv2_tvm.host import this_host
from mnv2_tvm.versions import __version__

if TYPE_CHECKING:  # at run time it would load TVM, which may be what is broken
    from mnv2_tvm.target import Target

MINIMUM_PYTHON = (3, 11)
PIP = "python -m pip install"
TVM_PROBE = "import tvm; print('LLVM', tvm.get_global_func('target.llvm_version_major')())"
PROBE_TIMEOUT_S = 120

# Programs that single options call, by any of their names, and how to get them.
TOOLS = (
    (("qemu-aarch64", "qemu-aarch64-static"), "device emulate", "apt install qemu-user"),
    (("qemu-system-arm",), "device emulate of a microcontroller", "apt install qemu-system-arm"),
    (("ssh",), "--on ssh:HOST", "apt install openssh-client"),
    (("adb",), "--on adb", "apt install adb"),
)


def doctor() -> list[Finding]:
    """Look at everything the verbs need; what needs Linux or TVM is left out without them."""
    python = Finding("Python", platform.python_version())
    if sys.version_info < MINIMUM_PYTHON:
        return [replace(python, ok=False, remedy="python3.11 -m venv .venv")]
    system = Finding("system", platform.platform())
    if sys.platform != "linux":
        return [python, _no_linux(system)]
    package, requirements = _package()
    tvm = _probe("TVM", ["-c", TVM_PROBE], _reinstall("apache-tvm", requirements))
    linker = ["-m", "ziglang", "ld.lld", "--version"]
    return [
        python,
        system,
        package,
        *map(_dependency, requirements),
        tvm,
        _probe("linker", linker, _reinstall("ziglang", requirements)),
        *(_tool(*tool) for tool in TOOLS),
        *hardware(tvm.ok),
        *(_targets() if tvm.ok else []),
    ]


def _no_linux(system: Finding) -> Finding:
    """A container is of this CPU's own kind, so that what is built there runs there."""
    value = (
        f"{system.value}; needs Linux. In a container all verbs work, and --target host is this "
    )
    value += "CPU: on Apple silicon the container is a 64-bit ARM one"
    container = "docker run --rm -it -v .:/mnv2 -w /mnv2 python:3.11 bash"
    return replace(system, value=value, ok=False, remedy=container)


def satisfies(installed: str, requirement: str) -> bool:
    """Whether a version meets a requirement's clauses; `==` ignores a build such as `+cpu`.

    Knows `==`, `>=` and `<`, which are all that the package uses.
    """
    public = installed.partition("+")[0]
    for relation, wanted in re.findall(r"(==|>=|<)\s*([^\s,]+)", requirement):
        met = {
            "==": public == wanted,
            ">=": _release(public) >= _release(wanted),
            "<": _release(public) < _release(wanted),
        }
        if not met[relation]:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """`3.10.0rc1` as (3, 10): the leading numbers without zeros at the end."""
    numbers = re.match(r"[\d.]*\d", version)
    return tuple(map(int, re.sub(r"(\.0+)*$", "", numbers[0]).split("."))) if numbers else ()


def _package() -> tuple[Finding, list[str]]:
    """The package itself and its requirements, without those of the extras."""
    try:
        version, required = metadata.version("mnv2-tvm"), metadata.requires("mnv2-tvm") or []
        finding = Finding("mnv2-tvm", version)
    except metadata.PackageNotFoundError:
        import tomllib  # not there before Python 3.11, which `doctor` reports first

        pyproject = data_folder("targets").parent / "pyproject.toml"
        known = pyproject.is_file()
        required = []
        if known:
            table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
            required = table["project"]["dependencies"]
        value = f"{__version__}, a folder that is not installed"
        # All but the console script works from a checkout.
        finding = Finding("mnv2-tvm", value, known, f"{PIP} -e .")
    return finding, [r.partition(";")[0].strip() for r in required if "extra ==" not in r]


def _dependency(requirement: str) -> Finding:
    name, clauses = re.findall(r"^([\w.-]+)\s*(.*)$", requirement)[0]
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, f"not installed; needs {clauses}", False, _pip(requirement))
    if satisfies(installed, clauses):
        return Finding(name, installed)
    return Finding(name, f"{installed}; needs {clauses}", False, _pip(requirement))


def _pip(*arguments: str) -> str:
    return f"{PIP} {shlex.join(arguments)}"


def _reinstall(prefix: str, requirements: list[str]) -> str:
    """Of TVM and its FFI it takes both, so all requirements that start with `prefix`."""
    wanted = sorted(one for one in requirements if one.startswith(prefix))
    return _pip("--force-reinstall", *(wanted or [prefix]))


def _probe(name: str, arguments: list[str], remedy: str) -> Finding:
    """The last line that Python prints with `arguments`; in a process of its own, which may crash.

    A wrong pair of TVM and FFI can end in a segmentation fault instead of an exception.
    """
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            env={"XDG_CACHE_HOME": os.devnull, **os.environ},  # TVM wants it or a home
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name, str(error), False, remedy)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    last = lines[-1] if lines else "no output"
    if done.returncode:
        return Finding(name, f"{last} (exit code {done.returncode})", False, remedy)
    return Finding(name, last)


def _tool(names: tuple[str, ...], user: str, command: str) -> Finding:
    """Never missing: what does not use `user` does not need it."""
    path = next(filter(None, map(shutil.which, names)), None)
    return Finding(names[0], path or f"not here; only {user} calls it: {command}")


def _targets() -> list[Finding]:
    """Every target of `targets/`, and the CPU features that those of this architecture ask for."""
    from mnv2_tvm.target import Target, target_names

    host = this_host()
    findings, wanted = [], set()
    for name in target_names():
        try:
            target, why = Target.load_with_reason(name)
        except UserError as error:
            findings.append(_unloadable(name, error))
            continue
        findings.append(_target(name, target, why))
        if target.host.machine == host.machine:
            wanted |= set(target.host.features)
    marks = [f"{'' if feature in host.features else 'no '}{feature}" for feature in sorted(wanted)]
    return [Finding("CPU features", ", ".join(marks) or "no target asks for any"), *findings]


def _target(name: str, target: "Target", why: str) -> Finding:
    if why:  # a group
        return Finding(f"target {name}", f"is {target.name} here: {why}")
    lacking = ", ".join(target.missing_here())
    return Finding(f"target {name}", f"builds only; to run: {lacking}" if lacking else "runs here")


def _unloadable(name: str, error: UserError) -> Finding:
    """A group of machines other than this one is nothing to mend, a broken file is."""
    path, text = data_folder("targets") / f"{name}.toml", ""
    with suppress(OSError):  # it may be just that
        text = path.read_text(encoding="utf-8", errors="replace")
    if re.search(r"^best_of\b", text, re.M):
        return Finding(f"target {name}", str(error))
    return Finding(f"target {name}", str(error), False, f'"$EDITOR" {shlex.quote(str(path))}')


def findings_table(findings: list[Finding]) -> Table:
    """One row for each of `findings`, without the remedies: a command must not be wrapped."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("MISSING", "red")
        table.add_row(Text(finding.name), mark, Text(finding.value))
    return table


def main() -> None:
    """Check what the verbs need of this machine; exit with 1 where something is missing."""
    findings = doctor()
    plain_console().print(findings_table(findings))
    for finding in findings:
        if finding.remedy:
            verb = "advised" if finding.ok else "needed"
            typer.echo(f"{verb} for {finding.name}: {finding.remedy}")
    missing = [finding.name for finding in findings if not finding.ok]
    if missing:
        raise UserError(f"not as needed: {', '.join(missing)}; run the commands above")


if __name__ == "__main__":
    run_verb(main)
