"""The process of one peer: set up, say the output, then time runs when asked to.

`python serve.py DESCRIPTOR PEER CASE`; process.py holds the other end of the pipe. It imports the
peer's own packages and no other's.
"""

import contextlib
import importlib
import sys
import time
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from case import Case, why
from formats import FORMATS
from runners import PEERS, Run

_TURN_S = 1.0  # a slow peer has fewer runs in its turn
_LEAST_RUNS = 3
_FIRST_RUNS = 4  # TorchScript still compiles in the first three


def serve(connection: Connection, name: str, case: Case) -> None:
    """Answer a number of runs with their times, and 0 with the growth of memory."""
    peer = PEERS[name]
    try:
        for module in peer.modules:
            importlib.import_module(module)
        imports = _peak_bytes()
        run = peer.prepare(case, case.folder / FORMATS[peer.format].file)
        for _ in range(_FIRST_RUNS):
            output = np.array(run())
    except Exception as error:
        connection.send({"failed": why(error)})
        return
    connection.send({"version": version(peer.package), "output": output})
    while True:
        runs = connection.recv()
        if runs:
            connection.send({"times_ms": time_runs(run, runs)})
        else:
            connection.send({"peak_growth_bytes": _peak_bytes() - imports})


def time_runs(run: Run, runs: int, turn_s: float = _TURN_S) -> list[float]:
    """Milliseconds of `runs` runs, or of as many as fit into the turn, and of three at least."""
    end = time.perf_counter() + turn_s
    for number in range(max(2, runs // 5)):  # another peer's data is in the caches
        if number >= 2 and time.perf_counter() > end:
            break
        run()
    times: list[float] = []
    while len(times) < runs and (len(times) < _LEAST_RUNS or time.perf_counter() < end):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _peak_bytes() -> int:
    """VmHWM: unlike ru_maxrss it does not count the parent that started this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    descriptor, name, text = sys.argv[1:]
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is done
        serve(Connection(int(descriptor)), name, Case.from_json(text))
