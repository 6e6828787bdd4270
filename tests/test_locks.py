"""The locks: what pyproject.toml asks for, on every Python and machine; hashes, and no torch."""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mnv2_tvm.devices.rpc import kit

ROOT = Path(__file__).parents[1]
CORE, TOOLS = ROOT / "requirements.lock", ROOT / "requirements-tools.lock"
KIT = Path(kit.__file__).parent / "kit_files" / kit._LOCK
LOCKS = [CORE, TOOLS, KIT]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOOLS_OF_PIP = ["hatchling", "editables"]  # an editable install without isolation takes them
ENVIRONMENTS = [
    {
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.4",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "extra": "",
    }
    for minor in (11, 12, 13, 14)
    for machine in ("x86_64", "aarch64")
]


def name_of(environment: dict[str, str]) -> str:
    return f"{environment['python_version']}-{environment['platform_machine']}"


def entries(path: Path) -> list[str]:
    """The lock's text, an entry a package."""
    return re.findall(r"^\S.*?(?=^\S|\Z)", path.read_text(encoding="utf-8"), re.M | re.S)


def locked(path: Path, environment: dict[str, str]) -> dict[str, str]:
    """Name to version of what pip installs by the lock there; each stands in it once."""
    found: dict[str, str] = {}
    for entry in entries(path):
        line = Requirement(entry.partition("\\")[0])
        if line.marker and not line.marker.evaluate(environment):
            continue
        (pin,) = line.specifier
        assert pin.operator == "==" and line.name not in found
        found[canonicalize_name(line.name)] = pin.version
    return found


def wanted(path: Path) -> list[Requirement]:
    """What the lock was made from."""
    own: list[str] = PROJECT["dependencies"]
    if path == KIT:
        own = [text for text in own if text.startswith("apache-tvm")]
        assert len(own) == 2
    else:
        own = own + TOOLS_OF_PIP
    extra: list[str] = PROJECT["optional-dependencies"]["tools"] if path == TOOLS else []
    return [Requirement(text) for text in own + extra]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=name_of)
@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_it_is_of_the_requirements(path: Path, environment: dict[str, Any]) -> None:
    versions = locked(path, environment)
    for requirement in wanted(path):
        version = versions[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement}: run scripts/lock"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_entry_has_hashes_and_none_is_torch_or_names_a_place(path: Path) -> None:
    for entry in entries(path):
        name, *rest = entry.splitlines()
        assert not re.search("torch|cuda|nvidia|triton|cu1[0-9]", name)
        hashes = [re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in rest]
        assert hashes and all(hashes), name


def test_the_tools_come_beside_the_same_core() -> None:
    for environment in ENVIRONMENTS:
        core, tools = locked(CORE, environment), locked(TOOLS, environment)
        assert core.items() < tools.items()


def test_nothing_else_is_needed() -> None:
    """Whatever the packages here ask for is locked with them."""
    versions = locked(TOOLS, dict(ENVIRONMENTS[0]))
    asked = [
        (name, Requirement(text))
        for name in versions
        if name in INSTALLED
        for text in metadata.requires(name) or []
    ]
    here = [(name, r) for name, r in asked if not r.marker or r.marker.evaluate({"extra": ""})]
    assert len({name for name, _ in here}) > 10
    assert {canonicalize_name(requirement.name) for _, requirement in here} <= versions.keys()


INSTALLED = {canonicalize_name(found.name) for found in metadata.distributions()}
