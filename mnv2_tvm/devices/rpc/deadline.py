"""Deadlines for TVM's RPC calls, which by themselves wait for ever.

Such a call sleeps in C++ on its socket, where neither a signal nor an exception reaches it. It ends
with an error when the connection under it is cut.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def deadline(seconds: float, cut: Callable[[], object]) -> Iterator[None]:
    """Call `cut` when the block takes longer than `seconds`: it ends the block's connection.

    Raises TimeoutError then, whatever the block came to.
    """
    done, late = threading.Event(), threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            late.set()
            cut()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        done.set()
        watcher.join()
    if late.is_set():
        raise TimeoutError
