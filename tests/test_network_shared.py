"""One network for several threads, copies and processes; where it is loaded from, and its end."""

import copy
import json
import multiprocessing
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from built_folder import edit_manifest
from conftest import ODD, BuildOnce, Built, ended, run_python

from mnv2_tvm import Network, UserError, bench, load, run
from mnv2_tvm.build import build
from mnv2_tvm.deploy.loader import LIBRARY
from mnv2_tvm.deploy.manifest import file_sha256
from mnv2_tvm.target import Target


def answers(network: Network, images: np.ndarray) -> tuple[np.ndarray, int]:
    """Logits and threads, in whatever process this is."""
    return network(images), network.threads


def test_threads_of_python_share_a_network(tiny: Built) -> None:
    """A network, a copy and a deep copy, called from four threads at once."""
    network = load(tiny.folder, threads=2)
    images = [tiny.network.images(seed) for seed in range(4)]
    wanted = [network(one) for one in images]
    copies = [network, copy.copy(network), copy.deepcopy(network), network]
    wrong = [0] * 4

    def work(index: int) -> None:
        for turn in range(200):
            number = (turn + index) % 4
            wrong[index] += not np.array_equal(copies[index](images[number]), wanted[number])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 4
    with ThreadPoolExecutor(4) as pool:
        for result, right in zip(pool.map(network, images * 20), wanted * 20, strict=True):
            np.testing.assert_array_equal(result, right)


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_a_network_goes_to_another_process(start: str, tiny: Built) -> None:
    network, images = load(tiny.folder, threads=2), tiny.network.images(seed=1)
    wanted = network(images)
    with ProcessPoolExecutor(1, multiprocessing.get_context(start)) as pool:
        logits, threads = pool.submit(answers, network, images).result(60)
    np.testing.assert_array_equal(logits, wanted)
    assert threads == 2


def test_a_network_whose_folder_changed_is_named(
    tiny_copy: Path, tiny: Built, build_once: BuildOnce
) -> None:
    sent = pickle.dumps(load(tiny_copy))
    shutil.rmtree(tiny_copy)
    shutil.copytree(build_once(ODD).folder, tiny_copy)
    with pytest.raises(UserError, match="copy was built anew"):
        pickle.loads(sent)
    shutil.rmtree(tiny_copy)
    with pytest.raises(UserError, match=r"copy holds no manifest\.json"):
        pickle.loads(sent)


def test_the_threads_end_with_the_network(tiny: Built) -> None:
    """And a later call has them again. In a process of its own: threads belong to the library."""
    program = (
        "import os, sys, numpy as np\n"
        "from mnv2_tvm import load\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "cpu = min(os.sched_getaffinity(0))\n"
        "with load(sys.argv[1]) as network:\n"
        "    images = np.ones(network.input_shape, np.float32)\n"
        "    network.pin([cpu, cpu, cpu])\n"
        "    started, logits = count(), network(images)\n"
        "assert count() == started - 2, (count(), started)\n"
        "assert (network(images) == logits).all() and network.threads == 3\n"
    )
    done = run_python("-c", program, tiny.folder)
    assert done.returncode == 0, done.stderr


# Loading


def test_no_temporary_file_is_needed(tiny: Built, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", tiny.network.images(seed=1))
    program = (
        "import resource, sys, numpy as np\n"
        "from mnv2_tvm import load\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "print(load(sys.argv[1])(np.load(sys.argv[2])).argmax())\n"
    )
    missing = str(tmp_path / "missing")
    done = run_python("-c", program, tiny.folder, tmp_path / "images.npy", TMPDIR=missing)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{load(tiny.folder)(tiny.network.images(seed=1)).argmax()}\n"


def test_a_file_that_the_linker_refuses_is_named(tiny_copy: Path) -> None:
    (tiny_copy / LIBRARY).write_bytes(b"no library")
    edit_manifest(tiny_copy, sha256=file_sha256(tiny_copy / LIBRARY))
    with pytest.raises(UserError, match=r"libmnv2\.so cannot be loaded \(.*noexec"):
        load(tiny_copy)


def test_every_rebuilt_library_is_loaded_anew(
    tiny_copy: Path, tiny: Built, here: Target, build_once: BuildOnce
) -> None:
    """Also where the last one came from the same path, and the first is loaded still."""
    first, images = load(tiny_copy), tiny.network.images(seed=1)
    before = first(images)
    build(here, build_once(ODD).network, tiny_copy)
    other = load(tiny_copy)
    assert other.input_shape[0] == ODD.batch
    np.testing.assert_array_equal(first(images), before)
    build(here, tiny.network, tiny_copy)
    np.testing.assert_array_equal(load(tiny_copy)(images), before)


# Threads and CPUs


@pytest.mark.parametrize("count", [0, -1, 65, 2**32 + 1, -(2**31), True, 2.0, "2", None, np.nan])
def test_other_thread_counts_are_refused(count: object, tiny: Built) -> None:
    network = load(tiny.folder)
    with pytest.raises(UserError, match="give 1 to 64"):
        network.set_threads(count)  # type: ignore[arg-type]
    assert network.threads == 1


@pytest.mark.parametrize("cpu", [2**32, -1, True, 0.0, "0", None])
def test_what_is_no_cpu_is_refused(cpu: object, tiny: Built) -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(UserError, match="there is no CPU"):
        load(tiny.folder).pin([cpu])  # type: ignore[list-item]
    assert os.sched_getaffinity(0) == before


_ON_ONE_CPU = """
import json, os, sys, numpy as np
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from mnv2_tvm import load
network = load(sys.argv[1])
images = np.ones(network.input_shape, np.float32)
one, before = network(images), len(os.listdir("/proc/self/task"))
network.set_threads(64)
assert (network(images) == one).all()
after = len(os.listdir("/proc/self/task"))
print(json.dumps([network.threads, network.team_threads, after - before]))
"""


def test_a_team_is_no_larger_than_its_cpus(tiny: Built) -> None:
    done = run_python("-c", _ON_ONE_CPU, tiny.folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [64, 1, 0]


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """This thread may use one CPU, and what it starts too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_cpu")
def test_verbs_say_that_there_are_fewer_cpus(
    tiny: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "images.npy", tiny.network.images(seed=1))
    files = ["--input", tmp_path / "images.npy", "--output", tmp_path / "logits.npy"]
    for main, words in (
        (run.main, [tiny.folder, *files]),
        (bench.main, ["--library", tiny.folder, "--runs", "3"]),
    ):
        code, output, errors = ended(capsys, main, *words, "--threads", "5")
        assert code == 0, errors
        assert "5 threads were asked for; runs take 1" in output + errors
    load(tiny.folder)  # with the threads of the build again
