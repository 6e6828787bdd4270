"""A search that is killed or interrupted: no process is left, and it goes on from the last line."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_search import (
    GLOB,
    SEARCHED,
    SIZE,
    TRIALS,
    assert_nothing_twice,
    lines_of,
    measure_alone,
    parsed,
    trials_of,
)
from without_torch import NO_TORCH

import mnv2_tvm
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.search.candidate_bench import Tally
from mnv2_tvm.target import Target

_PATIENCE_S = 240.0  # for what must happen soon; a loaded machine may take its time


@pytest.fixture
def quit_by_interrupt() -> Iterator[None]:
    """Ctrl-C must reach the children even where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass
class Session:
    """`python -m mnv2_tvm.tune` as the leader of a session, as a terminal would start it."""

    process: "subprocess.Popen[bytes]"
    scratch: Path
    output: Path

    @classmethod
    def start(cls, target: Target, log_dir: Path, tmp_path: Path) -> "Session":
        scratch, output = tmp_path / "scratch", tmp_path / "output"
        scratch.mkdir()
        command = [sys.executable, "-m", "mnv2_tvm.tune", "--target", target.name, *SIZE]
        options = ["--layer", GLOB, "--trials", str(TRIALS), "--log-dir", str(log_dir)]
        package = os.pathsep.join([NO_TORCH, str(Path(mnv2_tvm.__file__).parents[1])])
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [*command, *options],
                env={**os.environ, "PYTHONPATH": package, "TMPDIR": str(scratch)},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        return cls(process, scratch, output)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.02)

    def kill(self, number: signal.Signals) -> int:
        """Signal all processes of the session, as a terminal does; the exit code of the leader."""
        os.killpg(self.process.pid, number)
        return self.process.wait(_PATIENCE_S)

    def living(self) -> list[str]:
        """Command lines of the session's processes that are not over."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def assert_empty(self) -> None:
        """No process is left; helpers of Python and of the linker may take a moment to end."""
        deadline = time.monotonic() + 20
        while left := self.living():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


@dataclass(frozen=True)
class Resumed:
    """A search that was killed, and went on to the end of its first pass."""

    log_dir: Path
    kept: list[str]  # lines of the log when it was killed
    tally: Tally


@pytest.fixture(scope="module")
def resumed(here: Target, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    """Do not change its logs: copy the folder."""
    folder = tmp_path_factory.mktemp("killed")
    log = TuningLog.of(here, folder / "logs")
    session = Session.start(here, folder / "logs", folder)
    session.wait_for(lambda: len(lines_of(log)) >= 4)
    assert session.kill(signal.SIGKILL) == -signal.SIGKILL
    session.assert_empty()
    kept = [line for line in lines_of(log) if line.endswith("\n")]
    assert 4 <= len(kept) < trials_of(here, TRIALS).total()
    assert_nothing_twice(parsed(kept))
    assert log.records() == []
    tally = measure_alone(SEARCHED, here, log, TRIALS)
    return Resumed(folder / "logs", kept, tally)


def test_killed_search_goes_on(here: Target, resumed: Resumed) -> None:
    log = TuningLog.of(here, resumed.log_dir)
    assert lines_of(log)[: len(resumed.kept)] == resumed.kept
    measurements = log.measurements()
    assert_nothing_twice(measurements)
    assert Counter(m.layer for m in measurements) == trials_of(here, TRIALS)
    assert resumed.tally.measured == len(measurements) - len(resumed.kept)


@pytest.mark.parametrize("when", ["children start", "candidates", "network"])
@pytest.mark.usefixtures("quit_by_interrupt")
def test_interrupted_search_keeps_its_measurements(
    here: Target, resumed: Resumed, tmp_path: Path, when: str
) -> None:
    log_dir = tmp_path / "logs"
    log = TuningLog.of(here, log_dir)
    if when == "network":  # all candidates are known, so it starts with the last pass
        shutil.copytree(resumed.log_dir, log_dir)
    session = Session.start(here, log_dir, tmp_path)
    conditions: dict[str, Callable[[], bool]] = {
        "children start": lambda: len(session.living()) >= 3,
        "candidates": lambda: len(lines_of(log)) >= 2,
        "network": lambda: any(session.scratch.glob("mnv2-*/variants/0")),
    }
    session.wait_for(conditions[when])
    assert session.kill(signal.SIGINT) == 130
    session.assert_empty()
    output = session.output.read_text()
    assert "Traceback" not in output
    assert "KeyboardInterrupt" not in output
    assert not list(session.scratch.iterdir())
    lines = lines_of(log)
    assert all(line.endswith("\n") for line in lines)
    assert_nothing_twice(parsed(lines))
    if when != "children start":
        assert len(lines) >= 2
