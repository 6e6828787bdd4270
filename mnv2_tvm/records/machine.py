"""What a time was measured on: times of one machine rank together, those of others only teach."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnv2_tvm.dtype import F32
from mnv2_tvm.host import this_host
from mnv2_tvm.target import Target
from mnv2_tvm.untrusted import printable
from mnv2_tvm.versions import versions

_MOST_GHZ = 100  # far above any clock, as taps in the padding are counted and not computed
_COMPARED = ("mnv2-tvm", "apache-tvm")  # what a kernel's code depends on


@dataclass(frozen=True)
class Machine:
    """A CPU, and the versions that compiled what it ran; empty where a log does not tell."""

    cpu: str = ""
    versions: tuple[str, ...] = ("", "")  # of `_COMPARED`
    emulated: bool = False  # its times say nothing about real hardware

    @classmethod
    def here(cls) -> "Machine":
        """This host, with what is installed."""
        return cls(this_host().cpu, _installed())

    @classmethod
    def of_board(cls, info: Mapping[str, Any]) -> "Machine":
        """A board that told `info` of itself; it runs what is compiled here."""
        return cls(board_cpu(info), _installed(), bool(info["emulated"]))

    @classmethod
    def of(cls, provenance: Mapping[str, str], emulated: bool) -> "Machine":
        """The machine that stands in a line of a log."""
        known = tuple(provenance.get(name, "") for name in _COMPARED)
        return cls(provenance.get("cpu", ""), known, emulated)

    def provenance(self) -> dict[str, str]:
        """The machine as it stands in a line of a log, with today's date."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        return {"cpu": self.cpu, "date": today} | dict(zip(_COMPARED, self.versions, strict=True))

    def __str__(self) -> str:
        return f"{self.cpu}{' (emulated: no time of real hardware)' if self.emulated else ''}"


def board_cpu(info: Mapping[str, Any]) -> str:
    """The CPU that a board tells, as it may stand in a log and on a terminal."""
    return printable(info["cpu"] or "unknown")


def least_us(flops: int, target: Target) -> float:
    """Microseconds in which no machine of the target can do so much work, whatever it says."""
    per_cycle = 2 * target.vector.lanes(F32) * target.vector.fma_per_cycle
    return flops / (per_cycle * _MOST_GHZ * 1e3)


def is_possible(flops: int, median_us: float, target: Target, threads: int = 1) -> bool:
    """Whether a CPU of the target can be done in that time. Never in NaN or infinite ones."""
    return least_us(flops, target) / threads < median_us < float("inf")


def _installed() -> tuple[str, ...]:
    found = versions()
    return tuple(found[name] for name in _COMPARED)
