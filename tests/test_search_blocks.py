"""A search with blocks in it: each is kept as one kernel or layer by layer, whichever is faster."""

import shutil
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from conftest import ended
from small_search import (
    BLOCKS,
    LAYERS,
    SIZE,
    SMALL,
    Tuned,
    assert_nothing_twice,
    short_tune,
    space_of,
)

from mnv2_tvm import show
from mnv2_tvm.build import build
from mnv2_tvm.deploy.loader import load
from mnv2_tvm.layer import Layer
from mnv2_tvm.model.source import SourceNetwork
from mnv2_tvm.numbers import TOLERANCE, relative_error
from mnv2_tvm.records.decisions import Decisions
from mnv2_tvm.records.tuning_log import TuningLog
from mnv2_tvm.search.variants import memory_savers
from mnv2_tvm.target import Target

BLOCK = Layer.parse("f32-irb-3x3s1-2x2x32-192-32-residual")
GLOB = "f32-*[1v]-2x2x*192*"  # the block and its layers
SEARCHED = {layer for layer in LAYERS + BLOCKS if fnmatchcase(layer.name, GLOB)}
TRIALS = 2


@pytest.fixture(scope="module")
def blocks(here: Target, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """The search. Do not change its logs: copy the folder."""
    log_dir = tmp_path_factory.mktemp("logs")
    return Tuned(log_dir, short_tune(here, SMALL, layer=GLOB, trials=TRIALS, log_dir=log_dir))


def test_blocks_are_measured_like_layers(here: Target, blocks: Tuned) -> None:
    assert {BLOCK, *BLOCK.parts} == SEARCHED
    measurements = TuningLog.of(here, blocks.log_dir).measurements()
    assert_nothing_twice(measurements)
    assert blocks.report.tally.failed == 0
    for layer in SEARCHED:
        mine = [m for m in measurements if m.layer == layer]
        assert len(mine) == TRIALS
        assert {m.schedule for m in mine} <= set(space_of(layer, here))
        assert all(m.max_error is not None and m.max_error <= TOLERANCE for m in mine)


def test_a_block_keeps_the_faster_of_its_kernel_and_its_layers(here: Target, blocks: Tuned) -> None:
    log = TuningLog.of(here, blocks.log_dir)
    records = {record.layer: record for record in log.records()}
    assert records.keys() == SEARCHED
    kept, layers_us = records[BLOCK], sum(records[part].median_us for part in BLOCK.parts)
    if kept.schedule is None:
        assert kept.median_us == pytest.approx(layers_us, abs=1e-3)
    else:
        assert kept.schedule in {m.schedule for m in log.measurements() if m.layer == BLOCK}
        assert BLOCK not in memory_savers(BLOCKS)  # those may be slower
        assert kept.median_us <= layers_us + 1e-3  # each part is rounded
    assert all(records[part].schedule is not None for part in BLOCK.parts)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "layer-by-layer"])
def test_either_choice_is_shown_and_built(
    here: Target, blocks: Tuned, tmp_path: Path, capsys: pytest.CaptureFixture[str], fused: bool
) -> None:
    """That of the search, and the one it could have made on another machine."""
    log_dir = tmp_path / "logs"
    shutil.copytree(blocks.log_dir, log_dir)
    log = TuningLog.of(here, log_dir)
    (kept,) = [record for record in log.records() if record.layer == BLOCK]
    measured = [m.schedule for m in log.measurements() if m.layer == BLOCK]
    log.keep([replace(kept, schedule=(kept.schedule or measured[0]) if fused else None)])

    code, output, _ = ended(
        capsys, show.main, "--target", here.name, *SIZE, "--log-dir", log_dir, "--layer", GLOB
    )
    assert code == 0
    rows = [line.split(maxsplit=2) for line in output.splitlines() if line.startswith(" f32-")]
    assert {(name, source, shown.rstrip()) for name, source, shown in rows} == {
        (record.layer.name, "tuned", str(record.schedule or "layer by layer"))
        for record in log.records()
    }

    network = SourceNetwork.make(SMALL, None, 7)
    decisions = Decisions.load(here, 1, log_dir)
    manifest = build(here, network, tmp_path / "out", decisions=decisions)
    sources = {Layer.parse(row["name"]): row["source"] for row in manifest.layers}
    chosen, other = (BLOCK.parts[1:], [BLOCK]) if not fused else ([BLOCK], BLOCK.parts[1:])
    assert {sources[layer] for layer in chosen} == {"tuned"}
    assert not sources.keys() & set(other)
    images = network.images(1)
    assert relative_error(load(tmp_path / "out")(images), network.reference(images)) <= TOLERANCE
