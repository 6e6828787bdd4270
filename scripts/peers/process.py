"""A peer in a process of its own: set up once, then timed in rounds when it is its turn."""

import importlib
import multiprocessing
import time
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from runners import PEERS, Case


class PeerProcess:
    """One peer; `failed` says why there is none."""

    def __init__(self, name: str, case: Case) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, case), daemon=True)
        self._process.start()
        theirs.close()
        answer = self._receive()
        self.failed: str | None = answer.get("failed")
        self.version: str = answer.get("version", "")
        self.output: np.ndarray | None = answer.get("output")

    def time(self, runs: int) -> list[float]:
        """Milliseconds of `runs` runs, after some that are not counted."""
        self._connection.send(runs)
        result: list[float] = self._receive()["times_ms"]
        return result

    def peak_growth_bytes(self) -> int:
        """How much peak resident memory grew beyond what it was after the imports."""
        self._connection.send(0)
        return int(self._receive()["peak_growth_bytes"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _receive(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._connection.recv()
            return answer
        except EOFError:
            self._process.join()
            return {"failed": f"the process ended with exit code {self._process.exitcode}"}


def _serve(connection: Any, name: str, case: Case) -> None:
    """The child: set up, say the output, then time whenever a number of runs comes in."""
    warnings.simplefilter("ignore")
    peer = PEERS[name]
    try:
        for module in peer.modules:
            importlib.import_module(module)
        imports = _peak_bytes()
        run = peer.prepare(case)
        output = np.array(run())
    except ImportError as error:
        connection.send({"failed": f"not installed: {error}"})
        return
    except Exception:
        connection.send({"failed": traceback.format_exc(limit=-1)})
        return
    connection.send({"version": version(peer.package), "output": output})
    while True:
        try:
            runs = connection.recv()
        except EOFError:
            return
        if runs:
            connection.send({"times_ms": _time(run, runs)})
        else:
            connection.send({"peak_growth_bytes": _peak_bytes() - imports})


def _time(run: Any, runs: int) -> list[float]:
    for _ in range(max(2, runs // 5)):  # another peer's data is in the caches
        run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _peak_bytes() -> int:
    """VmHWM: unlike ru_maxrss it does not count the parent that started this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
