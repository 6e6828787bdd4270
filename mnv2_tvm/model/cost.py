"""What a network costs before any schedule: arithmetic, parameters, its largest tensor."""

from dataclasses import dataclass

from mnv2_tvm.model.architecture import Architecture

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """Counts for one image."""

    macs: int
    weights: int  # as published: without BatchNorm and biases
    parameters: int  # as torchvision counts: with both
    largest_tensor: str  # the convolution whose output it is
    largest_elements: int

    @property
    def largest_kib(self) -> float:
        """The largest tensor in float32."""
        return self.largest_elements * FLOAT32_BYTES / 1024


def cost(architecture: Architecture) -> Cost:
    """The counts of `architecture`; of equal tensors, the first in the network is the largest."""
    largest = max(architecture.convolutions(), key=lambda conv: conv.out_elements)
    return Cost(
        macs=architecture.macs,
        weights=architecture.weights,
        parameters=architecture.parameters,
        largest_tensor=largest.name,
        largest_elements=largest.out_elements,
    )
