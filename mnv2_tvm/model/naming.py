"""The names that torchvision, timm and other well-known repositories give to the same weights."""

from collections.abc import Collection, Mapping

from mnv2_tvm.model.architecture import TABLE, Architecture

STEMS = ("features.0.0.weight", "conv_stem.weight")  # the first convolution: torchvision's, timm's


def file_keys(architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """For each of torchvision's keys, the key of the same tensor in a file with such shapes.

    The scheme of the blocks, of the last convolution and of the classifier are told from the keys
    one by one; what is of none is held to torchvision's.
    """
    names = _prefixes(architecture, shapes)
    linear = f"{names['classifier.1']}.weight"
    if linear not in shapes:
        taken = {f"{name}.weight" for name in names.values()}
        others = [k for k, s in shapes.items() if len(s) == 2 and k not in taken]
        heads = [key for key in others if key.endswith(".weight")]
        if len(heads) == 1:  # there is one Linear, whatever its name
            names["classifier.1"] = heads[0].removesuffix(".weight")
    split = (key.rsplit(".", 1) for key in architecture.state_shapes())
    return {f"{prefix}.{leaf}": f"{names[prefix]}.{leaf}" for prefix, leaf in split}


def _prefixes(architecture: Architecture, keys: Collection[str]) -> dict[str, str]:
    """For each of torchvision's prefixes, of convolutions and BatchNorms, that of the file."""
    if "conv_stem.weight" in keys:
        return timm_prefixes(architecture)
    parts = [name for conv in architecture.convolutions() for name in (conv.name, conv.norm)]
    names = {name: name for name in parts if name is not None}
    if "features.1.conv.0.weight" in keys:
        names = {name: _flat(name) for name in names}
    if "conv.0.weight" in keys:
        names |= {"features.18.0": "conv.0", "features.18.1": "conv.1"}
    return names


def _flat(name: str) -> str:
    """The name where a block is one Sequential of convolutions, BatchNorms and ReLU6s.

    As in https://github.com/d-li14/mobilenetv2.pytorch and
    https://github.com/tonylins/pytorch-mobilenet-v2.
    """
    block, found, inner = name.partition(".conv.")
    if not found:
        return name
    group, _, layer = inner.partition(".")
    if layer:  # a convolution or BatchNorm with a ReLU6 behind it
        return f"{block}.conv.{3 * int(group) + int(layer)}"
    activated = 1 if block == "features.1" else 2
    return f"{block}.conv.{3 * activated + int(group) - activated}"


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
