"""Logs from anywhere: what is wrong is named and skipped, and a full disk loses nothing."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_search import SEARCHED, space_of, timed

from mnv2_tvm.data import own_logs, written_logs
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Measurement, Record
from mnv2_tvm.records.json_lines import _MOST_NAMED
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.records.tuning_log import MEASUREMENTS, RECORDS, TuningLog
from mnv2_tvm.target import Target

LAYER = next(layer for layer in sorted(SEARCHED, key=str) if layer.operator == "pwconv")


@pytest.fixture
def log(here: Target, tmp_path: Path) -> TuningLog:
    log = TuningLog.of(here, tmp_path / "logs")
    log.open_for_writing()
    return log


def hostile(good: dict[str, Any]) -> dict[str, bytes]:
    """Lines that no log has; those with a name of `good` differ in that value alone."""

    def line(**changes: object) -> bytes:
        return json.dumps(good | changes).encode()

    schedule = good["schedule"]
    nested = b'{"layer": ' + b"[" * 20000 + b"]" * 20000 + b"}"
    return {
        "failure": line(failure=7, median_us=None),
        "digits": line().replace(b'"max_error": 0.0', b'"max_error": ' + b"9" * 5000),
        "tile of many digits": line(schedule=schedule | {"tile_m": 10**30}),
        "tile beyond 32 bits": line(schedule=schedule | {"tile_m": 2**31}),
        "tile of text": line(schedule=schedule | {"tile_m": "8"}),
        "layer of many digits": line(layer="f32-pwconv-1x1x" + "9" * 5000 + "-8"),
        "layer of many": line(layer="f32-pwconv-1x1x" + "9" * 60 + "-8"),
        "deep": nested,
        "huge": line(provenance={"cpu": "x" * 2**17}),
        "control": b'{"layer": "\x1b]52;c;x\x07"}',
        "latin-1": line(provenance={"cpu": "?"}).replace(b"?", b"\xe9"),
        "infinite": line().replace(b'"max_error": 0.0', b'"max_error": 1e999'),
        "provenance": line(provenance={"cpu": 7}),
        "neither": line(median_us=None, failure=None),
        "cut": line()[:-9],
    }


def test_hostile_lines_are_named_and_the_rest_goes_on(
    here: Target, log: TuningLog, capsys: pytest.CaptureFixture[str]
) -> None:
    good = timed(LAYER, space_of(LAYER, here)[0], 99.0)
    for name, raw in hostile(good.to_json()).items():
        path = log.folder / MEASUREMENTS
        whole = json.dumps(good.to_json()).encode()
        path.write_bytes(b"\xef\xbb\xbf" + whole + b"\r\n" + raw + b"\n\n" + whole + b"\n \n")
        assert log.measurements() == [good, good], name
        (warning,) = capsys.readouterr().err.splitlines()
        assert warning.startswith(f"warning: {path}:2: skipped: "), name
        assert len(warning) < 1000 and warning.isprintable(), name


def test_many_bad_lines_are_counted(log: TuningLog, capsys: pytest.CaptureFixture[str]) -> None:
    (log.folder / MEASUREMENTS).write_text("{}\n" * 500)
    assert log.measurements() == []
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == _MOST_NAMED + 1 and str(500 - _MOST_NAMED) in warnings[-1]


def test_a_pipe_is_no_log(log: TuningLog) -> None:
    os.mkfifo(log.folder / RECORDS)
    with pytest.raises(UserError, match=RECORDS):
        log.records()


def test_lines_of_0_1_0_are_read(here: Target, log: TuningLog) -> None:
    """They tell no machine, and a failure is a text that starts with its kind."""
    table = timed(LAYER, space_of(LAYER, here)[0], 99.0).to_json()
    del table["provenance"]
    assert Measurement.from_json(table).machine == Machine()
    for text, kind in (("timeout: no answer", Kind.TIMEOUT), ("odd", Kind.ERROR)):
        failed = Measurement.from_json(table | {"median_us": None, "failure": text})
        assert failed.failure == Failure(kind, "no answer" if kind is Kind.TIMEOUT else "odd")


def test_fields_of_a_later_version_are_ignored_and_kept(here: Target, log: TuningLog) -> None:
    points = space_of(LAYER, here)
    records = [
        Record(LAYER, threads, points[0], 99.0, (98.0, 99.0, 99.5), 0.0, {"cpu": "c"})
        for threads in (1, 2)
    ]
    later = json.dumps(json.loads(records[0].to_json()) | {"clock_mhz": 1500})
    (log.folder / RECORDS).write_text(later + "\n")
    assert log.records() == records[:1]
    log.keep(records[1:])
    assert (log.folder / RECORDS).read_text().splitlines()[0] == later
    failed = timed(LAYER, points[0], 99.0).to_json() | {
        "median_us": None,
        "failure": {"kind": "melted", "message": "hot", "board": "b", "degrees": 200},
    }
    assert Measurement.from_json(failed).failure == Failure(Kind.ERROR, "melted: hot", "b")


@contextmanager
def full_disk(bytes_left: int, path: Path) -> Iterator[None]:
    """As much as one may still write into `path`; Python ignores the signal."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.stat().st_size if path.exists() else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + bytes_left, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_loses_nothing(here: Target, log: TuningLog) -> None:
    good = timed(LAYER, space_of(LAYER, here)[0], 99.0)
    record = Record(LAYER, 1, good.schedule, 99.0, (98.0, 99.0, 99.5), 0.0, {"cpu": "c"})
    log.append(good)
    log.keep([record])
    files = [log.folder / name for name in (MEASUREMENTS, RECORDS)]
    before = [path.read_bytes() for path in files]
    for path, write in zip(
        files,
        (lambda: log.append(good), lambda: log.keep([record, Record(LAYER, 2, None, 1, (), 0)])),
        strict=True,
    ):
        with full_disk(20, path), pytest.raises(UserError, match="cannot write to") as error:
            write()
        assert str(path) in str(error.value)
    assert [path.read_bytes() for path in files] == before
    log.append(good)
    assert log.measurements() == [good, good] and log.records() == [record]


@pytest.fixture
def shipped(here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TuningLog:
    """The log that an installed package carries, with a user who has a home folder."""
    monkeypatch.setattr("mnv2_tvm.data._PACKAGE", tmp_path / "site" / "mnv2_tvm")
    logs = tmp_path / "site" / "mnv2_tvm" / "tuning_logs"
    logs.mkdir(parents=True)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return TuningLog.of(here, logs)


def test_what_a_user_tunes_comes_before_what_is_shipped(
    shipped: TuningLog, here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "home" / ".local" / "share" / "mnv2_tvm" / "tuning_logs"
    points = space_of(LAYER, here)
    cpu = {"cpu": Machine.here().cpu}
    theirs, mine, stale = (
        Record(LAYER, 1, point, 99.0, (98.0, 99.0), 0.0, cpu | {"date": date})
        for point, date in zip(points[:3], ("2026-01-03", "2026-01-02", "2026-01-01"), strict=True)
    )
    stale = replace(stale, median_us=1e-9)  # no CPU is that fast
    shipped.open_for_writing()
    shipped.keep([theirs])
    before = {path: path.read_bytes() for path in shipped.folder.iterdir()}
    decisions = Decisions.load(here, 1)
    assert decisions.records == {LAYER: theirs}
    assert decisions.told([LAYER.name] * 2) == f"2 in {shipped.folder / RECORDS}"
    log = TuningLog.to_write(here)
    assert log.folder == own / here.name
    for record, chosen, folder in ((stale, theirs, shipped.folder), (mine, mine, log.folder)):
        log.keep([record])
        decisions = Decisions.load(here, 1)
        assert (decisions.records, decisions.files) == ({LAYER: chosen}, {LAYER: folder / RECORDS})
    assert {path: path.read_bytes() for path in shipped.folder.iterdir()} == before
    assert Decisions.load(here, 1, shipped.folder.parent).records == {LAYER: theirs}


def test_where_a_user_has_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert written_logs() == own_logs() == tmp_path / "data" / "mnv2_tvm" / "tuning_logs"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "data")  # not absolute: the specification ignores it
    assert written_logs() == tmp_path / ".local" / "share" / "mnv2_tvm" / "tuning_logs"


def test_a_home_is_needed_for_writing_only(
    shipped: TuningLog,
    here: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """None, one that is a file, and one in which the records cannot be read."""
    record = Record(LAYER, 1, space_of(LAYER, here)[0], 99.0, (98.0, 99.0), 0.0, {"cpu": "c"})
    shipped.open_for_writing()
    shipped.keep([record])
    (tmp_path / "file").touch()
    for home in ("", str(tmp_path / "file")):
        monkeypatch.setenv("HOME", home)
        assert Decisions.load(here, 1).records == {LAYER: record}
        with pytest.raises(UserError, match="--log-dir"):
            TuningLog.to_write(here)
        assert capsys.readouterr().err == ""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = TuningLog.to_write(here).folder / RECORDS
    path.mkdir()
    assert Decisions.load(here, 1).records == {LAYER: record}
    assert f"{path} is not an ordinary file" in capsys.readouterr().err
