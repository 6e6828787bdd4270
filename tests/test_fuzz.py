"""`scripts/fuzz`: a short run of all parsers, and whether it notices what it is for."""

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from conftest import TINY, BuildOnce, run_python

from mnv2_tvm.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts/fuzzing"))

import sandbox
from mutate import bend, damage, to_json, to_toml

SCRIPT = Path(sandbox.__file__).with_name("fuzz.py")
INPUTS = 150


def test_no_parser_is_brought_down(build_once: BuildOnce, tmp_path: Path) -> None:
    output = tmp_path / "fuzz.json"
    options = ["--inputs", str(INPUTS), "--seed", "1", "--json", output]
    root = str(SCRIPT.parents[2])  # alone: the inputs are checkpoints that torch writes
    done = run_python(SCRIPT, *options, "--built", build_once(TINY).folder, PYTHONPATH=root)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(output.read_text())
    assert len(report["parsers"]) > 20
    for row in report["parsers"]:
        assert row["inputs"] == INPUTS, row
    # Both ways out are taken: inputs are neither all noise nor all whole.
    shares = [row["refused"] / INPUTS for row in report["parsers"]]
    assert sum(0.02 < share < 0.98 for share in shares) > len(shares) / 2


def outcome_of(act: Callable[[int, Path], object], inputs: int = 6) -> sandbox.Outcome:
    """Of a parser that gets the numbers 0, 1... and a folder for its files."""
    numbers = {Random(f"1 test {index}").random(): index for index in range(inputs)}

    def opened(folder: Path) -> sandbox.Parse:
        return lambda number: act(number, folder.with_name("tmp"))

    parser = sandbox.Parser("test", lambda random: numbers[random.random()], opened)
    return sandbox.run(parser, 1, range(inputs))


def at_3(act: Callable[[], object]) -> Callable[[int, Path], object]:
    return lambda number, _: act() if number == 3 else None


def test_right_parsers_have_no_faults() -> None:
    def even(number: int, _: Path) -> None:
        if number % 2:
            raise UserError(f"{number}\x1b[2J is odd")

    outcome = outcome_of(even)
    assert (outcome.inputs, outcome.refused, outcome.faults) == (6, 3, {})


def test_an_exception_is_a_fault() -> None:
    outcome = outcome_of(lambda number, _: [0, 1, 2][number])
    (fault,) = outcome.faults.values()
    assert fault.what.startswith("IndexError") and (fault.index, fault.count) == (3, 3)
    assert outcome.inputs == 6


def test_a_hang_is_a_fault_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "HANG_S", 0.3)
    outcome = outcome_of(at_3(lambda: time.sleep(60)))
    (fault,) = outcome.faults.values()
    assert fault.what == "hang" and fault.index == 3 and __name__ in fault.where
    assert outcome.inputs == 6


def test_memory_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MOST_BYTES", 8 * 2**20)
    outcome = outcome_of(at_3(lambda: len(bytearray(64 * 2**20))))
    (fault,) = outcome.faults.values()
    assert fault.what.startswith("memory") and fault.index == 3
    # So much is never taken from what the process had freed before.
    assert 64 * 2**20 <= outcome.peak_bytes < 128 * 2**20
    # Beyond a wall the allocation itself fails.
    (fault,) = outcome_of(at_3(lambda: bytearray(2**40))).faults.values()
    assert fault.what.startswith("memory")


def test_a_process_that_dies_is_a_fault_and_the_rest_goes_on() -> None:
    for die, word in ((lambda: ctypes.string_at(0), "-11"), (lambda: os._exit(3), "3")):
        outcome = outcome_of(at_3(die))
        (fault,) = outcome.faults.values()
        assert f"exit code {word}" in fault.what and fault.index == 3
        assert outcome.inputs == 6


def test_what_is_left_behind_is_a_fault() -> None:
    kept = []

    def leave(number: int, tmp: Path) -> None:
        (tmp / "left").touch()
        kept.extend((tmp / "left").open() for _ in range(5))  # others may close meanwhile

    faults = outcome_of(leave).faults.values()
    assert {fault.what.split(":")[0] for fault in faults} == {"left behind", "left open"}


def test_a_harmful_warning_is_a_fault() -> None:
    (fault,) = outcome_of(at_3(lambda: print("\x1b[2J", file=sys.stderr))).faults.values()
    assert "control" in fault.what


def test_the_same_seed_makes_the_same_inputs() -> None:
    tree = {"a": [1, 2.5, {"b": "text"}], "c": None, "d": {"e": "f"}}
    for make in (
        lambda random: damage(b"some bytes of an input", random),
        lambda random: to_json(bend(tree, random)),
        lambda random: to_toml(bend(tree, random)),
    ):
        one, two, other = ([make(Random(f"{s} {n}")) for n in range(60)] for s in (1, 1, 2))
        assert one == two != other
        assert len(set(one)) > 30
    assert json.loads(to_json(tree)) == tree
