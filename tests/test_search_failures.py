"""A search where the machine or a kernel is broken: it says so, and keeps no wrong candidate.

A copy of the package with one line changed stands for a broken machine or a broken kernel.
"""

import os
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import run_python
from rich.console import Console
from small_search import (
    GLOB,
    HERE,
    LAYERS,
    SEARCHED,
    SIZE,
    assert_nothing_twice,
    keep_failures,
    lines_of,
    measure_alone,
    parsed,
    space_of,
)
from without_torch import NO_TORCH

import mnv2_tvm
from mnv2_tvm.data import data_folder
from mnv2_tvm.devices.here import Here
from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import Kind
from mnv2_tvm.kernels import default_schedule
from mnv2_tvm.measure.progress import Progress
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.records.tuning_log import RECORDS, TuningLog
from mnv2_tvm.search.layers import known_layers, search_layers
from mnv2_tvm.target import Target


def test_only_failures_in_the_log_are_measured_again(here: Target, tmp_path: Path) -> None:
    """Whatever an earlier run met, nothing is given up without a measurement of today."""
    layer = next(layer for layer in LAYERS if layer.operator == "avgpool")
    space, log = space_of(layer, here), TuningLog.of(here, tmp_path)
    keep_failures(log, layer, space[:1], Kind.TIMEOUT)
    keep_failures(log, layer, space[1:], Kind.WRONG_NUMBERS)
    tally = measure_alone([layer], here, log, trials=2)
    assert (tally.measured, tally.failed) == (2, 0)
    (search,) = known_layers([layer], here, log, HERE)
    assert search.best


def test_no_time_at_all_is_an_error(here: Target, tmp_path: Path) -> None:
    log, output = TuningLog.of(here, tmp_path), StringIO()
    searches = known_layers(LAYERS, here, log, HERE)
    with (
        Progress(Console(file=output), 0.0) as progress,
        Here(lambda: here) as device,
        WorkerPool(1) as builders,
        pytest.raises(UserError, match="nothing could be measured; the time budget was used up"),
    ):
        options: dict[str, Any] = {"trials": 1, "seed": 0, "reserve_s": 0.0}
        options |= {"progress": progress, "device": device, "builders": builders}
        search_layers(searches, here, log, HERE, **options)
    assert "the time budget is used up" in output.getvalue()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package and the targets, to be changed."""
    folder = tmp_path / "copy"
    ignore = shutil.ignore_patterns("__pycache__", "tuning_logs")
    shutil.copytree(Path(mnv2_tvm.__file__).parent, folder / "mnv2_tvm", ignore=ignore)
    shutil.copytree(data_folder("targets"), folder / "targets", dirs_exist_ok=True)
    with (folder / "mnv2_tvm/search/variants.py").open("a") as file:
        file.write("\n_VARIANTS = _FUSED = 2\n")  # as `short_tune`
    return folder


def tune_copy(package: Path, target: Target, *options: object) -> Any:
    """`python -m mnv2_tvm.tune` of the copy; -P: not of the package in the working directory."""
    command = ["-P", "-m", "mnv2_tvm.tune", "--target", target.name, *SIZE, *map(str, options)]
    return run_python(*command, PYTHONPATH=os.pathsep.join([NO_TORCH, str(package)]))


def test_nothing_could_be_measured(here: Target, package: Path, tmp_path: Path) -> None:
    """Every link fails; the next search, on a mended machine, tries all of them again."""
    toml = package / "targets" / f"{here.name}.toml"
    text = toml.read_text()
    assert text.count(f'"{here.link.emulation}"') == 1
    toml.write_text(text.replace(f'"{here.link.emulation}"', '"elf_x87"'))
    options = ["--layer", GLOB, "--trials", 2, "--log-dir", tmp_path]
    done = tune_copy(package, here, *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    error = done.stderr[done.stderr.index("error: nothing could be measured") :]
    assert "first failure: f32-" in error
    assert "ld.lld failed" in error and "elf_x87" in error

    log = TuningLog.of(here, tmp_path)
    measurements = parsed(lines_of(log))
    assert len(measurements) == 2 * len(SEARCHED)
    assert all("elf_x87" in str(m.failure) for m in measurements)
    assert not (log.folder / RECORDS).exists()
    assert all(search.times == {} for search in known_layers(LAYERS, here, log, HERE))


def test_wrong_candidates_are_never_kept(here: Target, package: Path, tmp_path: Path) -> None:
    """Two thirds of the pointwise space forget ReLU6, and are as fast as the rest."""
    pixels = [one for one in LAYERS if one.operator == "pwconv" and one.height == 1]
    layer = next(one for one in pixels if one.epilogue == "relu6")
    space = space_of(layer, here)
    right = default_schedule(layer, here).unroll_k  # type: ignore[attr-defined]
    wrong = {one for one in space if one.unroll_k != right}  # type: ignore[attr-defined]
    assert 0 < len(wrong) < len(space)
    with (package / "mnv2_tvm" / "kernels" / "__init__.py").open("a") as file:
        file.write(
            "\n_body = Pointwise.body\n\n"
            "def _broken(self, layer, target, operands):\n"
            f"    epilogue = 'linear' if self.unroll_k != {right} else layer.epilogue\n"
            "    from dataclasses import replace\n"
            "    _body(self, replace(layer, epilogue=epilogue), target, operands)\n\n"
            "Pointwise.body = _broken\n"
        )
    options = ["--layer", layer.name, "--trials", 12, "--log-dir", tmp_path]
    done = tune_copy(package, here, *options)
    assert done.returncode == 0, done.stderr
    log = TuningLog.of(here, tmp_path)
    measurements = parsed(lines_of(log))
    assert_nothing_twice(measurements)
    failed = {m.schedule for m in measurements if m.failure}
    assert failed == wrong & {m.schedule for m in measurements}
    assert failed
    assert all(
        str(m.failure).startswith("wrong numbers: relative error ")
        for m in measurements
        if m.failure
    )
    assert f"{len(measurements) - len(failed)} candidates measured" in done.stdout
    assert f"{len(failed)} failed" in done.stdout
    (record,) = log.records()
    assert record.schedule not in wrong
