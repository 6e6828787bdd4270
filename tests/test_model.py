"""The shapes and counts of the network against the published ones."""

from itertools import pairwise, product
from math import floor, isclose

import pytest
import typer
from conftest import ended
from typer.testing import CliRunner

import mnv2_tvm.model as model
from mnv2_tvm.errors import UserError
from mnv2_tvm.model import PUBLISHED, Architecture
from mnv2_tvm.model.__main__ import main
from mnv2_tvm.model.architecture import round_channels
from mnv2_tvm.model.cost import cost

# Width -> parameters (M), then MACs (M) at 224, 192, 160, 128, 96, of the authors' table:
# https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet/README.md
PUBLISHED_COUNTS = {
    1.4: (6.06, [582]),
    1.3: (5.34, [509]),
    1.0: (3.47, [300, 221, 154, 99, 56]),
    0.75: (2.61, [209, 153, 107, 69, 39]),
    0.5: (1.95, [97, 71, 50, 32, 18]),
    0.35: (1.66, [59, 43, 30, 20, 11]),
}
ORACLE = {
    (width, side): (macs, parameters)
    for width, (parameters, by_side) in PUBLISHED_COUNTS.items()
    for side, macs in zip((224, 192, 160, 128, 96), by_side, strict=False)
}


def test_every_published_pair_is_in_the_oracle() -> None:
    assert len(PUBLISHED) == 22
    assert set(PUBLISHED) == set(ORACLE)


def test_counts_agree_with_the_published_ones() -> None:
    """The one rule under which all 22 rows agree to the printed digits.

    MACs: convolutions and classifier without bias, BatchNorm and pooling, cut off after the
    million (300.77 is printed as 300). Parameters: weights without BatchNorm, rounded; with gamma
    and beta it would be 3.50, not 3.47, at width 1.
    """
    for width, resolution in PUBLISHED:
        architecture = Architecture(width, resolution)
        macs, parameters = ORACLE[width, resolution]
        assert floor(architecture.macs / 1e6) == macs, architecture
        assert f"{architecture.weights / 1e6:.2f}" == f"{parameters:.2f}", architecture


def test_parameters_are_those_torchvision_states() -> None:
    # num_params of torchvision's MobileNet_V2_Weights.
    assert Architecture().parameters == 3_504_872


def test_largest_bottleneck_is_the_papers() -> None:
    """The paper's Table 3: 400K at 16 bit, the 16 channels of 112x112 between two blocks."""
    between_blocks = [conv for conv in Architecture().convolutions()[:-1] if not conv.relu6]
    assert len(between_blocks) == 17
    assert 2 * max(conv.out_elements for conv in between_blocks) == 112 * 112 * 16 * 2


def test_largest_tensor_is_the_first_expansion() -> None:
    counts = cost(Architecture())
    assert counts.largest_tensor == "features.2.conv.0.0"
    assert counts.largest_elements == 112 * 112 * 96
    assert isclose(counts.largest_kib, 4704)


def test_channels_are_rounded_to_eight_but_never_lose_a_tenth() -> None:
    values = [32, 11.2, 24 * 0.35, 5.6, 1, 44.8, 36, 33.6]
    assert [round_channels(value) for value in values] == [32, 16, 8, 8, 8, 48, 40, 32]


def test_any_width_and_resolution_connects() -> None:
    for width, resolution in product(
        (0.35, 0.36, 0.42, 0.61, 0.88, 1.0, 1.17, 1.4), (32, 33, 47, 224, 255)
    ):
        architecture = Architecture(width, resolution)
        *convolutions, classifier = architecture.convolutions()
        for before, after in pairwise(convolutions):
            assert after.in_channels == before.out_channels, architecture
            assert (after.height, after.width) == (before.out_height, before.out_width)
        assert len(convolutions) == 52
        assert convolutions[-1].out_channels == classifier.in_channels, architecture
        assert all(conv.out_channels % 8 == 0 for conv in convolutions), architecture
        assert convolutions[-1].out_height == -(-resolution // 32), architecture


def test_narrow_networks_keep_the_last_channels() -> None:
    assert Architecture(0.35).convolutions()[-1].in_channels == 1280
    assert Architecture(1.4).convolutions()[-1].in_channels == 1792


def test_ten_blocks_of_width_one_add_their_input() -> None:
    residual = [conv.block for conv in Architecture().convolutions() if conv.residual]
    assert residual == [f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]


@pytest.mark.parametrize(
    ("width", "resolution", "classes", "batch"),
    [
        (0.3, 224, 1000, 1),
        (1.5, 224, 1000, 1),
        (float("nan"), 224, 1000, 1),
        (1.0, 31, 1000, 1),
        (1.0, 224, 0, 1),
        (1.0, 224, 1000, 0),
    ],
)
def test_bad_architectures_are_refused(
    width: float, resolution: int, classes: int, batch: int
) -> None:
    with pytest.raises(UserError):
        Architecture(width, resolution, classes, batch)


def test_exported_names_are_there_once() -> None:
    assert all(hasattr(model, name) for name in model.__all__)
    assert len(set(model.__all__)) == len(model.__all__)


def invoke(*options: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, options)
    return result.exit_code, result.output


def test_table_has_a_row_for_every_published_pair() -> None:
    exit_code, output = invoke()
    assert exit_code == 0
    assert all(f"{width}_{side} " in output for width, side in PUBLISHED)
    assert output.count("features.2.conv.0.0") + output.count("features.0.0") == len(PUBLISHED)


def test_table_of_one_network() -> None:
    exit_code, output = invoke("--width", "0.8", "--resolution", "47")
    assert exit_code == 0
    assert "0.8_47" in output and "1.0_224" not in output


def test_table_of_an_impossible_network_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, output, errors = ended(capsys, main, "--width", "0")
    assert (code, output, errors) == (1, "", "error: width 0.0 is outside 0.35 to 1.4\n")
