"""Tuning logs of a target: `TARGET/` in the user's data folder, in `tuning_logs/`, or elsewhere.

`records.jsonl` is small: the kept decisions, one line a layer, thread count and CPU, with the time
they took inside the network and where they come from. Those in `tuning_logs/` are committed and
shipped. `measurements.jsonl` is every candidate ever measured there; it stays on the machine, and a
later search learns from it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mnv2_tvm.data import written_logs
from mnv2_tvm.errors import UserError
from mnv2_tvm.records.entries import Measurement, Record
from mnv2_tvm.records.json_lines import Line, append_line, locked, read_lines, replace_lines
from mnv2_tvm.target import Target

RECORDS, MEASUREMENTS = "records.jsonl", "measurements.jsonl"


@dataclass(frozen=True)
class TuningLog:
    """The folder of one target's logs."""

    folder: Path

    @classmethod
    def of(cls, target: Target, log_dir: Path) -> "TuningLog":
        """That in `log_dir`."""
        return cls(log_dir / target.name)

    @classmethod
    def to_write(cls, target: Target, log_dir: Path | None = None) -> "TuningLog":
        """In `log_dir`, by default in the user's data folder; the target's folder there is made.

        Raises UserError where it cannot be written to.
        """
        log = cls.of(target, log_dir or written_logs())
        log.open_for_writing()
        return log

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
        lines = read_lines(self.folder / RECORDS, Record.from_json)
        return list({line.value.key: line.value for line in lines if line.value}.values())

    def keep(self, records: Iterable[Record]) -> None:
        """Replace the records of the same layers, thread counts and CPUs, in one step.

        All other lines stay as they are. Raises UserError where that fails; then all do.
        """
        path = self.folder / RECORDS
        with locked(path):
            lines: list[Line[Record]] = read_lines(path, Record.from_json)
            kept = {line.value.key: line.raw for line in lines if line.value}
            kept |= {record.key: record.to_json().encode() for record in records}
            corrupt = [line.raw for line in lines if line.value is None]
            replace_lines(path, [*(kept[key] for key in sorted(kept)), *corrupt])

    def measurements(self) -> list[Measurement]:
        """Every measurement in the log; corrupt lines are named on stderr and skipped."""
        lines = read_lines(self.folder / MEASUREMENTS, Measurement.from_json)
        return [line.value for line in lines if line.value]

    def append(self, measurement: Measurement) -> None:
        """Add one measurement at once. Raises UserError where that fails."""
        append_line(self.folder / MEASUREMENTS, measurement.to_json())
