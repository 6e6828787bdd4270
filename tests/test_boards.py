"""Tuning and benchmarking on boards: over the tracker, on several at once, and when they fail."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_boards import PATIENCE_S, free_port, wait_for_boards, wait_until

from mnv2_tvm import load
from mnv2_tvm.bench import bench_remotely
from mnv2_tvm.build import build
from mnv2_tvm.device.emulate import LocalBoards
from mnv2_tvm.device.listing import summary
from mnv2_tvm.device.remote_network import RemoteNetwork
from mnv2_tvm.device.session import Address, Session
from mnv2_tvm.device.tracker import Tracker, start_tracker
from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.model import Architecture
from mnv2_tvm.network import SourceNetwork, relative_error
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.search.candidate import Timing
from mnv2_tvm.search.candidate_bench import CandidateBench, Tally
from mnv2_tvm.search.layers import known_layers
from mnv2_tvm.search.records import Decisions, Measurement, TuningLog
from mnv2_tvm.target import Target
from mnv2_tvm.tune import tune

TINY = Architecture(0.35, 32, classes=10)
LAYERS = "f32-dwconv-3x3s1-?x?x*"


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    with start_tracker(port=0) as running:
        yield running


@pytest.fixture(scope="module")
def rasp4(tracker: Tracker) -> Iterator[Address]:
    """An emulated board with the target's name as its key."""
    address = (tracker.host, tracker.port)
    with LocalBoards(Target.load("rasp4"), address, 1):
        wait_for_boards(address, "rasp4")
        yield Address(address, "rasp4")


def test_search_build_bench_and_run_on_an_emulated_board(rasp4: Address, tmp_path: Path) -> None:
    """The whole road: 40 candidates, then the library that `build` writes, uploaded and timed."""
    target = Target.load("rasp4")
    report = tune(
        target,
        TINY,
        trials=10,
        layer=LAYERS,
        log_dir=tmp_path / "logs",
        tracker=rasp4.tracker,
        time_budget_s=500,
    )
    assert report.tally.measured >= 40 and report.tally.failed == 0
    log = TuningLog.of(target, tmp_path / "logs")
    assert all(one.emulated for one in log.measurements())
    assert all("emulated" in record.provenance["cpu"] for record in report.records)

    source = SourceNetwork.make(TINY, None, 3)
    decisions = Decisions.load(target, 1, tmp_path / "logs")
    manifest = build(target, source, tmp_path / "board", decisions=decisions)
    assert manifest.flops_share["tuned"] > 0
    wait_for_boards(rasp4.tracker, rasp4.key)
    result = bench_remotely(tmp_path / "board", source, rasp4, runs=6, warmup=1, per_layer=True)
    assert result.emulated and any("emulated" in warning for warning in result.warnings)
    assert [row.name for row in result.layers] == [row["name"] for row in manifest.layers]
    assert json.loads(result.to_json())["emulated"] is True

    build(Target.load("x86"), source, tmp_path / "here")
    images = source.images(1)
    wait_for_boards(rasp4.tracker, rasp4.key)
    remote = RemoteNetwork(Session(rasp4), tmp_path / "board")
    assert relative_error(remote(images), load(tmp_path / "here")(images)) < 1e-4


def test_emulated_times_stay_out_of_the_shipped_logs(rasp4: Address) -> None:
    wait_for_boards(rasp4.tracker, rasp4.key)
    with pytest.raises(UserError, match=r"rasp4 is emulated.*--log-dir"):
        tune(Target.load("rasp4"), TINY, tracker=rasp4.tracker)


def test_emulated_times_are_not_known_to_a_search_on_hardware(tmp_path: Path) -> None:
    target = Target.load("rasp4")
    layer = Layer.parse("f32-pwconv-4x4x16-96")
    schedule = default_schedule(layer, target)
    log = TuningLog(tmp_path)
    log.append(Measurement(layer, schedule, 1.0, 0.0, None, emulated=True))
    (real,) = known_layers([layer], target, log)
    (emulated,) = known_layers([layer], target, log, emulated=True)
    assert not real.times and list(emulated.times) == [schedule]


def test_wrong_numbers_on_a_board_give_no_times(rasp4: Address, tmp_path: Path) -> None:
    build(Target.load("rasp4"), SourceNetwork.make(TINY, None, 1), tmp_path / "out")
    wait_for_boards(rasp4.tracker, rasp4.key)
    with pytest.raises(UserError, match="wrong numbers"):
        bench_remotely(tmp_path / "out", SourceNetwork.make(TINY, None, 2), rasp4, runs=2)


def test_library_for_another_isa_is_refused(rasp4: Address, tmp_path: Path) -> None:
    source = SourceNetwork.make(TINY, None, 1)
    build(Target.load("x86-avx2"), source, tmp_path / "out")
    wait_for_boards(rasp4.tracker, rasp4.key)
    start = time.monotonic()
    with pytest.raises(UserError, match="x86_64"):
        bench_remotely(tmp_path / "out", source, rasp4, runs=2)
    assert time.monotonic() - start < PATIENCE_S


def test_key_that_nobody_has_names_those_there_are(rasp4: Address) -> None:
    with pytest.raises(UserError, match=r"no board 'rasp5'.*it has rasp4.*emulate --target rasp5"):
        Session(Address(rasp4.tracker, "rasp5"))


def test_tracker_that_is_not_there_is_named() -> None:
    port = free_port()
    with pytest.raises(UserError, match=f"no tracker at 127.0.0.1:{port}"):
        Session(Address(("127.0.0.1", port), "rasp4"))


def test_busy_board_ends_the_wait_at_its_deadline(rasp4: Address) -> None:
    wait_for_boards(rasp4.tracker, rasp4.key)
    held = Session(rasp4)
    with pytest.raises(UserError, match="all boards 'rasp4' are busy since 1 s"):
        Session(rasp4, wait_s=1.0)
    assert held.board


def test_other_versions_on_a_board_are_refused(
    rasp4: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_boards(rasp4.tracker, rasp4.key)
    other = {"apache-tvm": "0.28.0", "apache-tvm-ffi": "0.1.14.post1"}
    monkeypatch.setattr("mnv2_tvm.device.session.versions", lambda: other)
    with pytest.raises(UserError, match=r"apache-tvm 0.27.0.post1, this host 0.28.0.*device kit"):
        Session(rasp4)


def test_a_board_killed_in_mid_search_loses_no_candidate(
    tracker: Tracker, here: Target, tmp_path: Path
) -> None:
    """Two boards; one dies while they measure: every candidate ends with a time all the same."""
    address = (tracker.host, tracker.port)
    log = TuningLog.of(here, tmp_path)
    with LocalBoards(here, address, 1) as doomed, LocalBoards(here, address, 1):
        wait_for_boards(address, here.name, 2)

        def kill() -> None:
            wait_until(lambda: len(log.measurements()) >= 6, "measurements")
            doomed.close()

        killer = threading.Thread(target=kill)
        killer.start()
        report = tune(here, TINY, trials=12, layer=LAYERS, log_dir=tmp_path, tracker=address)
        killer.join()
        assert len(summary(address)[0]) >= 1
    measured = log.measurements()
    assert all(one.median_us is not None for one in measured), [one.failure for one in measured]
    assert report.tally.failed == 0


def test_a_board_with_wrong_numbers_is_found_out(here: Target, tmp_path: Path) -> None:
    """What one board gets wrong and another right is kept as right; the first is dropped."""
    layer = next(layer for layer in Decisions.load(here, 1).tuned if layer.operator == "dwconv")
    schedules = Decisions.load(here, 1)(layer)
    said: list[str] = []

    class Said:
        def line(self, text: str) -> None:
            said.append(text)

    class TwoBoards:
        """The answers of a board that is wrong, then of one that is right."""

        def run(self, function, jobs, timeout_s):  # type: ignore[no-untyped-def]
            for number, job in enumerate(jobs):
                wrong = "bad:1" not in job[-1]
                yield number, Timing(None, 1.0, "bad:1") if wrong else Timing(5.0, 0.0, "good:2")

        def resize(self, size: int) -> None:
            assert size == 2

    class Two(Address):
        def boards(self) -> int:
            return 2

    log, tally = TuningLog(tmp_path), Tally()
    bench = CandidateBench(
        here,
        log,
        tmp_path,
        TwoBoards(),  # type: ignore[arg-type]
        TwoBoards(),  # type: ignore[arg-type]
        tally,
        Said(),  # type: ignore[arg-type]
        Two(("127.0.0.1", 1), here.name),
    )
    job = (layer, schedules, tmp_path / "0.so")
    results = [result for _, result in bench._board_results([job], bench.address)]  # type: ignore[arg-type]
    assert results == [Timing(5.0, 0.0, "good:2")]
    assert bench.wrong_boards == {"bad:1"} and "bad:1 gives wrong numbers" in said[0]
    assert tally.failed == 0
