"""Who is at a tracker: every board, free or busy, and what the free ones tell about themselves."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta, Struct
from rich import box
from rich.table import Table
from rich.text import Text

from mnv2_tvm.devices.board.words import address_text
from mnv2_tvm.devices.rpc.deadline import deadline
from mnv2_tvm.devices.rpc.link import Link
from mnv2_tvm.devices.rpc.told import NOT_OURS, told_by
from mnv2_tvm.devices.rpc.tracker import ask, connect
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import DeviceError, Kind
from mnv2_tvm.untrusted import convert, printable

_INFO_S = 5.0
_ALL_S = 20.0  # for the questions to all boards
_AT_ONCE = 8
_SESSION_S = 10  # the board ends the session itself, should we not
_claim = threading.Lock()

Port = Annotated[int, Meta(ge=1, le=65535)]
# TVM's C++ server and its Android app send the port as text.
PortText = Annotated[str, Meta(pattern="^[0-9]{1,5}$")]


class _Queue(Struct):
    free: Annotated[int, Meta(ge=0, le=1000)]


class _Summary(Struct):
    server_info: list[Any]  # what each server said of itself, so that a wrong one hides no other
    queue_info: dict[str, _Queue]


class _Server(Struct):
    key: str
    addr: tuple[str, Port | PortText]


@dataclass
class Board:
    """One registered server. `info` is its `board_info`, empty where it has not told."""

    key: str
    host: str
    port: int
    state: str = "busy"
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return address_text(self.host, self.port)


def summary(tracker: tuple[str, int]) -> tuple[list[Board], dict[str, int]]:
    """All boards, and how many of each key are free. Raises UserError without a tracker."""
    from tvm.rpc.base import TrackerCode

    with closing(connect(tracker)) as connection:
        try:
            answer: tuple[int, _Summary]
            answer = ask(connection, TrackerCode.SUMMARY, kind=tuple[int, _Summary])
        except OSError as error:
            where = f"the tracker at {address_text(*tracker)}"
            raise DeviceError(Kind.LINK, f"{where}: {error}") from error
    _, told = answer
    boards = [board for said in told.server_info for board in _boards(said)]
    free = {key: queue.free for key, queue in told.queue_info.items()}
    return sorted(boards, key=lambda b: (b.key, b.host, b.port)), free


def _boards(said: Any) -> Iterator[Board]:
    """The board of one registered server; none of a wrong entry."""
    with suppress(UserError):
        server = convert(said, _Server, "a server")
        host, port = server.addr
        yield Board(server.key.removeprefix("server:"), host, int(port))


def list_boards(tracker: tuple[str, int]) -> list[Board]:
    """All boards of a tracker; each free one is asked about itself, with 5 s for its answer.

    Raises UserError where there is no tracker.
    """
    boards, free = summary(tracker)
    until = time.monotonic() + _ALL_S
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for key, count in Counter(board.key for board in boards).items():
            for _ in range(min(count, free.get(key, 0))):
                threads.submit(_ask_one, tracker, key, boards, until)
    return boards


def _ask_one(tracker: tuple[str, int], key: str, boards: list[Board], until: float) -> None:
    """Take any free board of the key for a moment and note what it tells."""
    if time.monotonic() > until:
        return
    try:
        host, port, match = request(tracker, key, "list", _INFO_S)
    except (OSError, UserError):
        return  # somebody else has it now
    with _claim:
        mine = [b for b in boards if (b.key, b.host, b.port, b.state) == (key, host, port, "busy")]
        if not mine:
            return  # registered after the summary
        mine[0].state = "no answer"
    _describe(mine[0], match)


def request(tracker: tuple[str, int], key: str, user: str, within_s: float) -> tuple[str, int, str]:
    """Host, port and match key of a free board of the key, which is then ours.

    Raises TimeoutError where none is free `within_s`, another OSError where the tracker goes, and
    DeviceError for an answer that is none.
    """
    from tvm.rpc.base import TrackerCode

    kind = tuple[int, tuple[str, Port | PortText, str]]
    with closing(connect(tracker)) as connection:
        message = (TrackerCode.REQUEST, key, user, 1)
        _, (host, port, match) = ask(connection, *message, kind=kind, within_s=within_s)
    return host, int(port), match


def _describe(board: Board, match: str) -> None:
    link = None
    try:
        link = Link(board.host, board.port, _INFO_S)
        with deadline(link.left_s, link.cut):
            told = told_by(link.open(match, _SESSION_S))
    except Exception as error:  # TVM's are of many kinds
        said = link.refused if link else ""
        board.info = {"name": f"refused: it sent {said}" if said else _first_line(error)}
        return
    finally:
        if link:
            link.cut()
    if told is None:
        board.info = {"name": f"refused: {NOT_OURS}"}
        return
    board.info, board.state = told, "free"


def _first_line(error: Exception) -> str:
    return printable(str(error).strip().split("\n")[0])


def board_table(boards: list[Board]) -> Table:
    """One row for each of `boards`."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("key", "address", "state", "TVM", "cpu", "cores", "MHz", "°C", "name"):
        table.add_column(heading, overflow="fold")
    for board in boards:
        told = {key: value for key, value in board.info.items() if value is not None}
        cells = [
            printable(board.key),
            printable(board.address),
            board.state,
            _versions(board.info),
            str(told.get("cpu", "")) + (", emulated" if told.get("emulated") else ""),
            str(told.get("cores", "")),
            f"{told['clock_mhz']:.0f}" if "clock_mhz" in told else "",
            f"{told['temperature_c']:.0f}" if "temperature_c" in told else "",
            str(told.get("name", "")),
        ]
        table.add_row(*map(Text, cells))
    return table


def _versions(info: dict[str, Any]) -> str:
    if "apache-tvm" not in info:
        return ""  # busy, or no answer
    return f"{info['apache-tvm']} ffi {info['apache-tvm-ffi']}"
