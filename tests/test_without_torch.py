"""The core needs no torch: no file of it imports any, and every verb runs where there is none."""

import importlib
from pathlib import Path

import pytest
from conftest import TINY, run_python, uses_torch

import mnv2_tvm

PACKAGE = Path(mnv2_tvm.__file__).parent
CAT = PACKAGE / "samples/cat.jpg"


def test_no_file_of_the_package_imports_torch() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    assert [path for path in files if uses_torch(path)] == []


def test_torch_cannot_be_imported_here_nor_in_a_verb() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("torch")
    done = run_python("-c", "import torch")
    assert "ImportError: torch is no part of the core" in done.stderr


def test_the_first_commands_run(tmp_path: Path) -> None:
    """As a user types them; the other verbs run so in their own tests."""
    shape = ["--width", str(TINY.width), "--resolution", str(TINY.resolution)]
    for verb, *options in (
        ("build", *shape, "-o", str(tmp_path / "out")),
        ("run", str(tmp_path / "out"), "--image", str(CAT), "--check", "--top", "1"),
        ("bench", "--library", str(tmp_path / "out"), "--runs", "3"),
    ):
        done = run_python("-m", f"mnv2_tvm.{verb}", *options)
        assert done.returncode == 0, f"{verb}: {done.stderr}"
