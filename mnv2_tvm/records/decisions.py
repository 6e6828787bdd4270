"""Which schedule a layer gets: the tuned one of a record, else the default of the facts."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mnv2_tvm.data import own_logs, shipped_logs
from mnv2_tvm.errors import UserError
from mnv2_tvm.host import this_host
from mnv2_tvm.kernels import Schedule, default_schedule, kernels_for
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.layer import Layer
from mnv2_tvm.records.entries import Record
from mnv2_tvm.records.json_lines import warn
from mnv2_tvm.records.machine import is_possible
from mnv2_tvm.records.tuning_log import RECORDS, TuningLog
from mnv2_tvm.target import Target
from mnv2_tvm.untrusted import printable

SOURCES = TUNED, TUNED_ELSEWHERE, DEFAULT = "tuned", "tuned elsewhere", "default"  # of schedules
_BUSY = 0.75  # share of the threads' time that a record for one thread must keep


@dataclass(frozen=True)
class Decisions:
    """Which schedule a layer gets: the tuned one, else the default of the machine's facts.

    None for a block that is to be done layer by layer: as its record says or, without one, if a
    layer of it was tuned by itself or the facts are against it.
    """

    target: Target
    tuned: Mapping[Layer, Schedule | None]
    records: Mapping[Layer, Record] = field(default_factory=dict)  # where `tuned` comes from
    files: Mapping[Layer, Path] = field(default_factory=dict)  # in which these stand
    cpu: str = ""  # whose records come first

    @classmethod
    def load(
        cls, target: Target, threads: int, log_dir: Path | None = None, cpu: str | None = None
    ) -> "Decisions":
        """From the records of `cpu`, by default this host's, else from those of another CPU.

        Of one CPU those for `threads` come first, then those for one thread where they split: a
        strip as high as the image is good for one thread and leaves others nothing to do. Of equal
        ones the user's own come before the shipped ones; with `log_dir` there are only those in it.
        Raises UserError for less than one thread, and where there is no folder `log_dir`.
        """
        if threads < 1:
            raise UserError(f"{threads} threads: give 1 to 64")
        if log_dir is not None and not log_dir.is_dir():
            raise UserError(f"{log_dir} is not a folder of tuning logs")
        cpu = this_host().cpu if cpu is None else cpu

        def rank(found: tuple[int, Record, Path]) -> tuple[bool, bool, bool, int, str, float]:
            """The higher the better. Times of two CPUs do not compare; the later record wins."""
            place, record, _ = found
            here = (record.cpu == cpu, not record.emulated, record.threads == threads, place)
            return (*here, record.provenance.get("date", ""), -record.median_us)

        chosen: dict[Layer, Record] = {}
        files: dict[Layer, Path] = {}
        for _, record, path in sorted(_located_records(target, log_dir), key=rank):
            if record.threads not in (1, threads):
                continue
            if record.threads != threads and _busy_share(record, threads) < _BUSY:
                continue
            if why := _unusable(record, target):
                warn(f"{path}: the record of {record.layer.name} {why}")
            else:
                chosen[record.layer], files[record.layer] = record, path
        return cls(target, {layer: r.schedule for layer, r in chosen.items()}, chosen, files, cpu)

    def __call__(self, layer: Layer) -> Schedule | None:
        if layer in self.tuned:
            return self.tuned[layer]
        if layer.parts != (layer,):
            tuned_apart = any(part in self.tuned for part in layer.parts)
            kernels = kernels_for(layer, self.target)
            if tuned_apart or not kernels or not kernels[0].worthwhile(layer, self.target):
                return None
        return default_schedule(layer, self.target)

    def schedule(self, layer: Layer) -> Schedule:
        """The schedule of a layer that has one."""
        schedule = self(layer)
        assert schedule is not None, layer.name
        return schedule

    def source(self, layer: Layer) -> str:
        """`tuned` on this CPU, `tuned elsewhere`, on another one or an emulated one, or `default`.

        For a target that this host cannot run, all its records are from elsewhere.
        """
        if layer not in self.tuned:
            return DEFAULT
        record = self.records.get(layer)  # there is none for what a search tries
        here = record is None or (record.cpu == self.cpu and not record.emulated)
        return TUNED if here else TUNED_ELSEWHERE

    def told(self, names: Iterable[str]) -> str:
        """How many layers of these names have records in which file; empty where none has."""
        layers = map(Layer.parse, names)
        counts = Counter(self.files[layer] for layer in layers if layer in self.files)
        return ", ".join(
            f"{count} in {printable(path, limit=4000)}" for path, count in counts.items()
        )


def _located_records(target: Target, log_dir: Path | None) -> list[tuple[int, Record, Path]]:
    """All records and their files; before these 0 for shipped records, 1 for the user's own."""
    found: list[tuple[int, Record, Path]] = []
    for place, folder in enumerate([shipped_logs(), own_logs()] if log_dir is None else [log_dir]):
        if folder is None:
            continue
        log = TuningLog.of(target, folder)
        try:
            found += [(place, record, log.folder / RECORDS) for record in log.records()]
        except UserError as error:
            if place == 0:
                raise
            # Nobody asked for them, and HOME may be another user's.
            warn(f"{error}; the shipped records are used")
    return found


def _busy_share(record: Record, threads: int) -> float:
    """How much of their time the threads work if they share the tasks of a kernel evenly."""
    if record.schedule is None:
        return 1.0
    tasks = record.schedule.tasks(record.layer)
    return tasks / (threads * -(-tasks // threads))


def _unusable(record: Record, target: Target) -> str | None:
    """Why no search of today could have found the record; None for a sound one."""
    if not is_possible(record.layer.flops, record.median_us, target, record.threads):
        return (
            f"says {record.median_us:g} us, less than any CPU of {target.name} can take; tune the "
            "layer again"
        )
    if record.schedule is None or record.schedule in search_space(record.layer, target):
        return None
    return (
        f"is stale: {printable(record.schedule)} is outside today's search space; tune the layer "
        "again"
    )
