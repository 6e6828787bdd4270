"""Sizes that no library can address are refused before anything is compiled, and named."""

import re
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from mnv2_tvm.cli import run_verb
from mnv2_tvm.errors import UserError
from mnv2_tvm.model import Architecture
from mnv2_tvm.model.limits import excess_of
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.pipeline import plan_network
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.target import Target

LIMIT = 2**31


@pytest.mark.parametrize(
    ("option", "fits", "others"),
    [
        ("resolution", 14652, {"width": 0.35}),
        ("resolution", 9878, {"width": 1.0}),
        ("batch", 95325, {"resolution": 32}),
        ("batch", 4279, {"width": 0.35}),
        ("batch", 21_474, {"classes": 100_000, "width": 1.4, "resolution": 32}),
        ("classes", 415_524, {"width": 0.35}),
        ("classes", 414_106, {"batch": 3}),
        ("classes", 21_474, {"width": 0.35, "resolution": 32, "batch": 100_000}),
    ],
)
def test_the_largest_is_taken_and_one_more_is_not(
    option: str, fits: int, others: dict[str, Any]
) -> None:
    assert getattr(Architecture(**others | {option: fits}), option) == fits
    for more in (fits + 1, 10**8, 2**63 - 1):
        with pytest.raises(UserError) as error:
            Architecture(**others | {option: more})
        assert f"{option} {str(more)[:30]}" in str(error.value)
        assert f"--{option} {fits} or less" in str(error.value)
        assert len(str(error.value)) < 400


def test_what_no_single_option_mends_names_all() -> None:
    with pytest.raises(UserError) as error:
        Architecture(1.0, 10**8, 10**9, 10**9)
    found = re.search(r"--resolution (\d+) --batch (\d+) --classes (\d+)$", str(error.value))
    assert found
    resolution, batch, classes = map(int, found.groups())
    assert (resolution, batch, classes) == (9878, 1, 414_106)
    Architecture(1.0, resolution, classes, batch)


@pytest.mark.parametrize("width", [nan, inf, -inf, 0.0, 1e308])
def test_a_width_that_is_none(width: float) -> None:
    with pytest.raises(UserError, match=f"width {re.escape(str(width))} is outside"):
        Architecture(width)


def test_every_limit_is_the_last_that_fits() -> None:
    fits = [LIMIT - 1, LIMIT - 1, LIMIT - 1, LIMIT - 2**24]
    assert excess_of(*fits) is None
    for index, what in enumerate(("input", "output", "workspace", "weights")):
        more = [size + (place == index) for place, size in enumerate(fits)]
        assert str(excess_of(*more)).startswith(f"the {what} ")


def test_a_planned_workspace_is_held_against_the_same() -> None:
    """Layers that are not fused make it larger than the shapes alone tell."""
    target = Target.load("x86-avx2")

    def workspace_bytes(resolution: int) -> int:
        network = SourceNetwork.make(Architecture(0.35, resolution, 10, batch=5), None, 0)
        return plan_network(network.relax(), target, Decisions(target, {})).plan.workspace_bytes

    with pytest.raises(UserError, match=r"^5 images of 4096 x 4096: the workspace ") as error:
        workspace_bytes(4096)
    found = re.search(
        r"take (\d+) MiB.* --batch (\d+) or less, or --resolution (\d+) or less$", str(error.value)
    )
    assert found
    mib, batch, resolution = map(int, found.groups())
    assert batch == int(5 * LIMIT / 2**20 / mib)
    assert 0.95 * LIMIT < workspace_bytes(resolution) < LIMIT


def test_too_little_memory_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def verb() -> None:
        np.ones(2**50)

    with pytest.raises(SystemExit) as end:
        run_verb(verb, [])
    assert end.value.code == 1
    assert "error: this machine has too little memory" in capsys.readouterr().err
