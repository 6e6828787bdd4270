"""A pickle read as data: a small machine of our own that imports and runs nothing.

Python's own Unpickler calls what a file names, even where `find_class` gives placeholders, and a
few bytes make it allocate gigabytes (a memo index of 2^31). This machine is safe for these reasons:

- a function or class is a `Name`, a piece of text: nothing looks it up, so nothing of Python,
  `copyreg` or `codecs` can be reached, and the registry of extensions is not asked;
- a call is answered by one of the few plain functions that the caller gives, by name; any other
  call, and every object, is a `Made`: a record of what the file says, which does nothing;
- state never reaches a `__dict__` or `__setstate__`: it is a field of the record;
- a dict has keys of short text alone and a set keeps nothing, so that neither hashing of nested
  tuples nor numbers that collide take time; nothing here recurses;
- the bytes, the instructions and the numbers of the memo are bounded, an instruction makes at most
  one small value, and its argument is no longer than the bytes that are left.
"""

import io
import pickletools
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_PICKLE_BYTES = 32 * 2**20  # an optimizer's state of MobileNetV2 makes 0.2 MB
MAX_INSTRUCTIONS = 400_000  # a training state of MobileNetV2 has some 60 000
_MAX_MARKS = 1000  # open at once: what writes pickles does not nest deeper
_MAX_KEY = 1000  # characters of a dict's key
_MAX_NAME = 200  # characters of a function's name
_NEWEST_PROTOCOL = 5


@dataclass(frozen=True, slots=True)
class Name:
    """A function or class, named and not imported: "torch._utils._rebuild_tensor_v2"."""

    text: str


@dataclass(eq=False, slots=True)
class Made:
    """What a file says of an object that is not built: its class, arguments, items and state."""

    name: str
    arguments: Any = ()
    items: dict[str, Any] | None = None
    state: Any = None


Calls = Mapping[str, Callable[[tuple[Any, ...]], Any]]  # by name; each takes the arguments


def fill(filled: dict[str, Any], pairs: Iterable[tuple[Any, Any]]) -> None:
    """Set the items whose keys are names; others, such as an optimizer's numbers, are left out."""
    for key, value in pairs:
        if isinstance(key, str) and len(key) <= _MAX_KEY:
            filled[key] = value


def read_pickle(stream: io.BytesIO, calls: Calls, persistent: Callable[[Any], Any]) -> Any:
    """The value of one pickle; `stream` is behind it then.

    The functions of `calls` and `persistent`, which takes a persistent id, raise ValueError for
    what they do not take. Raises ValueError for what is damaged or out of bounds.
    """
    machine = _Machine(calls, persistent)
    with warnings.catch_warnings(action="ignore"):  # of odd backslashes in texts of protocol 0
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_INSTRUCTIONS:
                raise ValueError("a pickle of more instructions than weights need")
            try:
                machine.step(opcode.name, argument)
            except (IndexError, KeyError) as error:
                raise ValueError("a pickle that takes what it never gave") from error
    return machine.result


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_PUSH = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_PUSH |= {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"}
_PUSH |= {"BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT, _GET = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_EXTENSIONS = {"EXT1", "EXT2", "EXT4"}


@dataclass
class _Machine:
    """The stack of a pickle; those under the marks wait in `below`."""

    calls: Calls
    persistent: Callable[[Any], Any]
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    result: Any = None

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in _PUSH:
            self.stack.append(argument)
        elif name in _PUT:
            self._remember(argument)
        elif name in _GET:
            self.stack.append(self.memo[argument])
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in _EXTENSIONS:
            self.stack.append(Name(f"extension {argument}"))
        elif (act := _ACTS.get(name)) is not None:
            act(self, argument)
        else:  # buffers that lie outside the pickle
            raise ValueError(f"a pickle with {name}, which torch.save does not write")

    def _remember(self, index: int) -> None:
        if not 0 <= index <= MAX_INSTRUCTIONS:
            raise ValueError("a pickle that counts what it remembers wrongly")
        self.memo[index] = self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _mark(self, _: Any) -> None:
        if len(self.below) >= _MAX_MARKS:
            raise ValueError("a pickle that nests too deeply")
        self.below.append(self.stack)
        self.stack = []

    def _drop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._above_mark()

    def _drop_to_mark(self, _: Any) -> None:
        self._above_mark()

    def _tuple(self, _: Any) -> None:
        items = self._above_mark()  # which also changes the stack: not inside the append
        self.stack.append(tuple(items))

    def _list(self, _: Any) -> None:
        items = self._above_mark()
        self.stack.append(items)

    def _dict(self, _: Any) -> None:
        items = self._above_mark()
        self.stack.append({})
        self._set(items)

    def _set_of(self, _: Any) -> None:
        self._above_mark()
        self.stack.append(Made("set"))

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Made):
            raise ValueError("a pickle that adds items to what has none")

    def _set(self, items: list[Any]) -> None:
        filled = self.stack[-1]
        if isinstance(filled, Made):
            filled.items = {} if filled.items is None else filled.items
            filled = filled.items
        if not isinstance(filled, dict) or len(items) % 2:
            raise ValueError("a pickle that adds keys to what has none")
        fill(filled, zip(items[::2], items[1::2], strict=True))

    def _name(self, argument: str) -> None:
        self.stack.append(_named(*argument.split(" ", 1)))

    def _stack_name(self, _: Any) -> None:
        self.stack.append(_named(*self._pop(2)))

    def _instance(self, argument: str) -> None:
        arguments = tuple(self._above_mark())
        self.stack.append(self._call(_named(*argument.split(" ", 1)), arguments))

    def _object(self, _: Any) -> None:
        function, *arguments = self._above_mark() or [None]
        self.stack.append(self._call(function, tuple(arguments)))

    def _reduce(self, count: int) -> None:
        function, arguments, *_ = self._pop(count)
        self.stack.append(self._call(function, arguments))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple):
            raise ValueError("a pickle with a call without its arguments")
        if isinstance(function, Made):  # such as a method that the file asks getattr for
            return Made(function.name, arguments)
        if not isinstance(function, Name):
            raise ValueError("a pickle with a call of what is no function")
        known = self.calls.get(function.text)
        return Made(function.text, arguments) if known is None else known(arguments)

    def _build(self, _: Any) -> None:
        made, state = self._pop(2)
        self.stack.append(made)
        if isinstance(made, Made):
            made.state = state

    def _refer(self, identity: Any) -> None:
        told = self._pop(1)[0] if identity is None else identity
        self.stack.append(self.persistent(told))

    def _stop(self, _: Any) -> None:
        self.result = self.stack.pop()

    def _protocol(self, number: int) -> None:
        if number > _NEWEST_PROTOCOL:
            raise ValueError(f"a pickle of protocol {number}")


_ACTS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._drop,
    "POP_MARK": _Machine._drop_to_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "MEMOIZE": lambda machine, _: machine._remember(len(machine.memo)),
    "TUPLE": _Machine._tuple,
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "LIST": _Machine._list,
    "APPEND": lambda machine, _: machine._extend(machine._pop(1)),
    "APPENDS": lambda machine, _: machine._extend(machine._above_mark()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "DICT": _Machine._dict,
    "SETITEM": lambda machine, _: machine._set(machine._pop(2)),
    "SETITEMS": lambda machine, _: machine._set(machine._above_mark()),
    "EMPTY_SET": lambda machine, _: machine.stack.append(Made("set")),
    "FROZENSET": _Machine._set_of,
    "ADDITEMS": lambda machine, _: machine._extend(machine._above_mark()),
    "GLOBAL": _Machine._name,
    "STACK_GLOBAL": _Machine._stack_name,
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    "REDUCE": lambda machine, _: machine._reduce(2),
    "NEWOBJ": lambda machine, _: machine._reduce(2),
    "NEWOBJ_EX": lambda machine, _: machine._reduce(3),
    "BUILD": _Machine._build,
    "PERSID": _Machine._refer,
    "BINPERSID": lambda machine, _: machine._refer(None),
    "PROTO": _Machine._protocol,
    "FRAME": lambda machine, _: None,
    "STOP": _Machine._stop,
}


def _named(module: Any, name: Any = "") -> Name:
    """Python 2's modules have their names of today."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a pickle that names a function with something else than text")
    if len(module) + len(name) > _MAX_NAME:
        raise ValueError("a pickle that names a function without an end")
    return Name(f"{'builtins' if module == '__builtin__' else module}.{name}")
