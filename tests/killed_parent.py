"""A program whose worker hangs; it tells the worker's process id, and then is killed."""

import multiprocessing
import sys
import threading
import time

from worker_jobs import hang

from mnv2_tvm.measure.workers import WorkerPool


def tell() -> None:
    """As soon as there is a worker, which then still imports what it needs."""
    while not (children := multiprocessing.active_children()):
        time.sleep(0.001)
    print(children[0].pid, flush=True)


if __name__ == "__main__":
    threading.Thread(target=tell).start()
    list(WorkerPool(1).run(hang, [(sys.argv[1],)], 600))
