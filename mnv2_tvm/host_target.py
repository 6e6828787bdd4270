"""Which of several targets this machine takes, and why.

A file that names this CPU in `[host] cpus` comes first, and is for no CPU that it does not name.
Of the others, which are for any CPU that has their features, the one that asks for most is taken.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from mnv2_tvm.errors import UserError
from mnv2_tvm.host import Host

HOST = "host"  # the group of all machines, and `--target` where it is not given


class Needs(Protocol):
    """What a target asks of a machine."""

    @property
    def machine(self) -> str:
        """As `uname -m` says."""

    @property
    def features(self) -> tuple[str, ...]:
        """Of the CPU."""

    @property
    def cpus(self) -> tuple[str, ...]:
        """LLVM's names of those it is for; none: for any."""

    @property
    def libc(self) -> str | None:
        """The C library; None: whichever is there."""


class Choosable(Protocol):
    """What a target is, as far as it is chosen."""

    @property
    def name(self) -> str:
        """Of its file."""

    @property
    def host(self) -> Needs:
        """What it needs."""

    def missing_on(self, host: Host) -> list[str]:
        """What `host` lacks of that."""


T = TypeVar("T", bound=Choosable)


def choose(group: str, targets: Sequence[T], host: Host, core: str) -> tuple[T, str]:
    """The target that suits `host` best, whose CPU LLVM calls `core`, and a clause that says why.

    Raises UserError where the host can run none of them.
    """
    running = [target for target in targets if not target.missing_on(host)]
    named = [target for target in running if core in target.host.cpus]
    if named:
        best = max(named, key=_features)
        return best, f"its file names this CPU ({core})"
    others = [target for target in running if not target.host.cpus]
    if not others:
        raise UserError(
            f"this host can run none of the targets of '{group}': {_needs(targets, host)}"
        )
    best = max(others, key=_features)
    why = f"this CPU ({core}) has {_listed(best.host.features)}"
    alike = [target for target in targets if _of_this_kind(target, host)]
    better = [t for t in alike if _features(t) > _features(best) and not t.host.cpus]
    if lacking := dict.fromkeys(target.missing_on(host)[0] for target in better):
        why += f", not {_listed(tuple(lacking))}"
    if any(target.host.cpus for target in alike):
        why += ", and no file names it"
    return best, why


def _features(target: Choosable) -> int:
    return len(target.host.features)


def _of_this_kind(target: Choosable, host: Host) -> bool:
    """Whether only the CPU's features are left to ask for."""
    return not host.missing(target.host.machine, (), target.host.libc)


def _listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "no feature"


def _needs(targets: Sequence[Choosable], host: Host) -> str:
    """What each of them needs that is not here; of other machines than this one, in short."""
    told = [
        f"{target.name} needs {', '.join(target.missing_on(host) or target.host.cpus)}"
        for target in targets
        if _of_this_kind(target, host)
    ]
    machines = ", ".join(dict.fromkeys(target.host.machine for target in targets))
    return "; ".join(told) or f"they need a CPU of kind {machines} (this is {host.machine})"
