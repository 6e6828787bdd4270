"""Which options a set of tensors is for, told from their shapes."""

from collections.abc import Mapping

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.architecture import MAX_WIDTH, MIN_WIDTH, PUBLISHED, Architecture

# Published widths first; then every hundredth, as widths between are equal in most of the shapes.
WIDTHS = (
    *dict.fromkeys(width for width, _ in PUBLISHED),
    *(hundredths / 100 for hundredths in range(round(MIN_WIDTH * 100), round(MAX_WIDTH * 100) + 1)),
)


def fitting_options(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """`--width W --classes N` of the network whose shapes these are, None if there is none.

    `shapes` has torchvision's keys; BatchNorm's counters may be left out.
    """
    classes = next(iter(shapes["classifier.1.weight"]), 0)
    if classes < 1:
        return None
    for width in WIDTHS:
        try:
            wanted = Architecture(width, classes=classes).state_shapes()
        except UserError:  # so many classes that no network has them
            return None
        if all(wanted[key] == shape for key, shape in shapes.items()):
            return f"--width {width} --classes {classes}"
    return None
