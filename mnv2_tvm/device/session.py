"""A session with one board: asked for, checked, and dropped, with a deadline on every step.

It hides TVM's own session, which waits for ever for a key that nobody has, does not compare
versions, and stays open while any handle lives. Sessions live in worker processes
(`device/workers.py`): a deadline missed there costs the worker, and with it every handle.
"""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv2_tvm.device.listing import BOARD_INFO, summary
from mnv2_tvm.device.tracker import ask, connect
from mnv2_tvm.errors import UserError
from mnv2_tvm.versions import versions

_SOON_S = 10.0  # a board whose session was lost is back within a second or two
_COMPARED = ("apache-tvm", "apache-tvm-ffi")


@dataclass(frozen=True)
class Address:
    """Which boards: those registered at the tracker under the key."""

    tracker: tuple[str, int]
    key: str

    def boards(self) -> int:
        """How many are registered, free or busy. Raises UserError, with the keys there are."""
        registered, _ = summary(self.tracker)
        count = sum(board.key == self.key for board in registered)
        if not count:
            raise UserError(_no_board(self, sorted({board.key for board in registered})))
        return count


class Session:
    """One board of `address` for this process alone, until `close`.

    Waits `wait_s` for a board that is busy. Raises UserError where there is no tracker or no such
    key, where all boards stay busy, where the board does not answer, or has other versions.
    """

    def __init__(self, address: Address, wait_s: float = 30.0, session_s: int = 600) -> None:
        from tvm import rpc

        host, port, match = _request(address, wait_s)
        self.board = f"{host}:{port}"
        try:
            self.remote: Any = rpc.connect(host, port, match, session_timeout=session_s)
            self.info = self.ask()
        except Exception as error:  # TVM's are of many kinds
            words = str(error).strip().splitlines()[-1]
            raise UserError(f"the board {address.key} at {self.board}: {words}") from error
        self.device = self.remote.cpu(0)
        _compare_versions(address, self.board, self.info)

    def ask(self) -> dict[str, Any]:
        """What the board tells of itself now: versions, cores, clock, temperature, `emulated`."""
        told: dict[str, Any] = json.loads(self.remote.get_function(BOARD_INFO)())
        return told

    def load(self, library: Path) -> Any:
        """Upload a library and load it there; a name of its own keeps earlier ones apart."""
        name = f"{library.parent.name}-{library.name}"
        self.remote.upload(bytearray(library.read_bytes()), target=name)
        try:
            return self.remote.load_module(name)
        except Exception as error:  # TVM's are of many kinds
            raise UserError(f"the board at {self.board} cannot load {library}: {error}") from error


def board_info(address: Address) -> dict[str, Any]:
    """What a free board of `address` tells of itself."""
    return Session(address).info  # TVM ends the session with its last handle: here


_held: dict[Address, Session] = {}


@contextmanager
def held_session(address: Address, avoid: frozenset[str] = frozenset()) -> Iterator[Session]:
    """This process's session, opened at first use and dropped when a job on it fails.

    A board to `avoid` is kept busy until another one is found, so that it is not given again.
    """
    passed = []
    while address not in _held or _held[address].board in avoid:
        if address in _held:
            passed.append(_held.pop(address))
        if len(passed) >= address.boards():
            raise UserError(f"no board '{address.key}' is left that gives right numbers")
        _held[address] = Session(address, wait_s=_SOON_S)
    del passed
    try:
        yield _held[address]
    except Exception:
        del _held[address]
        raise


def _request(address: Address, wait_s: float) -> tuple[str, int, str]:
    """Host, port and match key of a free board, which is then ours."""
    from tvm.rpc.base import TrackerCode

    address.boards()
    with closing(connect(address.tracker)) as connection:
        connection.settimeout(wait_s)
        try:
            code, answer = ask(connection, TrackerCode.REQUEST, address.key, "mnv2_tvm", 1)
        except TimeoutError as error:
            raise UserError(
                f"all boards '{address.key}' are busy since {wait_s:.0f} s; see "
                f"python -m mnv2_tvm.device list --tracker {_text(address)}"
            ) from error
        except OSError as error:
            raise UserError(f"the tracker at {_text(address)}: {error}") from error
    if code != TrackerCode.SUCCESS:
        raise UserError(f"the tracker at {_text(address)} refuses '{address.key}': {answer}")
    host, port, match = answer
    return str(host), int(port), str(match)


def _compare_versions(address: Address, board: str, info: dict[str, Any]) -> None:
    here = versions()
    for package in _COMPARED:
        if info.get(package) != here[package]:
            raise UserError(
                f"the board {address.key} at {board} has {package} {info.get(package)}, this host "
                f"{here[package]}; make a new kit with python -m mnv2_tvm.device kit --target "
                f"{address.key} and run its install.sh there"
            )


def _no_board(address: Address, keys: list[str]) -> str:
    there = f"it has {', '.join(keys)}" if keys else "it has none at all"
    return (
        f"no board '{address.key}' at the tracker {_text(address)}; {there}. Start one with "
        f"python -m mnv2_tvm.device emulate --target {address.key} --tracker {_text(address)}, "
        "or see python -m mnv2_tvm.device kit"
    )


def _text(address: Address) -> str:
    return f"{address.tracker[0]}:{address.tracker[1]}"
