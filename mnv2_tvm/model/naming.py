"""The names that torchvision and timm give to the same weights."""

from collections.abc import Collection

from mnv2_tvm.model.architecture import TABLE, Architecture


def file_keys(architecture: Architecture, keys: Collection[str]) -> dict[str, str]:
    """For each of torchvision's keys, the key of the same tensor in a file that has `keys`.

    The scheme is told from the stem's key; a file that is neither is held to torchvision's.
    """
    wanted = architecture.state_shapes()
    if "conv_stem.weight" not in keys:
        return {key: key for key in wanted}
    prefixes = timm_prefixes(architecture)
    split = (key.rsplit(".", 1) for key in wanted)
    return {f"{prefix}.{leaf}": f"{prefixes[prefix]}.{leaf}" for prefix, leaf in split}


def timm_prefixes(architecture: Architecture) -> dict[str, str]:
    """timm's prefix for each of torchvision's, of convolutions and BatchNorms.

    Source: the `mobilenetv2` models, `DepthwiseSeparableConv` (the block without expansion) and
    `InvertedResidual` of https://github.com/huggingface/pytorch-image-models.
    """
    prefixes: dict[str, str] = {}
    names = iter(_timm_pairs())
    for conv in architecture.convolutions():
        name, norm = next(names)
        prefixes[conv.name] = name
        if conv.norm is not None:
            prefixes[conv.norm] = norm
    return prefixes


def _timm_pairs() -> list[tuple[str, str]]:
    """timm's (convolution, BatchNorm) prefixes in the order of the network."""
    pairs = [("conv_stem", "bn1")]
    for stage, (expansion, _, blocks, _) in enumerate(TABLE):
        layers = ("conv_dw", "conv_pw") if expansion == 1 else ("conv_pw", "conv_dw", "conv_pwl")
        for block in range(blocks):
            prefix = f"blocks.{stage}.{block}"
            pairs += [(f"{prefix}.{layer}", f"{prefix}.bn{i}") for i, layer in enumerate(layers, 1)]
    return [*pairs, ("conv_head", "bn2"), ("classifier", "")]
