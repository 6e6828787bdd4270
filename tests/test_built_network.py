"""Numbers of built networks against the reference: any threads, any batches, tuned schedules."""

import threading
from pathlib import Path

import numpy as np
import pytest
from built_folder import names
from conftest import ODD, TINY, BuildOnce, Built, ended, machines

from mnv2_tvm import load
from mnv2_tvm.build import build
from mnv2_tvm.build import main as build_main
from mnv2_tvm.deploy.loader import LIBRARY
from mnv2_tvm.host import this_host
from mnv2_tvm.kernels.spaces import search_space
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import relative_error
from mnv2_tvm.pipeline import network_blocks, network_layers
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.entries import Record
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.target import Target

WIDE = Architecture(0.5, 33, classes=1, batch=3)


@pytest.mark.parametrize("architecture", [TINY, ODD, WIDE], ids=["32", "47-batch-2", "33-batch-3"])
def test_built_network_computes_what_torch_does(
    architecture: Architecture, build_once: BuildOnce
) -> None:
    built = build_once(architecture)
    images = built.network.images(seed=1)
    wanted = built.network.reference(images)
    logits = load(built.folder)(images)
    assert logits.shape == wanted.shape == (architecture.batch, architecture.classes)
    assert relative_error(logits, wanted) < 1e-5


def test_every_machine_here_computes_what_torch_does(
    here: Target, tiny: Built, tmp_path: Path
) -> None:
    images = tiny.network.images(seed=1)
    wanted = tiny.network.reference(images)
    targets = [target for target in map(Target.load, machines()) if not target.missing_here()]
    assert here in targets
    for target in targets:
        folder = tiny.folder
        if target != here:
            folder = tmp_path / target.name
            build(target, tiny.network, folder)
        assert relative_error(load(folder)(images), wanted) < 1e-5, target.name


def test_command_line_builds_what_the_function_does(
    tmp_path: Path, here: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    """With every option that changes the network or its library."""
    output = tmp_path / "new folder" / "out"
    code, said, errors = ended(
        capsys,
        build_main,
        *("--target", here.name, "--output", output, "--width", "0.35"),
        *("--resolution", "47", "--classes", "12", "--batch", "2", "--threads", "2"),
        *("--seed", "7", "--dump", tmp_path / "ir"),
    )
    assert (code, errors) == (0, "")
    assert LIBRARY in said and "2 thread(s)" in said
    assert len(names(tmp_path / "ir")) > 0
    network = SourceNetwork.make(ODD, None, seed=7)
    loaded, images = load(output), network.images(seed=1)
    assert loaded.threads == loaded.manifest.threads == 2
    assert loaded.manifest.weights == "random, seed 7"
    assert relative_error(loaded(images), network.reference(images)) < 1e-5


@pytest.mark.parametrize("architecture", [TINY, ODD], ids=["32", "47-batch-2"])
def test_threads_do_not_change_a_bit(architecture: Architecture, build_once: BuildOnce) -> None:
    built = build_once(architecture)
    images = built.network.images(seed=2)
    network = load(built.folder, threads=1)
    alone = network(images)
    for threads in (2, 3, 5):
        again = load(built.folder, threads=threads)
        assert again.threads == threads
        for _ in range(10):
            np.testing.assert_array_equal(again(images), alone)


def test_threads_given_to_build_are_those_of_a_run(
    tmp_path: Path, here: Target, tiny: Built
) -> None:
    manifest = build(here, tiny.network, tmp_path / "out", threads=2)
    network, images = load(tmp_path / "out"), tiny.network.images(seed=2)
    assert network.threads == manifest.threads == 2
    np.testing.assert_array_equal(network(images), load(tiny.folder, threads=1)(images))


def test_instances_run_at_once_with_a_workspace_each(tiny: Built) -> None:
    images = [tiny.network.images(seed) for seed in range(3)]
    wanted = [load(tiny.folder, threads=1)(one) for one in images]
    networks = [load(tiny.folder, threads=2) for _ in images]
    wrong: list[int] = []

    def run(index: int) -> None:
        for _ in range(30):
            if not np.array_equal(networks[index](images[index]), wanted[index]):
                wrong.append(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_any_number_of_images_is_cut_into_batches(count: int, build_once: BuildOnce) -> None:
    built = build_once(ODD)
    images = np.concatenate([built.network.images(seed) for seed in range(3)])[:count]
    logits = load(built.folder)(images)
    assert logits.shape == (count, ODD.classes)
    assert logits.dtype == np.float32
    if count:
        assert relative_error(logits, built.network.reference(images)) < 1e-5


def test_images_need_not_be_contiguous(tiny: Built) -> None:
    network, images = load(tiny.folder), tiny.network.images(seed=4)
    flipped = images[:, ::-1]
    assert not flipped.flags.c_contiguous
    before = images.copy()
    np.testing.assert_array_equal(network(flipped), network(flipped.copy()))
    assert (network(flipped) != network(images)).any()
    np.testing.assert_array_equal(images, before)


def test_profile_has_a_time_for_each_layer(tiny: Built) -> None:
    seconds = load(tiny.folder).profile(tiny.network.images(seed=0))
    assert list(seconds) == list(range(len(tiny.manifest.layers)))
    assert all(value >= 0 for value in seconds.values())


def test_tuned_schedules_are_taken_and_change_no_number(
    tmp_path: Path, here: Target, tiny: Built
) -> None:
    """Another point for every layer: the last of each space, as if a search had found it.

    The first blocks have one of their own, the others are done layer by layer.
    """
    module = tiny.network.relax()
    blocks = list(dict.fromkeys(network_blocks(module)))
    layers = network_layers(module) + blocks[:3]
    log, cpu = TuningLog.of(here, tmp_path / "logs"), {"cpu": this_host().cpu}
    log.open_for_writing()
    log.keep(
        Record(layer, 1, list(search_space(layer, here))[-1], 99.0, (1.0,), 0.0, cpu)
        for layer in set(layers)
    )
    log.keep(Record(block, 1, None, 99.0, (1.0,), 0.0, cpu) for block in blocks[3:])
    decisions = Decisions.load(here, 1, tmp_path / "logs")
    manifest = build(here, tiny.network, tmp_path / "out", decisions=decisions)
    assert {layer["source"] for layer in manifest.layers} == {"tuned"}
    assert manifest.flops_share == {"tuned": 1.0, "tuned elsewhere": 0.0, "default": 0.0}
    assert manifest.sha256 != tiny.manifest.sha256
    images = tiny.network.images(seed=1)
    wanted = tiny.network.reference(images)
    assert relative_error(load(tmp_path / "out")(images), wanted) < 1e-5
