"""Threads that stay on a CPU: in the library, and as an option of `bench`."""

import json
import os

import pytest
from conftest import Built, run_python

from mnv2_tvm import bench, cli, load
from mnv2_tvm.errors import UserError

# In a process of its own: a pinned thread stays pinned.
_PIN = """
import json, os, sys
from pathlib import Path
import numpy as np
from mnv2_tvm import load

def allowed():
    tasks = sorted(Path("/proc/self/task").iterdir(), key=lambda task: int(task.name))
    lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
    return [line.split()[1] for line in lines if line.startswith("Cpus_allowed_list")]

network = load(sys.argv[1])
images = np.ones(network.input_shape, np.float32)
before = network(images)
threads = len(allowed())
cpus = sorted(os.sched_getaffinity(0), reverse=True)[:2]
network.pin(cpus)
assert (network(images) == before).all()
after = allowed()
print(json.dumps([cpus, [int(cpu) for cpu in (after[0], *after[threads:])], network.threads]))
"""


def test_each_thread_stays_on_its_cpu(tiny: Built) -> None:
    done = run_python("-c", _PIN, tiny.folder)
    assert done.returncode == 0, done.stderr
    wanted, found, threads = json.loads(done.stdout)
    assert found == wanted
    assert threads == len(wanted)


def test_a_cpu_that_is_not_there_is_named(tiny: Built) -> None:
    before = os.sched_getaffinity(0)
    network = load(tiny.folder)
    for cpu in (-1, 1023, 4096):
        with pytest.raises(UserError, match=f"there is no CPU {cpu} for this process"):
            network.pin([cpu])
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cpus", "a"], "give numbers of CPUs"),
        (["--cpus", "0,0"], "each once"),
        (["--cpus", ""], "give numbers of CPUs"),
        (["--cpus", "0", "--threads", "2"], "--threads is not for --cpus"),
        (["--cpus", "0", "--on", "tracker"], "--on is not for --cpus"),
    ],
)
def test_wrong_cpus_end_with_a_sentence(
    options: list[str], words: str, tiny: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run_verb(bench.main, ["--library", str(tiny.folder), *options])
    assert end.value.code == 1
    assert words in capsys.readouterr().err


def test_bench_measures_on_the_cpus_it_is_given(tiny: Built) -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    options = ["--library", str(tiny.folder), "--runs", "3", "--cpus", ",".join(map(str, cpus))]
    done = run_python("-m", "mnv2_tvm.bench", *options)
    assert done.returncode == 0, done.stderr
    assert f"{len(cpus)} thread(s)" in done.stdout
