"""TVM's RPC proxy: boards that cannot be reached connect out to it, and it registers them.

The tracker gives out the proxy's address, and the proxy joins the client's connection and the
board's.
"""

import asyncio
import socket
import sys
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from functools import reduce
from operator import or_
from typing import Any

from tvm.rpc import base
from tvm.rpc.proxy import ProxyServerHandler

from mnv2_tvm.device.board.connection import keep_alive
from mnv2_tvm.device.board.words import address_text, is_loopback, open_port_warning
from mnv2_tvm.device.failure import DeviceError
from mnv2_tvm.device.tracker import ask, connect, open_listener

_LATELY = 5  # updates of the tracker, one every 2 s: a board is away between two sessions


def run_proxy(host: str, port: int, tracker: tuple[str, int]) -> None:
    """Be a proxy until the process is ended. Raises UserError for a taken port or no tracker."""
    connect(tracker).close()
    listener = open_listener("proxy", host, port)
    keep_alive(listener)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # it forwards 4 KiB at a time
    port = listener.getsockname()[1]
    if not is_loopback(host):
        print(open_port_warning("proxy", host), file=sys.stderr)
    there = f"the tracker {address_text(*tracker)}"
    print(f"proxy on {address_text(host, port)} for {there}; Ctrl-C ends it", flush=True)
    # TVM's Proxy class starts a process through cloudpickle and psutil for this.
    asyncio.set_event_loop(asyncio.new_event_loop())
    _Proxy(listener, port, 0, 0, 0, tracker).run()


class _Proxy(ProxyServerHandler):  # type: ignore[misc]
    """TVM's own, mended where boards or the tracker come and go.

    It also tells the tracker how many boards it has, busy ones too; TVM's tells that it has some.
    """

    _tracker_conn: Any

    def __init__(self, *arguments: Any) -> None:
        self._boards: list[Any] = []  # TVM's handlers of their connections
        self._lately = deque([Counter[str]()], maxlen=_LATELY)
        self._told: Counter[str] | None = None
        super().__init__(*arguments)

    @property
    def _tracker_pending_puts(self) -> list[str]:
        return self._puts

    @_tracker_pending_puts.setter
    def _tracker_pending_puts(self, keys: Iterable[str]) -> None:
        self._puts = list(keys)  # TVM sets it to a view of a dictionary and appends to that

    def handler_ready(self, handler: Any) -> None:
        if handler.rpc_key.startswith("server:"):
            self._boards.append(handler)
        super().handler_ready(handler)

    def _regenerate_server_keys(self, keys: Iterable[str]) -> list[str]:
        """New match keys in the place of these; TVM's own makes keys that no client can ask for."""
        new = []
        for key in tuple(keys):
            handler = self._server_pool.pop(key)
            name, _ = base.split_random_key(key)
            handler.match_key = base.random_key(name, cmap=self._server_pool)
            handler.alloc_time = None
            self._server_pool[handler.match_key] = handler
            new.append(handler.match_key)
        return new

    def _update_tracker(self, period_update: bool = False) -> None:
        if period_update and self._tracker_conn is not None:
            self._forget_boards()
        if self._tracker_conn is None:
            self._told = None
        super()._update_tracker(period_update)
        self._count_boards(period_update)

    def _forget_boards(self) -> None:
        """Leave the tracker where it has a board that left: it forgets with the connection only."""
        # TVM's update will find the same and connect again.
        with suppress(OSError, DeviceError):
            question = base.TrackerCode.GET_PENDING_MATCHKEYS
            waiting = set(ask(self._tracker_conn, question, kind=list[str]))
            for key in waiting & self._server_pool.keys():
                self._server_pool[key].alloc_time = None  # TVM times from the first absence
            if not waiting <= self._server_pool.keys():
                self._tracker_conn.close()
                self._tracker_conn = None
                self._regenerate_server_keys(self._server_pool)

    def _count_boards(self, next_period: bool) -> None:
        """Tell the tracker the most boards of each key that were here at once lately."""
        if next_period:
            self._lately.append(Counter())
        self._boards = [board for board in self._boards if not board._done]
        self._lately[-1] |= Counter(b.rpc_key.removeprefix("server:") for b in self._boards)
        boards = reduce(or_, self._lately)
        if self._tracker_conn is None or boards == self._told:
            return
        info = {"key": "server:proxy", "addr": [None, self._listen_port], "boards": boards}
        with suppress(OSError, DeviceError):  # the next update finds the tracker gone
            ask(self._tracker_conn, base.TrackerCode.UPDATE_INFO, info)
            self._told = boards
