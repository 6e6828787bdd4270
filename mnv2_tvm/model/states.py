"""The networks that a checkpoint holds, wherever training scripts put their weights.

A network is told by its first convolution: a dict with the key "PREFIX.features.0.0.weight" holds
one, with all keys that begin with the prefix. So `module.`, `_orig_mod.`, `model.`, `backbone.` and
any other prefix are read without being listed, and two networks in one dict are kept apart.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mnv2_tvm.errors import UserError
from mnv2_tvm.model.architecture import Architecture
from mnv2_tvm.model.naming import STEMS, file_keys
from mnv2_tvm.model.pickle_machine import Made
from mnv2_tvm.model.stored_tensors import StoredTensor, Tensor
from mnv2_tvm.untrusted import printable

COUNTER = "num_batches_tracked"  # of training only
# The last part of the keys of what a network computes with.
_LEAVES = ("weight", "bias", "running_mean", "running_var")

_DEEPEST = 8  # dicts in dicts; weights have been seen in the third
_MOST_ITEMS = 100  # of a list that is looked into: no history of losses
_MOST_NETWORKS = 32
_MOST_TENSORS = 100_000  # and parts of modules that were saved as a whole
_LONGEST = 1000  # characters of the name of a module's part

# Averaged weights are what was evaluated: of a mean teacher, an EMA, a stochastic average.
_AVERAGED = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?|teacher|shadow)(?![a-z])")


@dataclass(frozen=True)
class Network:
    """The tensors of one network in a file, by their keys behind the prefix."""

    name: str  # where in the file: "model_ema"; what --state takes
    prefix: str  # of its keys there: "module."
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...]  # keys of other tensors in the same dict

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what is not read as plain numbers: ()."""
        tensors = self.tensors.items()
        return {key: t.shape if isinstance(t, StoredTensor) else () for key, t in tensors}

    @property
    def averaged(self) -> bool:
        """Whether its name says that it is an average over training steps."""
        return _AVERAGED.search(f"{self.name} {self.prefix}".lower()) is not None


def choose(
    tree: Any, architecture: Architecture, state: str | None, what: str
) -> tuple[Network, list[str]]:
    """The network called `state` and the names of the others that fit the architecture.

    By default one that fits, and of these an averaged one. Raises UserError, which begins with
    `what`, where there is none or none of that name.
    """
    try:
        networks = networks_in(tree)
    except ValueError as error:
        raise UserError(
            f"{what} hold {error}; save the weights alone with torch.save(model.state_dict(), ...)"
        ) from error
    if not networks:
        raise _no_network(tree, what)
    unfit = [not _fits(network, architecture) for network in networks]
    if state is None:
        taken = min(range(len(networks)), key=lambda i: (unfit[i], not networks[i].averaged))
    else:
        named = [index for index, network in enumerate(networks) if network.name == state]
        if not named:
            there = ", ".join(printable(network.name) for network in networks)
            raise UserError(f"{what} hold no --state {printable(state)}; there is: {there}")
        taken = named[0]
    others = [network.name for i, network in enumerate(networks) if i != taken and not unfit[i]]
    return networks[taken], others


def _fits(network: Network, architecture: Architecture) -> bool:
    """Whether it has all tensors of the architecture, counters of training steps apart."""
    shapes = network.shapes
    names, wanted = file_keys(architecture, shapes), architecture.state_shapes()
    kept = (key for key in wanted if not key.endswith(COUNTER))
    return all(shapes.get(names[key]) == wanted[key] for key in kept)


def _no_network(tree: Any, what: str) -> UserError:
    found = max(flat_dicts(tree), key=lambda found: len(found[1]), default=None)
    if found is None:
        held = tree.name if isinstance(tree, Made) else type(tree).__name__
        return UserError(
            f"{what} hold a {printable(held)} without tensors; save them with "
            "torch.save(model.state_dict(), ...)"
        )
    shown = ", ".join(map(printable, list(found[1])[:3]))
    return UserError(
        f"{what} lack {STEMS[0]}; the tensors there ({shown} ...) are no MobileNetV2 with the "
        "names of torchvision or timm"
    )


def networks_in(tree: Any) -> list[Network]:
    """All networks in the order of the file. Raises ValueError for more than can be meant."""
    found: list[Network] = []
    for path, tensors in flat_dicts(tree):
        prefixes = _prefixes(tensors)
        if len(found) + len(prefixes) > _MOST_NETWORKS:
            raise ValueError(f"more than {_MOST_NETWORKS} networks")
        groups: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in prefixes}
        beside = []
        for key, tensor in tensors.items():  # of the longest prefix: "" is one of any key
            prefix = max(filter(key.startswith, prefixes), key=len, default=None)
            if prefix is not None:
                groups[prefix][key.removeprefix(prefix)] = tensor
            elif not is_counter(key, tensor):
                beside.append(key)
        for prefix, inside in groups.items():
            own = prefix.strip(".") if len(prefixes) > 1 else ""
            name = ".".join(part for part in (path, own) if part) or "."
            found.append(Network(name, prefix, inside, tuple(beside)))
    return found


def is_counter(name: str, tensor: Tensor) -> bool:
    """Whether it is one number that somebody counted: of steps, of averages, of operations."""
    leaf = name.rsplit(".", 1)[-1]
    one = isinstance(tensor, StoredTensor) and tensor.size <= 1
    return leaf == COUNTER or (one and leaf not in _LEAVES)


def _prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """What stands before the keys of each network in a dict."""
    found: dict[str, None] = {}
    for key in tensors:
        for stem in STEMS:
            before = key.removesuffix(stem)
            if before != key and (not before or before.endswith(".")):
                found[before] = None
    return list(found)


def flat_dicts(tree: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each dict of tensors in nested values, the outermost first, with its place: "a.b".

    The tensors of a whole module have the keys of its state dict. Nothing is visited twice.
    """
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), tree)])
    seen: set[int] = set()
    left = _MOST_TENSORS
    while waiting:
        path, value = waiting.popleft()
        if id(value) in seen or len(path) > _DEEPEST:
            continue
        seen.add(id(value))
        if _is_module(value):
            tensors, left = _module_tensors(value, left)
            yield ".".join(path), tensors
            continue
        items = _items(value)
        if isinstance(value, Made):
            waiting.append((path, value.state))
        tensors = {key: item for key, item in items if isinstance(item, Tensor)}
        if tensors:
            yield ".".join(path), tensors
        waiting.extend(((*path, key), item) for key, item in items if _is_nest(item))


def _is_nest(value: Any) -> bool:
    return isinstance(value, dict | list | tuple | Made)


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, Made):
        return list((value.items or {}).items())
    if isinstance(value, list | tuple) and len(value) <= _MOST_ITEMS:
        return [(str(index), item) for index, item in enumerate(value)]
    return []


def _is_module(value: Any) -> bool:
    """Whether it is a record of a torch.nn.Module."""
    state = value.state if isinstance(value, Made) else None
    return isinstance(state, dict) and {"_parameters", "_modules"} <= state.keys()


def _module_tensors(module: Made, left: int) -> tuple[dict[str, Tensor], int]:
    """What state_dict() of a module gives, and how many of the `left` steps are left then.

    Raises ValueError for one without an end: a part may stand at many places.
    """
    tensors: dict[str, Tensor] = {}
    waiting = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        kinds = [_dict_in(part, kind) for kind in ("_parameters", "_buffers", "_modules")]
        left -= 1 + sum(map(len, kinds))
        if left < 0 or len(prefix) > _LONGEST:
            raise ValueError("a module without an end")
        for key, value in [item for kind in kinds for item in kind.items()]:
            if isinstance(value, Tensor):
                tensors[f"{prefix}{key}"] = value
            elif _is_module(value):
                waiting.append((f"{prefix}{key}.", value))
    return tensors, left


def _dict_in(module: Made, key: str) -> dict[str, Any]:
    value = module.state.get(key)
    return value if isinstance(value, dict) else {}
