"""Tuning logs of a target: `tuning_logs/TARGET/`.

`records.jsonl` is small and committed: the kept decisions, one line a layer and thread count,
with the time they took inside the network and where they come from. `measurements.jsonl` is
every candidate ever measured there; it stays on the machine, and a later search learns from it.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnv2_tvm.data import data_folder
from mnv2_tvm.errors import UserError
from mnv2_tvm.kernels import Schedule, schedule_class
from mnv2_tvm.layer import Layer
from mnv2_tvm.search.json_lines import append_line, read_lines, replace_lines
from mnv2_tvm.target import Target

RECORDS, MEASUREMENTS = "records.jsonl", "measurements.jsonl"
_BUSY = 0.75  # share of the threads' time that a record for one thread must keep


@dataclass(frozen=True)
class Record:
    """The kept schedule of a layer, or None for a block that is faster layer by layer."""

    layer: Layer
    threads: int
    schedule: Schedule | None
    median_us: float  # inside the whole network, caches as they are there
    samples_us: tuple[float, ...]  # 10th, 50th and 90th percentile
    max_error: float  # largest error over largest reference value, when measured alone
    provenance: dict[str, str] = field(default_factory=dict)  # cpu, date, versions

    def to_json(self) -> str:
        """One line."""
        table = asdict(self) | {
            "layer": self.layer.name,
            "schedule": self.schedule and self.schedule.to_json(),
            "samples_us": list(self.samples_us),
        }
        return json.dumps(table)

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> "Record":
        """Raises UserError for a line that is no record of this version."""
        layer, schedule = _layer_and_schedule(table, {field.name for field in fields(cls)})
        if schedule is None and layer.parts == (layer,):
            raise UserError("only a block can be without a schedule")
        return cls(
            layer=layer,
            threads=_number(table, "threads", int),
            schedule=schedule,
            median_us=_number(table, "median_us", float),
            samples_us=_samples(table["samples_us"]),
            max_error=_number(table, "max_error", float),
            provenance=_provenance(table["provenance"]),
        )


@dataclass(frozen=True)
class Measurement:
    """One candidate measured alone on the device; `failure` says why there is no time."""

    layer: Layer
    schedule: Schedule
    median_us: float | None
    max_error: float | None
    failure: str | None
    emulated: bool = False  # measured on an emulated board: no time of real hardware

    def to_json(self) -> dict[str, Any]:
        """One line of the log."""
        return asdict(self) | {"layer": self.layer.name, "schedule": self.schedule.to_json()}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> "Measurement":
        """Raises UserError for a line that is no measurement of this version."""
        layer, schedule = _layer_and_schedule(table, {field.name for field in fields(cls)})
        if schedule is None:
            raise UserError("the schedule is not an object")
        time, error = table["median_us"], table["max_error"]
        if (time is None) == (table["failure"] is None):
            raise UserError("a measurement has either a time or a failure")
        if time is not None:
            time, error = _number(table, "median_us", float), _number(table, "max_error", float)
        return cls(layer, schedule, time, error, table["failure"], table["emulated"] is True)


@dataclass(frozen=True)
class TuningLog:
    """The folder of one target's logs."""

    folder: Path

    @classmethod
    def of(cls, target: Target, log_dir: Path | None = None) -> "TuningLog":
        """In `log_dir/TARGET`, by default in the shipped `tuning_logs/TARGET`."""
        return cls((log_dir or data_folder("tuning_logs")) / target.name)

    def open_for_writing(self) -> None:
        """Make the folder. Raises UserError where it cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / MEASUREMENTS).open("ab"):
                pass
        except OSError as error:
            raise UserError(
                f"cannot write tuning logs to {self.folder}: {error.strerror}; give --log-dir DIR"
            ) from error

    def records(self) -> list[Record]:
        """All kept records; corrupt lines are named on stderr and skipped."""
        return read_lines(self.folder / RECORDS, Record.from_json)[0]

    def keep(self, records: Iterable[Record]) -> None:
        """Replace the records of the same layers and thread counts, in one step."""
        path = self.folder / RECORDS
        with FileLock(f"{path}.lock"):
            old, corrupt = read_lines(path, Record.from_json)
            kept = {(record.layer.name, record.threads): record for record in old}
            kept |= {(record.layer.name, record.threads): record for record in records}
            lines = [kept[key].to_json() for key in sorted(kept)]
            replace_lines(path, [*lines, *corrupt])

    def measurements(self) -> list[Measurement]:
        """Every measurement in the log; corrupt lines are named on stderr and skipped."""
        return read_lines(self.folder / MEASUREMENTS, Measurement.from_json)[0]

    def append(self, measurement: Measurement) -> None:
        """Add one measurement at once."""
        with FileLock(f"{self.folder / MEASUREMENTS}.lock"):
            append_line(self.folder / MEASUREMENTS, measurement.to_json())


@dataclass(frozen=True)
class Decisions:
    """Which schedule a layer gets: the tuned one, else the default of the machine's facts.

    None for a block that is to be done layer by layer: as its record says or, without one, if a
    layer of it was tuned by itself or the facts are against it.
    """

    target: Target
    tuned: Mapping[Layer, Schedule | None]

    @classmethod
    def load(cls, target: Target, threads: int, log_dir: Path | None = None) -> "Decisions":
        """From the records for `threads`; those for one thread where there is none and they split.

        A strip as high as the image is good for one thread and leaves others nothing to do.
        Raises UserError for less than one thread, and where there is no folder `log_dir`.
        """
        if threads < 1:
            raise UserError(f"{threads} threads: give 1 to 64")
        if log_dir is not None and not log_dir.is_dir():
            raise UserError(f"{log_dir} is not a folder of tuning logs")
        log = TuningLog.of(target, log_dir)
        records = [
            record
            for record in log.records()
            if record.threads in (1, threads) and _fits(record, target, log)
            if record.threads == threads or _busy_share(record, threads) >= _BUSY
        ]
        records.sort(key=lambda record: record.threads == threads)
        return cls(target, {record.layer: record.schedule for record in records})

    def __call__(self, layer: Layer) -> Schedule | None:
        if layer in self.tuned:
            return self.tuned[layer]
        kernel = schedule_class(layer)
        tuned_apart = layer.parts != (layer,) and any(part in self.tuned for part in layer.parts)
        if tuned_apart or not kernel.worthwhile(layer, self.target):
            return None
        return kernel.default(layer, self.target)

    def schedule(self, layer: Layer) -> Schedule:
        """The schedule of a layer that has one."""
        schedule = self(layer)
        assert schedule is not None, layer.name
        return schedule

    def source(self, layer: Layer) -> str:
        """`tuned` or `default`."""
        return "tuned" if layer in self.tuned else "default"


def _busy_share(record: Record, threads: int) -> float:
    """How much of their time the threads work if they share the tasks of a kernel evenly."""
    if record.schedule is None:
        return 1.0
    tasks = record.schedule.tasks(record.layer)
    return tasks / (threads * -(-tasks // threads))


def _fits(record: Record, target: Target, log: TuningLog) -> bool:
    """Whether the schedule is one that a search could have found; says so if not."""
    if record.schedule is None:
        return True
    if record.schedule in schedule_class(record.layer).space(record.layer, target):
        return True
    print(
        f"warning: {log.folder / RECORDS}: the record of {record.layer.name} is stale: "
        f"{record.schedule} is outside today's search space; tune the layer again",
        file=sys.stderr,
    )
    return False


def _layer_and_schedule(table: dict[str, Any], keys: set[str]) -> tuple[Layer, Schedule | None]:
    if table.keys() != keys:
        raise UserError(f"keys {sorted(table)} are not {sorted(keys)}")
    layer = Layer.parse(str(table["layer"]))
    if table["schedule"] is None:
        return layer, None
    if not isinstance(table["schedule"], dict):
        raise UserError("the schedule is not an object")
    return layer, schedule_class(layer).from_json(table["schedule"])


def _number(table: dict[str, Any], key: str, kind: type) -> Any:
    """A time or error (float, 0 or more) or a count (int, 1 or more)."""
    value = table[key]
    if kind is int and not (type(value) is int and value >= 1):
        raise UserError(f"{key} = {value!r} is not a count")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        raise UserError(f"{key} = {value!r} is not a number of 0 or more")
    return kind(value)


def _samples(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list):
        raise UserError(f"samples_us = {values!r} is not a list")
    return tuple(_number({"samples_us": value}, "samples_us", float) for value in values)


def _provenance(table: Any) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise UserError(f"provenance = {table!r} is not an object of strings")
    return table
