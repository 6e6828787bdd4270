"""The console script: its verbs, its exit codes, and a main for every verb."""

import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

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
    name = f"{verb}.__main__" if verb == "model" else verb
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


def told(capsys: pytest.CaptureFixture[str], error: BaseException) -> str:
    """The one line of a verb that ends in a sentence."""
    assert outcome(error) == 1
    output, errors = capsys.readouterr()
    assert output == "" and errors.startswith("error: ") and errors.count("\n") == 1
    return errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EFBIG])
def test_what_the_system_refuses_is_a_sentence(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    line = told(capsys, OSError(number, os.strerror(number), "/a/file"))
    assert "/a/file" in line and os.strerror(number) in line


def test_no_folder_for_temporary_files_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "not there")])
    with pytest.raises(FileNotFoundError) as caught:
        tempfile.gettempdir()
    assert "TMPDIR" in told(capsys, caught.value)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file", "x"), OSError(22, "?")])
def test_other_errors_of_the_system_are_bugs(error: OSError) -> None:
    def verb() -> None:
        raise error

    with pytest.raises(OSError, match=re.escape(str(error))):
        run_verb(verb, [])


def test_a_message_is_safe_and_else_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(UserError("ld:\tÜmlaut, Ελλάδα, 数\x1b]52;c;aGk=\x07\r\u202e\udcff[/x]")) == 1
    errors = capsys.readouterr().err
    assert errors == "error: ld:\tÜmlaut, Ελλάδα, 数 ]52;c;aGk=    [/x]\n"


PRINTS = """
import sys
from mnv2_tvm.cli import run_verb

def verb() -> None:
    print("a line")

run_verb(verb, [])
"""


@pytest.mark.parametrize(
    ("command", "code", "match"),
    [("exec >&-", 0, ""), ("exec >/dev/full", 1, "error: No space left on device; .*\n")],
)
def test_an_output_that_takes_nothing(command: str, code: int, match: str) -> None:
    """No traceback at Python's end, when it writes what it has kept."""
    done = sh(f'{command}; "$0" -c "$1"')
    assert done.returncode == code and re.fullmatch(match, done.stderr)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    done = sh('("$0" -c "$1"; echo $? >&2) | sleep 0')
    assert done.stderr == "1\n"


def sh(script: str) -> "subprocess.CompletedProcess[str]":
    """Of a shell with Python as `$0` and a verb that prints as `$1`."""
    words = ["sh", "-c", script, sys.executable, PRINTS]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_sigterm_lets_a_verb_clean_up(capsys: pytest.CaptureFixture[str]) -> None:
    """And leaves the handlers as they were."""
    cleaned = []

    def verb() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run_verb(verb, [])
    assert ended.value.code == 143 and cleaned
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr() == ("", "")
