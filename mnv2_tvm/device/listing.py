"""Who is at a tracker: every board, free or busy, and what the free ones tell about themselves."""

import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from mnv2_tvm.device.failure import DeviceError, Kind
from mnv2_tvm.device.plain_server import NOTHING_TOLD, OPTION, told_by
from mnv2_tvm.device.tracker import ask, connect
from mnv2_tvm.errors import UserError

_INFO_S = 5.0
_SESSION_S = 10  # the board ends the session itself, should we not
_claim = threading.Lock()


@dataclass
class Board:
    """One registered server. `info` is its `board_info`, empty where it has not told."""

    key: str
    host: str
    port: int
    state: str = "busy"
    info: dict[str, Any] = field(default_factory=dict)


def summary(tracker: tuple[str, int]) -> tuple[list[Board], dict[str, int]]:
    """All boards, and how many of each key are free. Raises UserError without a tracker."""
    from tvm.rpc.base import TrackerCode

    with closing(connect(tracker)) as connection:
        try:
            _, answer = ask(connection, TrackerCode.SUMMARY)
        except OSError as error:
            where = f"{tracker[0]}:{tracker[1]}"
            raise DeviceError(Kind.LINK, f"the tracker at {where}: {error}") from error
    boards = [board for server in answer["server_info"] for board in _boards(server)]
    free = {key: queue["free"] for key, queue in answer["queue_info"].items()}
    return sorted(boards, key=lambda b: (b.key, b.host, b.port)), free


def _boards(server: dict[str, Any]) -> list[Board]:
    """The boards of one registered server: itself, or those behind our proxy."""
    host, port = server["addr"]
    counts = server.get("boards", {server["key"].removeprefix("server:"): 1})
    # TVM's C++ server and its Android app send the port as text.
    return [Board(key, host, int(port)) for key, count in counts.items() for _ in range(count)]


def list_boards(tracker: tuple[str, int]) -> list[Board]:
    """All boards of a tracker; each free one is asked about itself, with 5 s for its answer.

    Raises UserError where there is no tracker.
    """
    boards, free = summary(tracker)
    threads = []
    for key, count in Counter(board.key for board in boards).items():
        for _ in range(min(count, free.get(key, 0))):
            thread = threading.Thread(target=_ask_one, args=(tracker, key, boards), daemon=True)
            thread.start()
            threads.append(thread)
    for thread in threads:
        thread.join(_INFO_S + 1)
    return boards


def _ask_one(tracker: tuple[str, int], key: str, boards: list[Board]) -> None:
    """Take any free board of the key for a moment and note what it tells."""
    from tvm.rpc.base import TrackerCode

    try:
        with closing(connect(tracker)) as connection:
            _, (host, port, match) = ask(connection, TrackerCode.REQUEST, key, "list", 1)
    except (OSError, UserError):
        return  # somebody else has it now
    with _claim:
        # Boards behind a proxy have one address: any row that is not taken yet.
        mine = [b for b in boards if (b.key, b.host, b.port, b.state) == (key, host, port, "busy")]
        if not mine:
            return  # registered after the summary
        mine[0].state = "no answer"
    _describe(mine[0], match)


def _describe(board: Board, match: str) -> None:
    from tvm import rpc

    try:
        session = rpc.connect(board.host, board.port, match, session_timeout=_SESSION_S)
        told = told_by(session)
    except Exception as error:  # TVM's are of many kinds
        board.info = {"name": str(error).strip().split("\n")[0]}
        return
    board.info = told or NOTHING_TOLD | {"name": f"needs {OPTION}"}
    board.state = "free"


def board_table(boards: list[Board]) -> Table:
    """One row for each of `boards`."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("key", "address", "state", "TVM", "cpu", "cores", "MHz", "°C", "name"):
        table.add_column(heading, overflow="fold")
    for board in boards:
        told = {key: value for key, value in board.info.items() if value is not None}
        cells = [
            board.key,
            f"{board.host}:{board.port}",
            board.state,
            _versions(board.info),
            str(told.get("cpu", "")) + (", emulated" if told.get("emulated") else ""),
            str(told.get("cores", "")),
            f"{told['clock_mhz']:.0f}" if "clock_mhz" in told else "",
            f"{told['temperature_c']:.0f}" if "temperature_c" in told else "",
            str(told.get("alias") or told.get("name", "")),
        ]
        table.add_row(*map(Text, cells))
    return table


def _versions(info: dict[str, Any]) -> str:
    if "apache-tvm" not in info:
        return ""  # busy, or no answer
    if info["apache-tvm"] is None:
        return "unknown"
    return f"{info['apache-tvm']} ffi {info['apache-tvm-ffi']}"
