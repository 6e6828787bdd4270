"""`scripts/compare_peers`: a real comparison of what tests install, and a row for what fails."""

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mnv2_tvm
from mnv2_tvm import cli
from mnv2_tvm.errors import UserError
from mnv2_tvm.layer import Layer
from mnv2_tvm.target import Target

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts/peers"))

import compare
import measure
import table
from case import Case, why
from conversions import convert, environment
from formats import FORMATS
from measure import Settings, interval
from process import PeerProcess
from roofline import operand_bytes
from runners import ONE_THREAD, OURS, PEERS
from serve import time_runs

NOWHERE = Path("no-venv/bin/python")


@pytest.fixture(scope="module", autouse=True)
def peers_have_torch() -> Iterator[None]:
    """The processes of the peers: torch is one of them, and others are made from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(mnv2_tvm.__file__).parents[1]))
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Its models are kept: a conversion takes seconds."""
    peers = ("torch, frozen", "TVM, stock Relax", "LiteRT")
    models = tmp_path_factory.mktemp("models")
    return Settings(Target.load("host"), 1, 3, 2, 0, False, peers, NOWHERE, models)


@pytest.fixture(scope="module")
def result(settings: Settings) -> dict[str, Any]:
    return compare.compare(settings, 0.35, 32)


@pytest.fixture
def converted(settings: Settings, result: dict[str, Any]) -> Path:
    """The folder with the models of `result`."""
    with settings.folder(0.35, 32) as folder:
        return folder


@pytest.fixture
def case(tmp_path: Path) -> Case:
    np.save(tmp_path / "input.npy", np.ones((1, 32, 32, 3), np.float32))
    return Case(0.35, 32, 0, 1, Target.load("host").name, False, tmp_path)


def test_kept_models_are_used_again_and_unfinished_ones_are_not(
    settings: Settings, converted: Path
) -> None:
    kept, unfinished = (converted / FORMATS[name].file for name in ("relax", "torchscript"))
    first = [model.stat().st_mtime_ns for model in (kept, unfinished)]
    (converted / "torchscript.done").unlink()
    assert measure.prepare(replace(settings, peers=settings.peers[:2]), 0.35, 32) == {}
    assert kept.stat().st_mtime_ns == first[0]
    assert unfinished.stat().st_mtime_ns > first[1]


def test_converting_alone_wants_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run_verb(compare.main, ["--only-convert"])
    assert "--models" in capsys.readouterr().err


def test_a_comparison_times_all_that_can_run(result: dict[str, Any]) -> None:
    ours, torch, relax, _ = result["rows"]
    assert [ours["name"], torch["name"], relax["name"]] == [OURS, *list(PEERS)[-2:]]
    for row in (ours, torch, relax):
        assert row["median_ms"] >= row["min_ms"] > 0
        assert row["relative_error"] < 1e-4
        assert len(row["samples_ms"]) == 3
        assert row["peak_growth_mb"] > 0
    assert ours["ratio_interval_95"] == [1.0, 1.0]
    assert json.loads(json.dumps(result)) == result


def test_a_peer_that_cannot_be_converted_is_a_row(result: dict[str, Any]) -> None:
    reason = "its converter's venv is not installed"
    assert result["rows"][-1] == {"name": "LiteRT", "failed": reason}
    assert f"| LiteRT | | not measured | {reason} | | |" in table.table(result)


def test_a_peer_without_its_file_fails_alone(case: Case) -> None:
    peer = PeerProcess("torch, frozen", case)
    assert peer.failed is not None and FORMATS["torchscript"].file in peer.failed
    peer.close()


def test_a_peer_that_is_killed_says_so(case: Case, converted: Path) -> None:
    peer = PeerProcess("torch, frozen", replace(case, folder=converted))
    assert peer.failed is None and len(peer.time(4)) == 4
    assert peer._process is not None
    peer._process.send_signal(signal.SIGSEGV)
    assert peer.time(4) == []
    assert peer.failed == "its process was killed by signal 11"
    peer.close()


def test_a_failed_source_names_itself(case: Case) -> None:
    failed = convert(replace(case, width=9.0), ["executorch"], NOWHERE)
    assert failed["exported"].startswith("UserError: ")
    assert failed["executorch"] == f"no exported to convert from: {failed['exported']}"


def test_formats_and_runners_fit_together() -> None:
    assert {peer.format for peer in PEERS.values()} <= set(FORMATS)
    assert {form.source for form in FORMATS.values()} <= {None, *FORMATS}


def test_one_thread_of_ours_stands_beside_two(settings: Settings) -> None:
    both = replace(settings, threads=2, peers=(ONE_THREAD,), models=None)
    two, one = compare.compare(both, 0.35, 32)["rows"]
    assert (two["name"], one["name"]) == (OURS, ONE_THREAD)
    assert one["relative_error"] == two["relative_error"] < 1e-4  # the same bits


def test_only_avx2_is_asked_for_where_it_is(case: Case) -> None:
    held, free = environment(replace(case, avx2=True)), environment(case)
    assert held["ONEDNN_MAX_CPU_ISA"] == "AVX2" and "ONEDNN_MAX_CPU_ISA" not in free
    assert held["OMP_NUM_THREADS"] == free["OMP_NUM_THREADS"] == "1"


def test_a_case_survives_the_command_line(case: Case) -> None:
    assert Case.from_json(case.to_json()) == case


def test_an_error_is_one_line() -> None:
    assert why(ValueError("first\nsecond")) == "ValueError: first"
    assert why(ModuleNotFoundError("No module named 'x'")) == "not installed: No module named 'x'"


def test_a_slow_peer_has_three_runs() -> None:
    assert len(time_runs(lambda: np.zeros(1), 50)) == 50
    assert len(time_runs(lambda: np.zeros(1), 50, turn_s=0)) == 3


def test_the_interval_has_the_median_in_it() -> None:
    ratios = np.array([1.1, 1.2, 1.3, 1.4, 9.0])
    low, high = interval(ratios)
    assert 1.1 <= low <= 1.3 <= high <= 9.0
    assert interval(ratios) == (low, high)


def test_a_sweep_names_the_fastest_peer(result: dict[str, Any]) -> None:
    fast, slow = dict(result["rows"][1]), dict(result["rows"][2])
    fast |= {"median_ms": 2.0, "ratio_to_ours": 1.5, "ratio_interval_95": [1.4, 1.6]}
    slow |= {"median_ms": 3.0}
    failed = {"name": "LiteRT", "failed": "anything"}
    point = result | {"network": "0.5-96", "rows": [result["rows"][0], slow, fast, failed]}
    none = result | {"network": "1.0-128", "rows": [result["rows"][0], failed]}
    text = table.sweep_table([none, point]).splitlines()
    assert text[-4] == "| width | 96 | 128 |"
    assert text[-2] == f"| 0.5 | 1.50x (1.40-1.60) {fast['name']} |  |"
    assert text[-1] == "| 1.0 |  |  |"


def test_a_saved_sweep_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings, result: dict[str, Any]
) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("a\n<!-- peers sweep 1 -->\nold\n<!-- /peers sweep 1 -->\nb\n")
    monkeypatch.setattr(compare, "BENCHMARKS", page)
    monkeypatch.setattr(compare, "SWEEP", tmp_path / "sweep")
    monkeypatch.setattr(
        compare,
        "compare",
        lambda _, width, resolution: result | {"network": f"{width}-{resolution}"},
    )
    compare.sweep(settings, [0.5], [96], save=True)
    assert len(compare.sweep(settings, [1.0], [96], save=True)) == 1
    text = page.read_text()
    assert "| 0.5 |" in text and "| 1.0 |" in text and "old" not in text
    assert text.startswith("a\n") and text.endswith("b\n")


TABLES = {
    "1.0-224-x86-avx512-1t": "peers 1.0-224 1",
    "1.0-224-x86-avx512-2t": "peers 1.0-224 2",
    "1.0-224-x86-avx2-1t": "peers 1.0-224 1 avx2",
}


def between(page: Path, name: str) -> str:
    """What stands between the markers of this name, of which a page has one pair."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    whole = page.read_text(encoding="utf-8")
    assert whole.count(begin) == whole.count(end) == 1
    return whole.split(begin)[1].split(end)[0]


def test_the_pages_have_the_saved_results() -> None:
    """Nobody writes a figure by hand: what a page has between its markers is what was saved."""
    for file, name in TABLES.items():
        saved = json.loads((compare.RESULTS / f"peers-{file}.json").read_text(encoding="utf-8"))
        assert between(compare.BENCHMARKS, name) == table.table(saved)
        if name == "peers 1.0-224 1":
            assert between(compare.README, "peers short") == table.short_table(saved)
    points = [json.loads(path.read_text(encoding="utf-8")) for path in compare.SWEEP.glob("*.json")]
    assert between(compare.BENCHMARKS, "peers sweep 1") == table.sweep_table(points)


def test_the_short_table_has_the_fastest_and_the_slowest(result: dict[str, Any]) -> None:
    ours, peer = result["rows"][0] | {"median_ms": 1.0}, result["rows"][1]
    peers = [peer | {"name": f"peer {ms}", "median_ms": float(ms)} for ms in range(9, 1, -1)]
    failed = {"name": "LiteRT", "failed": "anything"}
    rows = table.short_table(result | {"rows": [*peers, failed, ours]}).splitlines()[4:]
    names = [row.split(" | ")[0] for row in rows]
    assert names == [f"| {OURS}", *(f"| peer {ms}" for ms in (2, 3, 4, 5, 9))]
    few = table.short_table(result | {"rows": [ours, *peers[-4:]]}).splitlines()[4:]
    assert len(few) == 5


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(UserError, match="no peer is called 'ort'"):
        compare.main(peer=["ort"])
    with pytest.raises(UserError, match="is not a list of numbers"):
        compare.main(in_sweep=True, widths="wide")


def test_operands_are_counted_once() -> None:
    pointwise = Layer.parse("f32-pwconv-7x7x320-1280")
    assert operand_bytes(pointwise) == 4 * (49 * 320 + 320 * 1280 + 1280 + 49 * 1280)
    residual = Layer.parse("f32-pwconv-7x7x960-160-residual")
    assert operand_bytes(residual) == 4 * (49 * 960 + 960 * 160 + 160 + 2 * 49 * 160)
    assert operand_bytes(Layer.parse("f32-avgpool-7x7x1280")) == 4 * (49 * 1280 + 1280)
