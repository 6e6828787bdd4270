"""`mnv2_load`, which runs a library without a dynamic linker: its output, and all it refuses."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import Built

from mnv2_tvm.deploy.load_program import PROGRAM, write_load_program
from mnv2_tvm.deploy.loader import LIBRARY
from mnv2_tvm.numbers import TOLERANCE, relative_error
from mnv2_tvm.target import Target


@pytest.fixture(scope="module")
def program(here: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / PROGRAM
    write_load_program(here, path)
    return path


@pytest.fixture
def image(tiny: Built, tmp_path: Path) -> Path:
    """The input of a run, as the program reads it."""
    path = tmp_path / "input"
    tiny.network.images(0).astype("<f4").tofile(path)
    return path


def run(program: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    command = [str(program), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_it_runs_the_library(program: Path, tiny: Built, image: Path) -> None:
    words = ("--output", "--runs", 3, "--warmup", 1, "--peak", "--threads", 2)
    done = run(program, tiny.folder / LIBRARY, image, *words)
    table = json.loads(done.stdout)
    logits = np.frombuffer(bytes.fromhex(table["output"]), ">f4").astype(np.float32)
    reference = tiny.network.reference(tiny.network.images(0)).ravel()
    assert relative_error(logits, reference) <= TOLERANCE
    assert len(table["times_ms"]) == 3 and table["threads"] == 2 and table["peak_gflop_per_s"] > 0
    layers = json.loads(run(program, tiny.folder / LIBRARY, image, "--layers", "--runs", 2).stdout)
    assert len(layers["layers_us"]) == 2 * len(tiny.manifest.layers)


def test_what_is_no_library_is_refused(
    program: Path, tiny: Built, image: Path, tmp_path: Path
) -> None:
    whole = (tiny.folder / LIBRARY).read_bytes()
    foreign = bytearray(whole)
    foreign[18] ^= 0x40  # e_machine
    for name, data in {
        "empty": b"",
        "text": b"#!/bin/sh\n" * 99,
        "foreign": bytes(foreign),
        "program": program.read_bytes(),
        "cut": whole[:80],
    }.items():
        (tmp_path / name).write_bytes(data)
        done = run(program, tmp_path / name, image, "--output")
        assert (done.returncode, done.stdout) == (4, ""), (name, done)
        assert done.stderr.startswith(f"{tmp_path / name} cannot be loaded: "), name
    assert run(program, tmp_path / "missing", image).returncode == 4


def test_wrong_words_and_inputs_are_refused(
    program: Path, tiny: Built, image: Path, tmp_path: Path
) -> None:
    library = tiny.folder / LIBRARY
    for words in ([], [library], [library, image, "more"], [library, image, "--runs", "x"]):
        done = run(program, *words)
        assert done.returncode == 2 and done.stderr.startswith("usage: mnv2_load "), words
    assert run(program, library, image, "--threads", 65).returncode == 2
    for name, data in {
        "short": image.read_bytes()[:-4],
        "long": image.read_bytes() + b"\0",
    }.items():
        (tmp_path / name).write_bytes(data)
        done = run(program, library, tmp_path / name, "--output")
        assert (done.returncode, done.stdout) == (2, ""), name
        assert "does not hold the 3072 values" in done.stderr
