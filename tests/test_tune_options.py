"""What is wrong with the options of `tune` is said before any work and any file."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_search import GLOB, LAYERS, SMALL

from mnv2_tvm.errors import UserError
from mnv2_tvm.failures import Failure
from mnv2_tvm.measure.candidate import build_candidate
from mnv2_tvm.measure.workers import WorkerPool
from mnv2_tvm.pipeline import default_schedule
from mnv2_tvm.target import Target
from mnv2_tvm.tune import tune


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"threads": 65},
        {"trials": 0},
        {"time_budget_s": 0.0},
        {"time_budget_s": math.nan},
        {"time_budget_s": math.inf},
        {"layer": "f32-lstm*"},
        {"on": ["tracker:127.0.0.1:9", "adb"]},
        {"on": ["telnet:there"]},
    ],
    ids=str,
)
def test_options_that_cannot_be(
    here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("mnv2_tvm.tune.search_layers", None)
    with pytest.raises(UserError):
        tune(here, SMALL, log_dir=tmp_path / "logs", **options)
    assert not (tmp_path / "logs").exists()


def test_a_log_that_cannot_be_written(
    here: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnv2_tvm.tune.search_layers", None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write tuning logs"):
        tune(here, SMALL, layer=GLOB, log_dir=tmp_path / "file")


def test_the_target_of_the_call_is_the_one_that_is_measured(here: Target, tmp_path: Path) -> None:
    """Not the one of the same name that a worker would find in a file."""
    layer = LAYERS[0]
    broken = replace(here, link=replace(here.link, emulation="elf_x87"))
    with WorkerPool(1) as pool:
        jobs = [
            (layer, default_schedule(layer, here), target, tmp_path / f"{number}.so")
            for number, target in enumerate((broken, here))
        ]
        results = dict(pool.run(build_candidate, jobs, 60))
    assert isinstance(results[0], Failure) and "elf_x87" in results[0].message
    assert results[1] == tmp_path / "1.so"
