"""The lines of a tuning log: a kept record, and one measurement.

A line of an earlier version lacks fields that have defaults here; one of a later version may have
more, which are ignored. Whatever else is wrong with a line is a UserError.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import msgspec

from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import Failure, Kind
from mnv2_tvm.kernels import Schedule, schedule_of
from mnv2_tvm.layer import Layer
from mnv2_tvm.records.machine import Machine
from mnv2_tvm.untrusted import convert

_MOST = 2**31 - 1  # elements of a tensor, and any decision

# What may be another's fault than the candidate's: the same candidate is tried again later. A
# timeout is one of them, as an overloaded host lets every candidate come too late.
RETRIED = frozenset(
    {Kind.ERROR, Kind.LINK, Kind.UPLOAD, Kind.REFUSED, Kind.TIMEOUT, Kind.IMPOSSIBLE}
)

_Time = Annotated[float, msgspec.Meta(gt=0)]
_Error = Annotated[float, msgspec.Meta(ge=0)]
_Name = Annotated[str, msgspec.Meta(max_length=200)]
_Decisions = dict[str, Annotated[int, msgspec.Meta(ge=1, le=_MOST)] | _Name]


class _RecordLine(msgspec.Struct):
    layer: _Name
    threads: Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
    schedule: _Decisions | None
    median_us: _Time
    samples_us: list[_Error]
    max_error: _Error
    provenance: dict[_Name, _Name] = {}
    emulated: bool = False
    kernel: _Name | None = None


class _FailureLine(msgspec.Struct):
    kind: str
    message: str
    board: str = ""


class _MeasurementLine(msgspec.Struct):
    layer: _Name
    schedule: _Decisions
    median_us: _Time | None
    max_error: _Error | None
    failure: _FailureLine | str | None
    emulated: bool = False
    provenance: dict[_Name, _Name] = {}
    kernel: _Name | None = None


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
    emulated: bool = False

    @property
    def cpu(self) -> str:
        """The CPU that it was measured on; empty where the log does not tell."""
        return self.provenance.get("cpu", "")

    @property
    def key(self) -> tuple[str, int, str, bool]:
        """A log holds one record of each: every machine keeps its own."""
        return self.layer.name, self.threads, self.cpu, self.emulated

    def to_json(self) -> str:
        """One line."""
        table = asdict(self) | _named(self.layer, self.schedule)
        return json.dumps(table | {"samples_us": list(self.samples_us)})

    @classmethod
    def from_json(cls, table: Any) -> "Record":
        """Raises UserError for what is no record."""
        line = convert(table, _RecordLine, "record")
        layer = _layer(line.layer)
        if line.schedule is None and layer.parts == (layer,):
            raise UserError("only a block can be without a schedule")
        decisions, schedule = line.schedule, None
        if decisions is not None:
            schedule = schedule_of(layer, line.kernel, decisions)
        return cls(
            layer=layer,
            threads=line.threads,
            schedule=schedule,
            median_us=line.median_us,
            samples_us=tuple(line.samples_us),
            max_error=line.max_error,
            provenance=line.provenance,
            emulated=line.emulated,
        )


@dataclass(frozen=True)
class Measurement:
    """One candidate measured alone on a machine; `failure` says why there is no time."""

    layer: Layer
    schedule: Schedule
    median_us: float | None
    max_error: float | None
    failure: Failure | None
    emulated: bool = False
    provenance: dict[str, str] = field(default_factory=dict)  # cpu, date, versions

    @property
    def machine(self) -> Machine:
        """What it was measured on."""
        return Machine.of(self.provenance, self.emulated)

    def to_json(self) -> dict[str, Any]:
        """One line of the log."""
        return asdict(self) | _named(self.layer, self.schedule)

    @classmethod
    def from_json(cls, table: Any) -> "Measurement":
        """Raises UserError for what is no measurement."""
        line = convert(table, _MeasurementLine, "measurement")
        if (line.median_us is None) == (line.failure is None):
            raise UserError("a measurement has either a time or a failure")
        if line.median_us is not None and line.max_error is None:
            raise UserError("a time has an error of the numbers beside it")
        layer = _layer(line.layer)
        return cls(
            layer=layer,
            schedule=schedule_of(layer, line.kernel, line.schedule),
            median_us=line.median_us,
            max_error=line.max_error,
            failure=_failure(line.failure),
            emulated=line.emulated,
            provenance=line.provenance,
        )


def _named(layer: Layer, schedule: Schedule | None) -> dict[str, Any]:
    """Both as they stand in a line, with the kernel whose decisions these are."""
    return {
        "layer": layer.name,
        "kernel": schedule and schedule.kernel(),
        "schedule": schedule and schedule.to_json(),
    }


def _failure(line: _FailureLine | str | None) -> Failure | None:
    if line is None:
        return None
    if isinstance(line, str):  # the form of 0.1.0: KIND: MESSAGE
        kind, _, message = line.partition(": ")
        line = _FailureLine(kind, message) if kind in set(Kind) else _FailureLine(Kind.ERROR, line)
    if line.kind not in set(Kind):  # of a later version
        return Failure(Kind.ERROR, f"{line.kind}: {line.message}", line.board)
    return Failure(Kind(line.kind), line.message, line.board)


def _layer(name: str) -> Layer:
    layer = Layer.parse(name)
    sizes = (layer.batch, layer.height, layer.width, layer.in_channels, layer.hidden_channels)
    if max(*sizes, layer.out_channels) > _MOST or layer.flops > _MOST**2:
        raise UserError(f"{name} is larger than any network's")
    return layer
