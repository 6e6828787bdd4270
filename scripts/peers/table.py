"""Results as Markdown, and into the documentation between their markers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runners import ONE_THREAD, OURS

_REASON_COLUMNS = 100
_SHORT = 4  # of the README's table: the fastest peers, and the slowest


def table(result: dict[str, Any]) -> str:
    """One network: its rows, fastest first, with what they were measured on."""
    good = [row for row in result["rows"] if "failed" not in row]
    lines = [
        f"MobileNetV2-{result['network']}, fp32, batch 1, {_machine(result)}, "
        f"{result['date'][:10]}; ours reaches {result['our_share_of_peak']:.0%} of the FMA peak, "
        f"measured as {result['peak_gflops']:.0f} GFLOP/s.",
        "",
        "| runtime | version | median ms | ours is faster by | memory growth MB | max rel. error |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in sorted(good, key=lambda row: row["median_ms"]):
        name = row["name"] + (f" ({row['remark']})" if row["remark"] else "")
        lines.append(
            f"| {name} | {row['version']} | {row['median_ms']:.3f} | "
            f"{'' if row['name'] == OURS else _ratio(row)} | {row['peak_growth_mb']:.1f} | "
            f"{row['relative_error']:.0e} |"
        )
    for row in result["rows"]:
        if "failed" in row:
            reason = row["failed"].replace("|", "/")[:_REASON_COLUMNS]
            lines.append(f"| {row['name']} | | not measured | {reason} | | |")
    return "\n".join(lines)


def short_table(result: dict[str, Any]) -> str:
    """The fastest few and the slowest of one network, with what they were measured on."""
    rows = sorted(
        (row for row in result["rows"] if "failed" not in row), key=lambda row: row["median_ms"]
    )
    lines = [
        f"MobileNetV2-{result['network']}, fp32, batch 1, {_machine(result)}, "
        f"{result['date'][:10]}:",
        "",
        "| runtime | version | median ms | ours is faster by |",
        "|---|---|---:|---:|",
    ]
    for row in rows[: _SHORT + 1] + rows[_SHORT + 1 :][-1:]:
        ratio = "" if row["name"] == OURS else _ratio(row)
        lines.append(f"| {row['name']} | {row['version']} | {row['median_ms']:.3f} | {ratio} |")
    return "\n".join(lines)


def sweep_table(results: Sequence[dict[str, Any]]) -> str:
    """Widths down, resolutions across: how much ours is faster than the fastest peer there."""
    points = {tuple(map(float, r["network"].split("-"))): r for r in results}
    widths, resolutions = (sorted({point[i] for point in points}) for i in (0, 1))
    dates = sorted(result["date"][:10] for result in results)
    lines = [
        f"MobileNetV2, fp32, batch 1, {_machine(results[0])}, "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}: "
        "ours is faster than the fastest other by",
        "",
        f"| width | {' | '.join(f'{resolution:.0f}' for resolution in resolutions)} |",
        f"|---|{'---|' * len(resolutions)}",
    ]
    for width in widths:
        cells = (_fastest(points.get((width, resolution))) for resolution in resolutions)
        lines.append(f"| {width} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _fastest(result: dict[str, Any] | None) -> str:
    rows = result["rows"] if result else []
    others = [row for row in rows if row["name"] not in (OURS, ONE_THREAD) and "failed" not in row]
    if not others:
        return ""
    row = min(others, key=lambda row: row["median_ms"])
    return f"{_ratio(row)} {row['name']}"


def _ratio(row: dict[str, Any]) -> str:
    low, high = row["ratio_interval_95"]
    return f"{row['ratio_to_ours']:.2f}x ({low:.2f}-{high:.2f})"


def _machine(result: dict[str, Any]) -> str:
    machine = (
        f"{result['threads']} thread(s), {result['cpu']}, {result['cores']} cores, "
        f"{result['target']}"
    )
    held = result["peers_held_to_avx2"]
    return machine + (", the others held to AVX2 where they can be" if held else "")


def replace(page: Path, name: str, text: str) -> None:
    """Put `text` between the markers of this name, if the page has them."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    whole = page.read_text(encoding="utf-8")
    if begin in whole:
        head, rest = whole.split(begin, 1)
        tail = rest.split(end, 1)[1]
        page.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
