"""A peer in a process of its own, seen from the one that compares: set up once, then timed."""

import contextlib
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
from case import Case
from conversions import environment

_SCRIPT = Path(__file__).with_name("serve.py")
_DEADLINE_S = 300


class PeerProcess:
    """One peer; `failed` says why there is none, or none any more."""

    def __init__(self, name: str, case: Case, failed: str | None = None) -> None:
        self.name, self.failed = name, failed
        self.version, self.output = "", np.empty(0)
        self._process: subprocess.Popen[bytes] | None = None
        if failed is not None:
            return
        self._connection, theirs = Pipe()
        command = [sys.executable, str(_SCRIPT), str(theirs.fileno()), name, case.to_json()]
        self._process = subprocess.Popen(
            command,
            env=environment(case),
            pass_fds=[theirs.fileno()],
            stdout=subprocess.DEVNULL,  # some peers greet
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        answer = self._receive()
        if self.failed is None:
            self.version, self.output = answer["version"], answer["output"]

    def time(self, runs: int) -> list[float]:
        """Milliseconds of at most `runs` runs, after some that are not counted."""
        result: list[float] = self._ask(runs).get("times_ms", [])
        return result

    def peak_growth_bytes(self) -> int:
        """How much peak resident memory grew beyond what it was after the imports."""
        return int(self._ask(0).get("peak_growth_bytes", 0))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()

    def _ask(self, request: int) -> dict[str, Any]:
        with contextlib.suppress(OSError):  # it is gone: receiving says so
            self._connection.send(request)
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        """The answer; where there is none, `failed` says why and the answer is empty."""
        assert self._process is not None
        answer: dict[str, Any] = {}
        try:
            if self._connection.poll(_DEADLINE_S):
                answer = self._connection.recv()
                self.failed = answer.get("failed")
            else:
                self._process.kill()
                self.failed = f"no answer in {_DEADLINE_S} s"
        except (EOFError, OSError):
            code = self._process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self.failed = f"its process {how}"
        return answer
