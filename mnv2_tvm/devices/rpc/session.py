"""A session with one board: asked for, checked, and dropped, with a deadline on every step.

It hides TVM's own session, which waits for ever for a key that nobody has and for a board that
does not answer, does not compare versions, and stays open while any handle lives.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv2_tvm.devices.board.words import address_text
from mnv2_tvm.devices.rpc.deadline import deadline
from mnv2_tvm.devices.rpc.link import Link
from mnv2_tvm.devices.rpc.listing import request, summary
from mnv2_tvm.devices.rpc.told import NOT_OURS, told_by
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.measure import patience
from mnv2_tvm.measure.patience import patience_s
from mnv2_tvm.untrusted import printable
from mnv2_tvm.versions import versions

_SOON_S = 10.0  # a board whose session was lost is back within a second or two
# The board ends a session itself, should we not: sooner in a search, where a kernel may hang.
_SESSION_S = 3600
_HELD_S = 600
_CHECKS, _CHECK_S = 6, 0.5  # whether a board is still there after its session ended
_STALE = "cannot find server that matches key"  # of TVM: the server started again since our request
_COMPARED = ("apache-tvm", "apache-tvm-ffi")


@dataclass(frozen=True)
class Address:
    """Which boards: those registered at the tracker under the key, but none to avoid."""

    tracker: tuple[str, int]
    key: str
    avoid: frozenset[str] = frozenset()  # as `Session.board` names them

    def without(self, boards: set[str]) -> "Address":
        """The same without these boards."""
        return replace(self, avoid=self.avoid | boards)

    def registered(self) -> tuple[list[str], int]:
        """HOST:PORT of each board, free or busy, and how many are free.

        Raises DeviceError, with the keys there are.
        """
        registered, free = summary(self.tracker)
        boards = [board.address for board in registered if board.key == self.key]
        if not boards:
            raise _no_board(self, sorted({printable(board.key) for board in registered}))
        left = [board for board in boards if board not in self.avoid]
        if not left:
            raise DeviceError(
                Kind.LINK,
                f"no board '{self.key}' is left: {', '.join(sorted(self.avoid))} cannot be used",
            )
        return left, max(0, free.get(self.key, 0) - len(boards) + len(left))

    def boards(self) -> int:
        """How many are registered, free or busy. Raises DeviceError, with the keys there are."""
        return len(self.registered()[0])


class Session:
    """One board of `address` for this process alone, until `close`.

    Waits `wait_s` for a board that is busy, and `patience_s` for every answer. Raises DeviceError
    where there is no tracker or no such key, where all boards stay busy, where the board does not
    answer, has other versions, or a server that is not ours.
    """

    def __init__(self, address: Address, wait_s: float = 30.0, session_s: int = _SESSION_S) -> None:
        self.address = address
        self.opened = time.monotonic()
        self.board, self._peer = "", ("", 0)
        self._link: Link | None = None
        # Kept busy until another one is found, so that they are not given again.
        passed: list[Link | None] = []
        try:
            while not (opened := self._open(wait_s, session_s)) or self.board in address.avoid:
                passed.append(self._link)
                self._link = None
            self.remote, told = opened
            self.device = self.remote.cpu(0)
            self.info = _accepted(address, self.board, told)
        except BaseException:
            self.close()
            raise
        finally:
            for link in passed:
                if link:
                    link.cut()

    def _open(self, wait_s: float, session_s: int) -> tuple[Any, dict[str, Any] | None] | None:
        """TVM's session with any board and what `told_by` says; None where it just restarted."""
        left_s = self.opened + wait_s - time.monotonic()
        host, port, match = _request(self.address, left_s, wait_s)
        self.board, self._peer = printable(address_text(host, port)), (host, port)
        try:
            self._link = Link(host, port, patience.ANSWER_S)
            with deadline(self._link.left_s, self._link.cut):
                remote = self._link.open(match, session_s)
                told = told_by(remote)
        except TimeoutError as error:
            raise self._silent(patience.ANSWER_S, "opening a session") from error
        except Exception as error:  # TVM's are of many kinds
            self._raise_unless_restarted(error)
            return None
        return remote, told

    def _raise_unless_restarted(self, error: Exception) -> None:
        """Raises DeviceError with the cause, unless the board just started again."""
        if self._link and self._link.refused:
            raise self._refused() from error
        if _STALE in str(error) or self._peer not in _peers(self.address):
            return
        raise self._error(Kind.LINK, f": {_words(error)}") from error

    def close(self) -> None:
        """Give the board back, whatever handles are left; they are of no use then."""
        if self._link:
            self._link.cut()

    def ask(self) -> dict[str, Any]:
        """What the board tells of itself now: versions, cores, clock, temperature, `emulated`."""
        with self.within(patience_s(), "telling about itself"):
            try:
                told = told_by(self.remote)
            except UserError as error:
                raise self._error(Kind.LINK, f": {error}") from error
            return _accepted(self.address, self.board, told)

    def load(self, library: Path) -> Any:
        """Upload a library and load it there; a name of its own keeps earlier ones apart."""
        name = f"{library.parent.name}-{library.name}"
        data = bytearray(library.read_bytes())
        with self.within(patience_s(len(data)), f"loading {library}", Kind.UPLOAD):
            self.remote.upload(data, target=name)
            # The steps of TVM's `load_module`.
            path = self.remote.get_function("tvm.rpc.server.workpath")(name)
            return self.remote.get_function("ffi.ModuleLoadFromFile")(path)

    @contextmanager
    def within(self, seconds: float, doing: str, kind: Kind = Kind.ERROR) -> Iterator[None]:
        """A deadline for what the block asks of the board.

        Raises DeviceError for whatever goes wrong there: of `kind` where the board says so itself.
        """
        try:
            with deadline(seconds, self.close):
                yield
        except UserError:
            raise
        except TimeoutError as error:
            raise self._silent(seconds, doing) from error
        except Exception as error:  # TVM's are of many kinds
            if self._link and not self._link.ended():
                raise self._error(kind, f" failed while {doing}: {_words(error)}") from error
            raise self._gone(doing) from error

    def _silent(self, seconds: float, doing: str) -> DeviceError:
        return self._error(Kind.TIMEOUT, f" did not answer within {seconds:.0f} s while {doing}")

    def _gone(self, doing: str) -> DeviceError:
        """The connection ended: that of a crashed session, whose board is there again soon?"""
        if self._link and self._link.refused:
            return self._refused()
        for _ in range(_CHECKS):
            time.sleep(_CHECK_S)
            if self._peer in _peers(self.address):
                return self._error(Kind.CRASH, f" ended the session while {doing}")
        return self._error(Kind.LINK, f" is gone; it left the tracker while {doing}")

    def _refused(self) -> DeviceError:
        said = self._link.refused if self._link else ""
        return self._error(
            Kind.REFUSED,
            f" sent {printable(said)}, which would run code on this host, or is damaged; see what "
            "runs there, and reach boards that you do not trust with --on ssh:HOST",
        )

    def _error(self, kind: Kind, what: str) -> DeviceError:
        board = f"the board {self.address.key} at {self.board}"
        return DeviceError(kind, f"{board}{what}", self.board)


def board_info(address: Address) -> dict[str, Any]:
    """What a free board of `address` tells of itself."""
    with closing(Session(address)) as session:
        return session.info


_held: dict[tuple[tuple[str, int], str], Session] = {}


@contextmanager
def held_session(address: Address) -> Iterator[Session]:
    """This process's session: opened at first use, renewed now and then, dropped after an error.

    One with a board to avoid stays open until another board is found.
    """
    key = address.tracker, address.key
    session = _held.pop(key, None)
    if session and time.monotonic() - session.opened > _HELD_S / 2:
        session.close()
        session = None
    if session is None or session.board in address.avoid:
        session = Session(address, wait_s=_SOON_S, session_s=_HELD_S)
    try:
        yield session
    except Exception:
        session.close()
        raise
    _held[key] = session


def _request(address: Address, left_s: float, wait_s: float) -> tuple[str, int, str]:
    """Host, port and match key of a free board, which is then ours."""
    address.boards()
    busy = DeviceError(
        Kind.LINK,
        f"all boards '{address.key}' are busy since {wait_s:.0f} s; see "
        f"python -m mnv2_tvm.device list --tracker {_text(address)}",
    )
    if left_s <= 0:
        raise busy
    try:
        return request(address.tracker, address.key, "mnv2_tvm", left_s)
    except TimeoutError as error:
        raise busy from error
    except OSError as error:
        raise DeviceError(Kind.LINK, f"the tracker at {_text(address)}: {error}") from error


def _peers(address: Address) -> set[tuple[str, int]]:
    """Host and port of every board at the tracker."""
    return {(board.host, board.port) for board in summary(address.tracker)[0]}


def _accepted(address: Address, board: str, info: dict[str, Any] | None) -> dict[str, Any]:
    """What it told. Raises DeviceError for a board of other versions, or a server not of ours."""
    if info is None:
        raise DeviceError(
            Kind.REFUSED,
            f"the board {address.key} at {board}: {NOT_OURS}, so its versions are unknown; install "
            f"one with python -m mnv2_tvm.device kit --target {address.key}, or leave the "
            "tracker out and give --on ssh:HOST or --on adb",
            board,
        )
    here = versions()
    for package in _COMPARED:
        if info.get(package) != here[package]:
            raise DeviceError(
                Kind.REFUSED,
                f"the board {address.key} at {board} has {package} {info.get(package)}, this host "
                f"{here[package]}; make a new kit with python -m mnv2_tvm.device kit --target "
                f"{address.key} and run its install.sh there",
                board,
            )
    return info


def _no_board(address: Address, keys: list[str]) -> DeviceError:
    there = f"it has {printable(', '.join(keys), 400)}" if keys else "it has none at all"
    return DeviceError(
        Kind.LINK,
        f"no board '{address.key}' at the tracker {_text(address)}; {there}. Start one with "
        f"python -m mnv2_tvm.device emulate --target {address.key} --tracker {_text(address)}, "
        "or see python -m mnv2_tvm.device kit",
    )


def _words(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[-1], 1000)


def _text(address: Address) -> str:
    return address_text(*address.tracker)
