"""The command line: dispatch, refusals in one line, and no torch before a verb is chosen."""

import builtins
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

from maedfer_lab import cli


def stretch(clip: Path, /, *, times: int = 2, mode: Literal["loop", "hold"] = "loop") -> str:
    """Stretch a clip.

    clip: what to stretch.
    times: how often.
    mode: what happens at the end:
        again, or still.
    """
    if times < 1:
        raise ValueError(f"times={times} must be at least 1, such as 2")
    if times == 99:
        raise KeyboardInterrupt
    return f"{clip} {times} {mode}"


def read(path: Path) -> None:
    if not path.read_bytes():
        warnings.warn(f"{path.name} is empty;\n  nothing was read", stacklevel=2)


REAL_VERBS = dict(cli.VERBS)


@pytest.fixture(autouse=True)
def two_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("verbs_of_the_test")
    module.__dict__.update(stretch=stretch, read=read)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    table = {
        "stretch": (f"{module.__name__}:stretch", "make a clip longer"),
        "read": (f"{module.__name__}:read", "read a file"),
    }
    monkeypatch.setattr(cli, "VERBS", table)


def test_arguments_become_the_functions(tmp_path, capsys):
    assert cli.main(["stretch", "a.mp4", "--times", "3", "--mode", "hold"]) == 0
    assert capsys.readouterr().out == "a.mp4 3 hold\n"
    (tmp_path / "a").write_text("text")
    assert cli.main(["read", "--path", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == "", "no result is not printed"
    assert cli.main(["stretch", "a.mp4", "--times", "99"]) == 130, "interrupted"
    with pytest.raises(SystemExit, match="2"):
        cli.main(["stretch", "a.mp4", "--mode", "backwards"])
    with pytest.raises(ValueError, match="times=0"):
        cli.main(["--debug", "stretch", "a.mp4", "--times", "0"])
    assert cli.main(["--version"]) == 0 and "maedfer 0." in capsys.readouterr().out


def test_compile_alone_means_auto():
    """It was a flag once; before another flag, a value that is none of its own, and at the end."""

    def train(dataset: str, /, compile: Literal["auto", "block"] = "block", steps: int = 1) -> str:
        return f"{dataset} {compile} {steps}"

    sys.modules["verbs_of_the_test"].train = train  # type: ignore[attr-defined]
    cli.VERBS["train"] = ("verbs_of_the_test:train", "train")
    for args in ("--compile --steps 1 a", "--compile a", "a --steps 1 --compile"):
        assert cli.run_verb("train", args.split()) == "a auto 1"
    for args in ("--compile block a", "a --compile=block"):
        assert cli.run_verb("train", args.split()) == "a block 1"


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_lists_every_verb(args, capsys):
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert all(verb in out and line in out for verb, (_, line) in cli.VERBS.items())
    with pytest.raises(SystemExit, match="0"):
        cli.main(["stretch", "--help"])
    out = capsys.readouterr().out
    assert "maedfer stretch" in out and "Stretch a clip." in out
    assert any("--times" in line and "how often" in line for line in out.splitlines())


@pytest.mark.parametrize("verb", REAL_VERBS)
def test_every_real_verb_explains_itself(verb, monkeypatch, capsys):
    monkeypatch.setattr(cli, "VERBS", REAL_VERBS)
    with pytest.raises(SystemExit, match="0"):
        cli.main([verb, "--help"])
    assert f"usage: maedfer {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["stretch", "a.mp4", "--times", "0"], "times=0 must be at least 1, such as 2"),
        (["read", "--path", "absent.mp4"], "No such file or directory: 'absent.mp4'"),
        (["strech"], "known are stretch, read; did you mean stretch?"),
    ],
)
def test_an_error_is_one_line_without_traceback(args, message, capsys):
    assert cli.main(args) == 2
    err = capsys.readouterr().err
    assert err.startswith("maedfer") and args[0] in err
    assert message in err and err.count("\n") == 1


def test_a_warning_is_one_line_without_source(tmp_path, capsys):
    (tmp_path / "a").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["read", "--path", str(tmp_path / "a")]) == 0
        with pytest.warns(UserWarning, match="is empty"):  # a call from Python warns as ever
            read(tmp_path / "a")
    shown = capsys.readouterr()
    assert shown == ("", "maedfer read: warning: a is empty; nothing was read\n")


@pytest.mark.parametrize(("args", "status"), [(["--help"], 0), (["reconstrukt"], 2)])
def test_the_program_answers_without_torch(args, status):
    """Through `python -m maedfer_lab`, with the real verbs."""
    code = (
        f"import runpy, sys; sys.argv = ['maedfer', *{args!r}]\n"
        "try: runpy.run_module('maedfer_lab', run_name='__main__')\n"
        "except SystemExit as stop: status = stop.code\n"
        "sys.exit(9 if {'torch', 'tyro', 'matplotlib'} & set(sys.modules) else status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == status and "reconstruct" in done.stdout + done.stderr, done.stderr


def run_main(code: str, **environment: str) -> subprocess.CompletedProcess:
    """`maedfer claims` in a process of its own, where `code` stands for the verb."""
    start = f"import sys; from maedfer_lab import cli\n{code}\n"
    start += "cli.run_verb = lambda verb, args: work()\nsys.exit(cli.main(['claims']))"
    return subprocess.run(
        [sys.executable, "-c", start], capture_output=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_console_that_cannot_show_a_sign_gets_a_replacement(encoding):
    done = run_main("work = lambda: 'caf\\u00e9 \\u7b11 \\udce9 end'", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and done.stdout.split()[-1] == b"end", done.stderr


@pytest.mark.parametrize("error", ["RuntimeError", "MemoryError", "RecursionError"])
def test_surprises_are_one_sentence(error, monkeypatch, capsys):
    def surprise(verb, args):
        raise getattr(builtins, error)("out of\nthis")

    monkeypatch.setattr(cli, "run_verb", surprise)
    assert cli.main(["read"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"maedfer read: {error}: out of this (maedfer --debug read")


def test_a_reader_that_stops_reading_ends_it_quietly():
    code = "from maedfer_lab import cli; cli.run_verb = lambda *_: 'line\\n' * 300000\n"
    code += "import sys; sys.exit(cli.main(['claims']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as done:
        assert done.stdout and done.stderr
        done.stdout.readline()
        done.stdout.close()
        assert (done.wait(60), done.stderr.read()) == (0, b"")
