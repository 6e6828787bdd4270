"""The console script: its verbs, its exit codes, and a main for every verb."""

import importlib
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

import pytest

from mnv2_tvm.cli import VERBS, main, run_verb
from mnv2_tvm.errors import UserError

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Exit code and both streams of `mnv2-tvm ARGUMENTS`."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mnv2-tvm", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_console_script_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="mnv2-tvm")
    assert script.load() is main


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_all_verbs(invoke: Invoke, arguments: list[str]) -> None:
    code, output, errors = invoke(*arguments)
    assert code == 0
    for verb in VERBS:
        assert re.search(rf"\b{verb}\b", output + errors)


@pytest.mark.parametrize("verb", ["tun", "Tune", "cli", "", "--version", "../tune"])
def test_an_unknown_verb_is_a_wrong_option(invoke: Invoke, verb: str) -> None:
    code, output, errors = invoke(verb, "--help")
    assert (code, output) == (2, "")
    assert errors.startswith("usage: mnv2-tvm VERB")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(invoke: Invoke, verb: str) -> None:
    code, output, errors = invoke(verb, "--help")
    assert (code, errors) == (0, "")
    assert f"mnv2-tvm {verb} " in output
    name = f"{verb}.__main__" if verb in ("model", "device") else verb
    document = importlib.import_module(f"mnv2_tvm.{name}").main.__doc__
    assert " ".join(document.split()) in " ".join(output.split())


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_option_is_named(invoke: Invoke, verb: str) -> None:
    code, output, errors = invoke(verb, "--colour", "red")
    assert (code, output) == (2, "")
    assert "--colour" in errors


def outcome(error: BaseException | None) -> int:
    """The exit code of a verb whose main raises `error`."""

    def verb() -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as ended:
        run_verb(verb, [])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(None) == 0
    assert capsys.readouterr() == ("", "")
    assert outcome(UserError("the disk [full]\nand two lines")) == 1
    assert capsys.readouterr() == ("", "error: the disk [full]\nand two lines\n")
    assert outcome(KeyboardInterrupt()) == 130
    output, errors = capsys.readouterr()
    assert output == ""
    assert "Traceback" not in errors


def test_a_bug_is_no_user_error() -> None:
    """It must be seen whole: with its traceback, not as a sentence."""

    def verb() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_verb(verb, [])
