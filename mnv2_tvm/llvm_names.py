"""What LLVM has names for: machines, CPUs and their features. It takes others without a word."""

import re
from difflib import get_close_matches
from functools import cache
from typing import Any

import tvm

from mnv2_tvm.untrusted import printable

_ALIASES = {"arm64": "aarch64", "amd64": "x86_64", "i686": "i386"}  # what LLVM has other names for


@cache
def unknown_to_llvm(mtriple: str, mcpu: str, mattr: tuple[str, ...]) -> str:
    """A key with what is wrong with it, or nothing.

    LLVM itself takes a generic CPU for one that it does not know, and crashes for a machine.
    """
    machine = re.sub(r"v[0-9].*", "", mtriple.partition("-")[0])
    if _ALIASES.get(machine, machine) not in tvm.get_global_func("target.llvm_get_targets")():
        return f"mtriple': LLVM knows no machine '{printable(mtriple)}'"
    if wrong := unknown_cpu(mcpu, mtriple):
        return f"mcpu': {wrong}"
    for word in mattr:
        sign, name = word[:1], word[1:]
        options = {"kind": "llvm", "mtriple": mtriple, "mcpu": mcpu, "mattr": [f"+{name}"]}
        if not (
            sign in ("+", "-")
            and re.fullmatch(r"[\w.-]+", name, re.ASCII)
            and name in _features(tvm.target.Target(options))
        ):
            return f"mattr': LLVM knows no feature '{printable(word)}'; give +NAME or -NAME"
    return ""


@cache
def unknown_cpu(cpu: str, triple: str) -> str:
    """That LLVM does not know the name, and which are like it, or nothing."""
    if tvm.get_global_func("target.llvm_is_valid_cpu")(cpu, triple):
        return ""
    plain = tvm.target.Target({"kind": "llvm", "mtriple": triple})
    cpus = map(str, tvm.get_global_func("target.llvm_get_cpu_archlist")(plain))
    close = ", ".join(get_close_matches(cpu, cpus)) or "none is like it"
    return f"LLVM knows no CPU '{printable(cpu)}'; it knows {close}"


def _features(codegen: Any) -> set[str]:
    """All that a CPU has, with those that were asked for."""
    return set(map(str, tvm.get_global_func("target.llvm_get_cpu_features")(codegen)))
