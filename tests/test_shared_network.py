"""One network in several threads, copies and processes, and its own threads."""

import copy
import multiprocessing
import os
import pickle
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Built, run_python
from device_boards import wait_until

from mnv2_tvm import UserError, load
from mnv2_tvm.build import build
from mnv2_tvm.deploy.loader import Network
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.target import Target

SHAPE = (1, 32, 32, 3)


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *SHAPE[1:]), dtype=np.float32)


def test_threads_that_share_a_network_get_their_own_answers(tiny: Built) -> None:
    network, images = load(tiny.folder, threads=2), random_images(8)
    right = [network(images[i : i + 1]) for i in range(8)]
    wrong = [0] * 4

    def work(thread: int) -> None:
        for turn in range(100):
            i = (turn + 2 * thread) % 8
            wrong[thread] += not np.array_equal(network(images[i : i + 1]), right[i])

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 4


def test_a_copy_is_a_network_of_its_own(tiny: Built) -> None:
    network, images = load(tiny.folder), random_images(1)
    for other in (copy.copy(network), copy.deepcopy(network)):
        assert other._idle is not network._idle
        assert np.array_equal(other(images), network(images))


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_an_executor_runs_a_network(pool: Any, tiny: Built) -> None:
    """Processes are forked here, some of them while a thread is inside the library."""
    network, images = load(tiny.folder, threads=2), random_images(8)
    right = [network(images[i : i + 1]) for i in range(8)]
    stop = threading.Event()

    def keep_running() -> None:
        while not stop.is_set():
            network(images[:1])

    busy = threading.Thread(target=keep_running)
    busy.start()
    options = (
        {} if pool is ThreadPoolExecutor else {"mp_context": multiprocessing.get_context("fork")}
    )
    try:
        with pool(4, **options) as workers:
            parts = [images[i : i + 1] for i in range(8)] * 5
            results = list(workers.map(network, parts, timeout=60))
    finally:
        stop.set()
        busy.join()
    for result, wanted in zip(results, right * 5, strict=True):
        np.testing.assert_array_equal(result, wanted)


def run_there(network: Network, images: np.ndarray) -> np.ndarray:
    return network(images)


def test_a_network_can_be_sent_to_a_process(tiny: Built) -> None:
    network, images = load(tiny.folder), random_images(1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        there = pool.submit(run_there, network, images).result(timeout=60)
    assert np.array_equal(there, network(images))


def test_a_network_that_was_rebuilt_is_not_sent(tiny: Built, here: Target, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(tiny.folder, folder)
    network, images = load(folder), random_images(1)
    sent, before = pickle.dumps(network), network(images)
    build(here, SourceNetwork.make(TINY, None, seed=5), folder)
    with pytest.raises(UserError, match=str(folder)):
        pickle.loads(sent)
    assert np.array_equal(network(images), before)
    assert not np.array_equal(load(folder)(images), before)


def test_closed_threads_start_again(tiny: Built) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU has no team")

    def tasks() -> set[str]:
        return {task.name for task in Path("/proc/self/task").iterdir()}

    images = random_images(1)
    with load(tiny.folder, threads=1) as network:
        alone = network(images)
        network.close()  # those of other tests
        before = tasks()
        network.set_threads(2)
        team = tasks() - before
        assert len(team) == 1
    # Who joins a thread is told of its end before the system removes it from the list.
    wait_until(lambda: not team & tasks(), "the end of the team")
    assert np.array_equal(network(images), alone)
    network.close()
    network.set_threads(1)


@pytest.mark.parametrize("count", [0, -1, 65, 2**32 + 1, True, 1.0, "2"])
def test_wrong_counts_of_threads_change_nothing(tiny: Built, count: Any) -> None:
    network = load(tiny.folder, threads=1)
    with pytest.raises(UserError, match="1 to 64"):
        network.set_threads(count)
    assert network.threads == 1


@pytest.mark.parametrize("cpu", [-1, 2**32, 2**70, True, 0.0])
def test_wrong_cpus_change_nothing(tiny: Built, cpu: Any) -> None:
    network = load(tiny.folder, threads=1)
    before = os.sched_getaffinity(0)
    with pytest.raises(UserError, match="no CPU"):
        network.pin([cpu])
    assert os.sched_getaffinity(0) == before


def test_a_team_has_no_more_threads_than_the_process_has_cpus(tiny: Built) -> None:
    code = (
        "import os, sys, numpy, mnv2_tvm\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "network = mnv2_tvm.load(sys.argv[1], threads=8)\n"
        f"network(numpy.zeros({SHAPE}, numpy.float32))\n"
        "print(network.threads, network.team_threads)\n"
    )
    done = run_python("-c", code, tiny.folder)
    assert done.stdout.split() == ["8", "1"], done.stderr


def test_loading_needs_no_folder_for_temporary_files(tiny: Built) -> None:
    code = (
        "import resource, sys, mnv2_tvm\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "print(mnv2_tvm.load(sys.argv[1]).input_shape[1])\n"
    )
    done = run_python("-c", code, tiny.folder)
    assert done.stdout.split() == ["32"], done.stderr
