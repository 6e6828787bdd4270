"""A board that cannot be reached: it connects out to a TVM RPC proxy and waits for clients."""

import socket
import struct
from typing import NoReturn

from .connection import connect_patiently, keep_alive


def serve_through_proxy(proxy: "tuple[str, int]", key: str) -> NoReturn:
    """Serve one session after the other. Raises OSError when the proxy is gone.

    TVM's own loop gives up after five errors, and waits for ever where a router between has
    forgotten the connection.
    """
    from tvm.rpc import server

    while True:
        with connect_patiently("proxy", proxy) as connection:
            options = _wait_for_client(connection, key)
            server._serving(connection, proxy, server._parse_server_opt(options), None)


def _wait_for_client(connection: socket.socket, key: str) -> "list[str]":
    """Offer the board until a client has it; the options of its session."""
    from tvm.rpc import base

    connection.settimeout(None)  # for days, if need be
    keep_alive(connection)
    name = f"server:{key}".encode()
    connection.sendall(struct.pack("<ii", base.RPC_MAGIC, len(name)) + name)
    (code,) = struct.unpack("<i", base.recvall(connection, 4))
    if code != base.RPC_CODE_SUCCESS:
        raise OSError(f"what listens at the proxy's address refuses {key} with code {code}")
    (size,) = struct.unpack("<i", base.recvall(connection, 4))
    client: str = base.recvall(connection, size).decode()
    return client.split()[1:]
