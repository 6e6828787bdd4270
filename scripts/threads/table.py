"""The times of built libraries with 1 to 64 threads, on CPUs that are free and that are not.

    scripts/thread_table --library out                    one library
    scripts/thread_table --library old new --library old-big new-big --json results.json

Each `--library` takes a folder, or two of the same network to be compared: an old and a new one.
They are measured in alternating rounds, each time in a process of its own. A row is a number of
threads; of each of the situations below there is the median of the rounds' medians, with two
folders also the median of the ratios new / old of each round.

- one CPU: the process may use one
- one of two busy: it may use two, and another process computes on the second of them
- two CPUs: it may use two, and nothing of ours is on them
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnv2_tvm.deploy.loader import library_path
from mnv2_tvm.deploy.manifest import Manifest
from mnv2_tvm.host import this_host

THREADS = (1, 2, 4, 8, 64)
ONE, BUSY, TWO = "one CPU", "one of two busy", "two CPUs"
SITUATIONS = (ONE, BUSY, TWO)
CHILD = Path(__file__).parent / "time_library.py"


@dataclass
class Cell:
    """One network in one situation with one number of threads."""

    network: str
    situation: str
    threads: int
    folders: list[Path]
    medians_ms: list[list[float]] = field(default_factory=list)  # [round, folder]
    means_ms: list[list[float]] = field(default_factory=list)

    def median_ms(self, folder: int) -> float:
        return statistics.median(values[folder] for values in self.medians_ms)

    def ratio(self) -> float:
        """The second folder's time over the first's."""
        return statistics.median(new / old for old, new in self.medians_ms)


@contextmanager
def situation(name: str, cpus: list[int]) -> Iterator[set[int]]:
    """The CPUs that a process may use; one of them may be busy until the end."""
    if name != BUSY:
        yield set(cpus[:1] if name == ONE else cpus)
        return
    busy = subprocess.Popen(
        [sys.executable, "-c", "while True: pass"],
        preexec_fn=lambda: os.sched_setaffinity(0, cpus[1:]),
    )
    try:
        yield set(cpus)
    finally:
        busy.kill()
        busy.wait()


def measure(cell: Cell, cpus: set[int], seconds: float, backwards: bool) -> None:
    """Add a round to a cell: its folders in turn, every other round the other way about."""
    times: dict[int, list[float]] = {}
    order = list(enumerate(cell.folders))
    for index, folder in reversed(order) if backwards else order:
        command = [sys.executable, CHILD, library_path(folder), str(cell.threads), str(seconds)]
        done = subprocess.run(
            command,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            stdout=subprocess.PIPE,
            check=True,
        )
        times[index] = json.loads(done.stdout)
    ordered = [times[index] for index, _ in order]
    cell.medians_ms.append([statistics.median(one) for one in ordered])
    cell.means_ms.append([statistics.fmean(one) for one in ordered])


def network_name(folder: Path) -> str:
    manifest = Manifest.read(folder)
    batch = f", batch {manifest.input_shape[0]}" if manifest.input_shape[0] > 1 else ""
    return f"{manifest.width}-{manifest.resolution}, {manifest.classes} classes{batch}"


def all_cells(libraries: list[list[Path]], wanted: list[int]) -> list[Cell]:
    return [
        Cell(network_name(folders[0]), name, threads, folders)
        for folders in libraries
        for name in SITUATIONS
        for threads in wanted
    ]


def table(cells: list[Cell]) -> str:
    """Markdown: a table for each network."""
    lines = []
    for network in dict.fromkeys(cell.network for cell in cells):
        mine = [cell for cell in cells if cell.network == network]
        pair = len(mine[0].folders) == 2
        titles = [f"{name} (old, new, ratio)" if pair else name for name in SITUATIONS]
        lines += ["", f"{network}: median ms", ""]
        lines += ["| threads | " + " | ".join(titles) + " |", "|---:|" + "---:|" * len(titles)]
        for threads in dict.fromkeys(cell.threads for cell in mine):
            row = [cell for cell in mine if cell.threads == threads]
            lines.append(f"| {threads} | " + " | ".join(map(entry, row)) + " |")
    return "\n".join(lines[1:])


def entry(cell: Cell) -> str:
    values = [f"{cell.median_ms(folder):.3g}" for folder in range(len(cell.folders))]
    return ", ".join([*values, f"{cell.ratio():.3f}"] if len(values) == 2 else values)


def as_json(cells: list[Cell], rounds: int, seconds: float) -> dict[str, Any]:
    host = this_host()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": {"cpu": host.cpu, "cores": host.cores, "load": os.getloadavg()[0]},
        "rounds": rounds,
        "seconds": seconds,
        "cells": [
            {
                "network": cell.network,
                "situation": cell.situation,
                "threads": cell.threads,
                "medians_ms": cell.medians_ms,
                "means_ms": cell.means_ms,
            }
            for cell in cells
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", nargs="+", type=Path, action="append", required=True)
    parser.add_argument("--threads", nargs="+", type=int, default=THREADS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write all rounds here")
    options = parser.parse_args()
    if any(len(folders) > 2 for folders in options.library):
        parser.error("give one folder or two to each --library")
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        parser.error("two CPUs are needed")
    cells = all_cells(options.library, options.threads)
    for turn in range(options.rounds):
        for name in SITUATIONS:
            with situation(name, cpus) as usable:
                for cell in cells:
                    if cell.situation == name:
                        measure(cell, usable, options.seconds, bool(turn % 2))
        print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
    print(table(cells))
    if options.json:
        text = json.dumps(as_json(cells, options.rounds, options.seconds), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
