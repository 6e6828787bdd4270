"""Whether torch may read a pickle: a walk over its instructions that builds nothing.

`torch.load(weights_only=True)` runs no code of a file, but it does not bound its time or memory:
its error messages go through regular expressions that are quadratic in what the file says, nested
tuples are hashed in 2^depth steps, and some of the functions that it allows make an object of any
size out of a number. What `torch.save` writes for tensors needs none of that, so everything else
is refused here, before torch sees it.
"""

import io
import pickletools
from dataclasses import dataclass
from typing import Any

MAX_INSTRUCTIONS = 1_000_000  # a training state of MobileNetV2 has some 30 000
_MAX_NAME = 200  # characters of a function's name
_MAX_DEPTH, _MAX_SIZE = 50, 100_000  # of nested tuples; torch's own have a depth of 2

# What torch.save writes to build tensors and the dicts around them, by function.
_CALLS = {
    *("collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.complex"),
    *("_codecs.encode", "builtins.bytearray", "torch.Size", "torch.device"),
    "torch.serialization._get_layout",
    "torch._tensor._rebuild_from_type_v2",
    *(f"torch._utils._rebuild_{what}" for what in ("tensor", "tensor_v2", "tensor_v3")),
    *(f"torch._utils._rebuild_{what}" for what in ("parameter", "parameter_with_state")),
    *(f"torch._utils._rebuild_{what}" for what in ("qtensor", "sparse_tensor")),
    "torch._utils._rebuild_meta_tensor_no_storage",
}
_WITH_STATE = {"collections.OrderedDict", "collections.Counter"}  # such as OrderedDict._metadata
# These take a codec or a size as well, and may multiply what they are given.
_TEXT_ONLY = {"_codecs.encode", "builtins.bytearray"}
_LATIN = ("latin1", "latin-1")

_PUSH = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT"}
_PUSH |= {"BINUNICODE", "SHORT_BINSTRING", "LONG1"}
_EMPTY = {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT, _GET = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
_STORE = {"APPEND": 1, "SETITEM": 2}  # how many values they take


class ForbiddenCall(Exception):
    """Reading the pickle would call the function of this name."""


class NewerProtocol(Exception):
    """torch reads no pickle of this protocol."""


@dataclass(frozen=True)
class _Function:
    """A function or class, named and not imported."""

    name: str


@dataclass(frozen=True)
class _Made:
    """What the function of this name will return."""

    name: str


@dataclass(frozen=True)
class _Tuple:
    items: tuple[Any, ...]
    depth: int
    size: int  # of all that is inside, counted as often as it stands there


_CONTAINER = object()  # a list, dict or set: its content is not followed


def check_pickle(stream: io.BytesIO) -> None:
    """Read one pickle from `stream` up to its end.

    Raises ForbiddenCall, NewerProtocol, or ValueError for what is damaged or out of bounds.
    """
    machine = _Machine()
    protocol = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > MAX_INSTRUCTIONS:
            raise ValueError("more instructions than a file of weights needs")
        if opcode.name == "PROTO":
            protocol = argument or 0
            continue
        try:
            known = machine.step(opcode.name, argument)
        except (IndexError, KeyError) as error:
            raise ValueError("a pickle that takes what it never gave") from error
        if not known:
            if protocol > 2:
                raise NewerProtocol(protocol)
            raise ValueError("not a pickle of tensors")


class _Machine:
    """The stack of a pickle, of values whose content does not matter."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> bool:
        """Follow one instruction; False if it is none of torch's."""
        if name in _PUSH:
            self.stack.append(argument)
        elif name in _EMPTY:
            self.stack.append(_CONTAINER)
        elif name in _PUT:
            self.memo[argument] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name in _TUPLES:
            self.stack.append(_tuple(self._pop(_TUPLES[name])))
        elif name == "TUPLE":
            items = self._above_mark()  # which also takes away the mark: not inside the append
            self.stack.append(_tuple(items))
        elif name in _STORE:
            self._pop(_STORE[name])
        elif name in ("APPENDS", "SETITEMS"):
            self._above_mark()
        else:
            return self._make(name, argument)
        return True

    def _make(self, name: str, argument: Any) -> bool:
        """Instructions that name, call and fill objects."""
        if name == "GLOBAL":
            self.stack.append(_function(argument))
        elif name == "BINPERSID":
            self.stack.append(_storage(self.stack.pop()))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            self.stack.append(_call(function, arguments))
        elif name == "NEWOBJ":  # torch.save needs it for nothing that holds tensors alone
            function, _ = self._pop(2)
            raise _forbidden(function)
        elif name == "BUILD":
            made, _ = self._pop(2)
            if not isinstance(made, _Made) or made.name not in _WITH_STATE:
                raise ValueError("state of an object that has none")
            self.stack.append(made)
        elif name != "STOP":
            return False
        return True

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items


def _tuple(items: list[Any]) -> _Tuple:
    inner = [item for item in items if isinstance(item, _Tuple)]
    depth = 1 + max((item.depth for item in inner), default=0)
    size = len(items) + sum(item.size for item in inner)
    if depth > _MAX_DEPTH or size > _MAX_SIZE:
        raise ValueError("tuples nested too deeply")
    return _Tuple(tuple(items), depth, size)


def _function(argument: str) -> _Function:
    if len(argument) > _MAX_NAME:
        raise ValueError("the name of a function without an end")
    return _Function(argument.replace(" ", ".", 1).replace("__builtin__.", "builtins.", 1))


def _storage(identity: Any) -> _Made:
    if not isinstance(identity, _Tuple) or identity.items[:1] != ("storage",):
        raise ValueError("a reference to something that is no tensor")
    return _Made("storage")


def _call(function: Any, arguments: Any) -> _Made:
    if not isinstance(function, _Function) or function.name not in _CALLS:
        raise _forbidden(function)
    if not isinstance(arguments, _Tuple):
        raise ValueError("a call without its arguments")
    items = arguments.items
    if function.name in _TEXT_ONLY and not (
        len(items) == 2 and isinstance(items[0], str) and items[1] in _LATIN
    ):
        raise _forbidden(function)
    if function.name.endswith("_from_type_v2"):  # calls its first argument with its third
        _call(*(items[0:3:2] if len(items) > 2 else (None, None)))
    return _Made(function.name)


def _forbidden(function: Any) -> Exception:
    if isinstance(function, _Function):
        return ForbiddenCall(function.name)
    return ValueError("a call of something that is no function")
