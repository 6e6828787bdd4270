"""The pages of docs/ are whole: they explain every key, error, verb and function of the code."""

import re
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import msgspec
from pages import PAGES, README, ROOT

from mnv2_tvm.cli import VERBS
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.failures import Kind
from mnv2_tvm.records.decisions import SOURCES
from mnv2_tvm.target import Target, target_names


def in_tables(name: str) -> set[str]:
    """What stands in `...` in the first column of the tables of a page."""
    page = ROOT / "docs" / name
    assert page in PAGES
    rows = re.findall(r"^\| ([^|]*) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def keys(kind: Any) -> set[str]:
    """The keys of a target file, without the tables that hold others."""
    if issubclass(kind, msgspec.Struct):
        return {field.encode_name for field in msgspec.structs.fields(kind)}
    found = set[str]()
    for name, hint in get_type_hints(kind).items():
        inner = [one for one in (hint, *get_args(hint)) if holds_keys(one)]
        found |= keys(inner[0]) if inner else {name}
    return found


def holds_keys(kind: Any) -> bool:
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, msgspec.Struct))


def test_every_key_of_a_target_file_is_explained() -> None:
    wanted = keys(Target) - {"name"}
    assert {"mfloat-abi", "fma_latency", "qemu_ram", "description"} <= wanted
    assert wanted | {"best_of"} <= in_tables("targets.md")


def test_every_target_is_there() -> None:
    assert set(target_names()) <= in_tables("targets.md")
    text = README.read_text(encoding="utf-8")
    assert {name for name in target_names() if f"`{name}`" not in text} == {"x86"}  # a group


def test_every_kind_of_error_is_explained() -> None:
    assert set(map(str, Kind)) <= in_tables("troubleshooting.md")


def test_every_verb_and_every_source_of_a_schedule_is_explained() -> None:
    assert set(VERBS) <= in_tables("architecture.md")
    assert set(SOURCES) <= in_tables("boards.md")


def test_the_interface_in_c_and_the_manifest_are_explained() -> None:
    header = (ROOT / "mnv2_tvm/deploy/mnv2.h").read_text(encoding="utf-8")
    functions = set(re.findall(r"^MNV2_API [^;]*?\b(mnv2_\w+)\(", header, re.MULTILINE))
    errors = set(re.findall(r"^#define (MNV2_ERROR_\w+)", header, re.MULTILINE))
    assert len(functions) > 10 and len(errors) == 4
    names = {field.name for field in fields(Manifest)} | {"manifest_sha256"}
    assert functions | errors | names <= in_tables("c-package.md")


def test_every_script_is_explained() -> None:
    scripts = {f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir() if path.is_file()}
    assert scripts - in_tables("contributing.md") == {"scripts/uv"}  # which `scripts/lock` calls
