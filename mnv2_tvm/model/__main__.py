"""`python -m mnv2_tvm.model`: what MobileNetV2 costs by width and resolution."""

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from mnv2_tvm import cli
from mnv2_tvm.model.architecture import PUBLISHED, Architecture
from mnv2_tvm.model.cost import cost


def cost_table(architectures: list[Architecture]) -> Table:
    """One row for each of `architectures`."""
    table = Table(
        title="MobileNetV2 by width_resolution, one image",
        caption="weights: as published; parameters: with BatchNorm and bias, as torchvision",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("network", no_wrap=True)
    for heading in ("MACs\n(M)", "weights\n(M)", "parameters\n(M)"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("largest\ntensor", no_wrap=True)
    for heading in ("\nelements", "KiB\n(fp32)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for architecture in architectures:
        counts = cost(architecture)
        table.add_row(
            f"{architecture.width}_{architecture.resolution}",
            f"{counts.macs / 1e6:.1f}",
            f"{counts.weights / 1e6:.2f}",
            f"{counts.parameters / 1e6:.2f}",
            counts.largest_tensor,
            f"{counts.largest_elements}",
            f"{counts.largest_kib:.0f}",
        )
    return table


def main(
    width: Annotated[float | None, typer.Option(help="Width multiplier, 0.35 to 1.4.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Height and width of the image.")] = None,
) -> None:
    """Print MACs, parameters and the largest tensor: of one network, or of all published."""
    if width is None and resolution is None:
        architectures = [Architecture(*pair) for pair in PUBLISHED]
    else:
        defaults = Architecture()
        architectures = [
            Architecture(
                defaults.width if width is None else width,
                defaults.resolution if resolution is None else resolution,
            )
        ]
    cli.plain_console().print(cost_table(architectures))


if __name__ == "__main__":
    cli.run_verb(main)
