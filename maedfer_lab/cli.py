"""The command line: `maedfer VERB ...`, each verb typed from the function that notebooks call.

Nothing of ours is imported at the top, and of the verbs' modules only the chosen one: help and
a mistyped verb answer without waiting for torch.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

# A verb, where its function is, and a line for the help.
TABLE = """
pretrain training.pretrain:pretrain_command pre-train on synthetic faces or a folder of videos
finetune training.finetune:finetune_command fine-tune a classifier on labelled clips or drawn faces
evaluate training.evaluation:evaluate_runs test fine-tuned classifiers: UAR, WAR, recalls, intervals
estimate training.estimate:estimate_command estimate what a training needs here: memory, hours, disk
plan training.estimate:plan_command project hours on 1-64 GPUs and name the bottleneck
reconstruct inference.reconstruct:reconstruct find a face, hide part of it, show a reconstruction
judge inference.judge:judge measure reconstruction losses on a folder of faces, against baselines
predict inference.predict:predict_videos predict the expression in videos over time
embed inference.embed:embed turn the faces in videos into feature vectors
probe inference.probe:probe linear probe: do features predict your labels on held-out people?
movement inference.movement:movement measure how much brows, eyes, mouth and head move over time
checkpoint checkpoints.saving:checkpoint describe a checkpoint; convert it to another format
export checkpoints.export:export export a model to ONNX or torch.export, checked against PyTorch
explain viewers.explain:explain write an offline page in which the model runs in a browser: one file
parity checkpoints.parity:parity compare models with recorded outputs, ours or the official code's
doctor data.doctor:doctor check a data set: lists, labels, folds, people, and every clip
prepare data.prepare:prepare crop the faces of a data set once, into fast shards
flops cost.tables:flops_command count parameters and multiply-adds of LGI-Former and ViT in 3 ways
bench bench.bench:bench_command benchmark models, data and waiting times on this machine
claims paper.ledger:claims_command check every number of the paper that can be checked
figures figures:draw_figures redraw figures/*.png from figures/*.json
"""
VERBS = {
    verb: (f"maedfer_lab.{place}", line)
    for verb, place, line in (row.split(" ", 2) for row in TABLE.strip().splitlines())
}

# Default output files of verbs; the same functions write nothing by default in a notebook.
FILES = {"reconstruct": "reconstruction.png", "embed": "embeddings.npz",
         "movement": "movement.png"}  # fmt: skip

EXPECTED_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)
SURPRISES = (RuntimeError, MemoryError, OverflowError, SystemError)  # last: imports out of memory
ADDRESS_SPACE = 2**31  # libraries and their threads map up to 2 GB for the smallest of trainings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status.

    argv: arguments without the program's name; None takes those of the process.
    Status 0: done, or the `exit_status` of the verb's result (1: it found an error in data or
    numbers). 2: refused, completely or for one video, with the reason in a line on stderr
    (`--debug` before the verb shows the traceback instead). 130: interrupted. If a reader of the
    output such as `head` stops reading, the status is 0.
    """
    for stream in (sys.stdout, sys.stderr):  # for characters that the console cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _main(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123 - what is left to flush
        return 0


def _main(argv: Sequence[str] | None) -> int:
    args = list(sys.argv[1:] if argv is None else argv)
    debug = args[:1] == ["--debug"]
    verb, *rest = args[debug:] or ["--help"]
    if verb in ("-h", "--help"):
        print(usage())
        return 0
    if verb == "--version":
        print("maedfer", importlib.import_module("maedfer_lab").__version__)
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(VERBS)
        print(f"maedfer: {verb!r} is not a verb; known are {known}{hint}", file=sys.stderr)
        return 2

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        print(f"maedfer {verb}: warning: {' '.join(str(message).split())}", file=sys.stderr)

    try:
        with warnings.catch_warnings():  # each in one line, without the source it is from
            warnings.showwarning = show
            result = run_verb(verb, rest)
            said = str(result)  # which may fail as well
    except BrokenPipeError:
        raise
    except (*EXPECTED_ERRORS, *SURPRISES) as error:
        if debug:
            raise
        why = str(error) or type(error).__name__
        if isinstance(error, SURPRISES):
            why = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}"
            why += f" (maedfer --debug {verb} ... shows where)"
        print(f"maedfer {verb}: {why}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    config = importlib.import_module("maedfer_lab.config")
    if result is not None and config.is_main_process():  # of the many that torchrun starts
        print(said)
        for problem in getattr(result, "refused", ()):
            print(f"maedfer {verb}: {problem}", file=sys.stderr)
    return int(getattr(result, "exit_status", 2 if getattr(result, "refused", ()) else 0))


def run_verb(verb: str, args: Sequence[str]) -> object:
    """Import the verb's function, read its arguments from `args`, call it, return its result."""
    import tyro

    module, _, name = VERBS[verb][0].partition(":")
    function = getattr(importlib.import_module(module), name)
    inspect.unwrap(function).__doc__ = docstring_for_tyro(function)
    if (hints := function.__annotations__).get("dataset") == "str | Annotations":
        hints["dataset"] = "str"  # tables are for Python only
    if "torch" in sys.modules:
        check_address_space()
    if verb in FILES and not any(arg.partition("=")[0] == "--out" for arg in args):
        args = [*args, "--out", FILES[verb]]
    if "fields" in inspect.signature(function).parameters:
        function, args = split_fields(function, args)
    if "--compile" in args:  # alone it means auto, as when it was a flag
        at, known = args.index("--compile"), get_type_hints(function).get("compile")
        if not set(args[at + 1 : at + 2]) & set(get_args(known)):
            args = [*args[: at + 1], "auto", *args[at + 1 :]]
    fixed = (tyro.conf.SuppressFixed,)  # arguments for Python only, such as a face detector
    return tyro.cli(function, prog=f"maedfer {verb}", args=args, config=fixed)


def check_address_space() -> None:
    """Refuse a small limit on this process's address space, in which libraries crash in C.

    Raises MemoryError where less than `ADDRESS_SPACE` bytes can still be mapped.
    """
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # no such limit, or nothing that says what is used
        return
    if limit != resource.RLIM_INFINITY and limit - mapped < ADDRESS_SPACE:
        raise MemoryError(
            f"the limit on this process's address space leaves {max(limit - mapped, 0) >> 20} MiB; "
            f"PyTorch and the video readers need {ADDRESS_SPACE >> 20} before the first clip: "
            "ulimit -v unlimited"
        )


def split_fields(
    function: Callable[..., object], args: Sequence[str]
) -> tuple[Callable[..., object], list[str]]:
    """Flags that are not the function's own, with their values, become its `fields`.

    Returns the function without that parameter, and its flags. `--fields` shows help on all.
    """
    signature = inspect.signature(function)
    names = {"help", *signature.parameters} - {"fields"}
    own, fields = list[str](), list[str]()
    chosen = own
    for arg in args:
        if arg.startswith("--"):
            flag = arg[2:].partition("=")[0].replace("-", "_")
            chosen = own if flag in names or flag.removeprefix("no_") in names else fields
        elif arg == "-h":
            chosen = own
        chosen.append("--help" if arg == "--fields" else arg)

    @functools.wraps(function)
    def call(*positional: object, **flags: object) -> object:
        return function(*positional, **flags, fields=tuple(fields))

    parameters = [p for p in signature.parameters.values() if p.name != "fields"]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call, own


def docstring_for_tyro(function: Callable[..., object]) -> str:
    """The docstring with its `name: text` lines under "Args:", as tyro expects them."""
    text = inspect.getdoc(function) or ""
    names = inspect.signature(function).parameters
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.partition(":")[0] in names), None)
    if start is None or "Args:" in lines:
        return text
    return "\n".join([*lines[:start], "Args:", *(f"    {line}" for line in lines[start:])])


def usage() -> str:
    """The help page: every verb with its line."""
    verbs = "\n".join(f"  {verb:<12} {help_line}" for verb, (_, help_line) in VERBS.items())
    return (
        f"usage: maedfer [--debug] VERB ...\n\n{verbs}\n\n"
        "  maedfer VERB --help   options of a verb\n"
        "  maedfer --version     the installed version\n"
        "  maedfer --debug ...   show the traceback of an error"
    )
