"""Tuning logs: nothing is lost, nothing corrupt is used, and what is refused is named."""

import json
import multiprocessing
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.host import this_host
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Measurement, Record
from mnv2_tvm.records.tuning_log import MEASUREMENTS, RECORDS, TuningLog
from mnv2_tvm.target import Target

LAYERS = [
    Layer.of("conv", 1, 32, 32, 3, 16, 2),
    Layer.of("dwconv", 1, 16, 16, 16, 16),
    Layer.of("pwconv", 1, 16, 16, 16, 8, 1, "linear"),
    Layer.of("pwconv", 2, 4, 4, 96, 16, 1, "residual"),
    Layer.of("avgpool", 1, 1, 1, 1280, 1280, 1, "linear"),
]


@pytest.fixture
def avx2() -> Target:
    return Target.load("x86-avx2")


@pytest.fixture
def log(tmp_path: Path, avx2: Target) -> TuningLog:
    """A new log, its folder made."""
    log = TuningLog.of(avx2, tmp_path / "logs")
    log.open_for_writing()
    return log


def record_of(layer: Layer, target: Target, threads: int = 1, point: int = 0) -> Record:
    return Record(
        layer=layer,
        threads=threads,
        schedule=list(search_space(layer, target))[point],
        median_us=12.25,
        samples_us=(11.5, 12.25, 14.0),
        max_error=2.5e-7,
        provenance={"cpu": this_host().cpu, "date": "2024-05-06"},
    )


def line_of(record: Record, **changes: object) -> str:
    """A record's line with some keys changed; `...` removes one."""
    table = json.loads(record.to_json()) | changes
    return json.dumps({key: value for key, value in table.items() if value is not ...})


def test_record_survives_json(avx2: Target) -> None:
    for layer in LAYERS:
        record = record_of(layer, avx2, threads=4, point=-1)
        line = record.to_json()
        assert "\n" not in line
        assert Record.from_json(json.loads(line)) == record


def test_measurements_survive_the_file(log: TuningLog, avx2: Target) -> None:
    kept = []
    for layer in LAYERS:
        schedule = default_schedule(layer, avx2)
        failure = Failure(Kind.TIMEOUT, "late\nsecond")
        kept.append(Measurement(layer, schedule, 3.5, 1e-7, None))
        kept.append(Measurement(layer, schedule, None, None, failure))
    for measurement in kept:
        log.append(measurement)
    assert log.measurements() == kept
    assert len((log.folder / MEASUREMENTS).read_text().splitlines()) == len(kept)


@pytest.mark.parametrize(
    ("median_us", "failure"), [(None, None), (3.5, "and a failure"), (-1.0, None)]
)
def test_a_measurement_has_a_time_or_a_failure(
    avx2: Target, median_us: float | None, failure: str | None
) -> None:
    good = Measurement(LAYERS[0], default_schedule(LAYERS[0], avx2), 3.5, 1e-7, None)
    table = good.to_json() | {"median_us": median_us, "failure": failure}
    with pytest.raises(UserError):
        Measurement.from_json(table)


def corrupt_lines() -> dict[str, str]:
    record = record_of(LAYERS[2], Target.load("x86-avx2"))
    schedule = record.schedule.to_json()
    return {
        "not-json": line_of(record)[:-10],
        "no-object": "[1, 2]",
        "a-number": "12",
        "binary": "\x00\x01\x02",
        "empty-object": "{}",
        "key-missing": line_of(record, max_error=...),
        "layer-unknown": line_of(record, layer="f32-softmax-8x8x8"),
        "layer-no-string": line_of(record, layer=7),
        "schedule-no-object": line_of(record, schedule=[1]),
        "schedule-of-another-kernel": line_of(record, schedule={"tile_c": 8}),
        "decision-bad": line_of(record, schedule=schedule | {"order": "zz"}),
        "decision-zero": line_of(record, schedule=schedule | {"tile_m": 0}),
        "time-string": line_of(record, median_us="12"),
        "time-negative": line_of(record, median_us=-1.0),
        "time-zero": line_of(record, median_us=0),
        "time-nan": line_of(record, median_us=float("nan")),
        "threads-true": line_of(record, threads=True),
        "threads-null": line_of(record, threads=None),
        "samples-number": line_of(record, samples_us=5),
        "samples-null": line_of(record, samples_us=None),
        "provenance-number": line_of(record, provenance=5),
        "provenance-null": line_of(record, provenance=None),
        "time-infinite": line_of(record, median_us=float("inf")),
        "threads-infinite": line_of(record, threads=float("inf")),
        "threads-fraction": line_of(record, threads=1.5),
        "threads-zero": line_of(record, threads=0),
        "samples-strings": line_of(record, samples_us=["a", "b"]),
    }


def test_corrupt_record_is_named_skipped_and_kept(
    log: TuningLog, avx2: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = (record_of(layer, avx2) for layer in LAYERS[:3])
    path = log.folder / RECORDS
    for name, corrupt in corrupt_lines().items():
        path.write_text(f"{first.to_json()}\n{corrupt}\n\n{second.to_json()}\n")
        assert log.records() == [first, second], name
        warnings = capsys.readouterr().err.splitlines()
        assert len(warnings) == 1, name
        assert warnings[0].startswith(f"warning: {path}:2: skipped: "), name
        assert Decisions.load(avx2, 1, log.folder.parent).source(LAYERS[1]) == "tuned", name

        log.keep([third])
        lines = path.read_text().splitlines()
        assert corrupt in lines, name
        assert {json.loads(line)["layer"] for line in lines if line != corrupt} == {
            layer.name for layer in LAYERS[:3]
        }, name
        capsys.readouterr()  # both read the file again


def test_corrupt_measurement_is_named_and_skipped(
    log: TuningLog, avx2: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Measurement(LAYERS[0], default_schedule(LAYERS[0], avx2), 3.5, 1e-7, None)
    log.append(good)
    path = log.folder / MEASUREMENTS
    with path.open("a") as file:
        file.write("{}\n")
    log.append(good)
    assert log.measurements() == [good, good]
    assert capsys.readouterr().err.startswith(f"warning: {path}:2: skipped: ")


def test_appending_to_a_cut_line_keeps_both_apart(
    log: TuningLog, avx2: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    """A crash cuts the last line short; the next one must not be lost with it."""
    schedules = list(search_space(LAYERS[1], avx2))[:3]
    first, second, third = (Measurement(LAYERS[1], s, 3.5, 1e-7, None) for s in schedules)
    log.append(first)
    log.append(second)
    path = log.folder / MEASUREMENTS
    path.write_bytes(path.read_bytes()[:-20])
    log.append(third)
    assert log.measurements() == [first, third]
    assert f"{path}:2: skipped" in capsys.readouterr().err
    assert len(path.read_text().splitlines()) == 3


def test_a_missing_log_is_an_empty_one(tmp_path: Path, avx2: Target) -> None:
    log = TuningLog.of(avx2, tmp_path)
    assert log.records() == []
    assert log.measurements() == []
    assert not log.folder.exists()


def test_kept_records_replace_those_of_their_layer_and_threads(
    log: TuningLog, avx2: Target
) -> None:
    one, two = record_of(LAYERS[2], avx2, 1, 0), record_of(LAYERS[2], avx2, 2, 1)
    other = record_of(LAYERS[1], avx2, 1, 2)
    log.keep([one, two, other])
    better = replace(one, schedule=record_of(LAYERS[2], avx2, 1, 3).schedule, median_us=1.0)
    log.keep([better])
    assert set(map(Record.to_json, log.records())) == {
        record.to_json() for record in (better, two, other)
    }
    names = [(record.layer.name, record.threads) for record in log.records()]
    assert names == sorted(names), "lines have an order of their own: small diffs in git"


def test_keeping_leaves_no_scratch_file(log: TuningLog, avx2: Target) -> None:
    log.keep([record_of(LAYERS[1], avx2)])
    log.keep([record_of(LAYERS[2], avx2)])
    left = {path.name for path in log.folder.iterdir()}
    assert left <= {RECORDS, MEASUREMENTS, f"{RECORDS}.lock"}


def test_decisions_take_exact_threads_then_one(log: TuningLog, avx2: Target) -> None:
    both, single, other = LAYERS[1], LAYERS[2], LAYERS[0]
    records = [
        record_of(both, avx2, 4, 3),
        record_of(both, avx2, 1, 1),
        record_of(both, avx2, 2, 2),
        record_of(single, avx2, 1, 1),
        record_of(other, avx2, 2, 1),
    ]
    # Most threads first: a merge may leave the lines in any order.
    lines = [record.to_json() for record in sorted(records, key=lambda record: -record.threads)]
    (log.folder / RECORDS).write_text("\n".join(lines))
    log_dir = log.folder.parent

    def chosen(threads: int, layer: Layer) -> tuple[object, str]:
        decisions = Decisions.load(avx2, threads, log_dir)
        return decisions(layer), decisions.source(layer)

    assert chosen(1, both) == (records[1].schedule, "tuned")
    assert chosen(2, both) == (records[2].schedule, "tuned")
    assert chosen(4, both) == (records[0].schedule, "tuned")
    assert chosen(3, both) == (records[1].schedule, "tuned")
    assert chosen(4, single) == (records[3].schedule, "tuned")
    assert chosen(2, other) == (records[4].schedule, "tuned")
    assert chosen(1, other) == (default_schedule(other, avx2), "default")
    assert chosen(1, LAYERS[4]) == (default_schedule(LAYERS[4], avx2), "default")


def test_records_of_another_target_are_not_used(log: TuningLog, avx2: Target) -> None:
    log.keep([record_of(LAYERS[1], avx2)])
    other = Target.load("x86-avx512")
    assert Decisions.load(other, 1, log.folder.parent).tuned == {}
    assert Decisions.load(avx2, 1, log.folder.parent).tuned.keys() == {LAYERS[1]}


def test_a_missing_log_dir_is_refused(tmp_path: Path, avx2: Target) -> None:
    with pytest.raises(UserError, match="missing"):
        Decisions.load(avx2, 1, tmp_path / "missing")


def test_an_unwritable_log_dir_is_refused(tmp_path: Path, avx2: Target) -> None:
    """Below a file: no permission is asked of the tests' user, who may be root."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*--log-dir"):
        TuningLog.of(avx2, tmp_path / "file").open_for_writing()


def test_a_log_dir_that_is_a_file_is_refused(tmp_path: Path, avx2: Target) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        Decisions.load(avx2, 1, tmp_path / "file")


KEEPS, WRITERS = 12, 2


def keep_many(log: TuningLog, target: Target, writer: int) -> None:
    """One record at a time, as tuning does; every writer has thread counts of its own."""
    for index in range(KEEPS):
        log.keep([record_of(LAYERS[1], target, threads=1 + writer * KEEPS + index)])
        log.append(
            Measurement(LAYERS[1], default_schedule(LAYERS[1], target), 1.0 + index, 0.0, None)
        )


def keep_in_process(folder: str, writer: int, both: Barrier) -> None:
    target = Target.load("x86-avx2")
    both.wait(60)
    keep_many(TuningLog(Path(folder)), target, writer)


def test_two_processes_that_keep_at_once_lose_nothing(log: TuningLog) -> None:
    context = multiprocessing.get_context("spawn")
    both = context.Barrier(WRITERS)
    other = context.Process(target=keep_in_process, args=(str(log.folder), 1, both))
    other.start()
    keep_in_process(str(log.folder), 0, both)
    other.join(60)
    assert other.exitcode == 0
    threads = {record.threads for record in log.records()}
    assert threads == set(range(1, WRITERS * KEEPS + 1))
    assert len(log.measurements()) == WRITERS * KEEPS
