"""The model of memory traffic: fused blocks move fewer bytes where tensors exceed the cache."""

import json
from pathlib import Path

from conftest import run_python, skip_if_not_runnable

from mnv2_tvm.target import Target

SCRIPT = Path(__file__).parents[1] / "scripts" / "traffic" / "measure.py"
L2_BYTES = 128 * 1024  # less than an expanded tensor of the network, 32x32x48


def test_fused_blocks_move_fewer_bytes_through_a_small_cache(tmp_path: Path) -> None:
    skip_if_not_runnable(Target.load("x86-avx2"))
    output = tmp_path / "traffic.json"
    network = ["--width", "0.35", "--resolution", "64"]
    done = run_python(SCRIPT, *network, "--l2-bytes", str(L2_BYTES), "--json", output)
    assert done.returncode == 0, done.stderr
    table = json.loads(output.read_text())
    fused, apart = (table["results"][name] for name in ("decisions of rasp4", "every layer apart"))
    # What the last run left in the cache need not come again.
    assert table["floor"] - L2_BYTES < fused["bytes"] < apart["bytes"] - 500_000
    assert "decisions of rasp4" in done.stdout
    blocks = [step for step in fused["steps"] if "-irb-" in step]
    assert blocks and not any("-irb-" in step for step in apart["steps"])
    assert sum(fused["steps"].values()) == fused["bytes"]
