"""Parity: our models against golden archives of the official ones, number by number."""

from __future__ import annotations

import json as json_format
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from maedfer_lab.checkpoints.archives import (
    INPUTS,
    Archive,
    answer,
    own_names,
    read_archive,
)
from maedfer_lab.checkpoints.comparison import (
    FLOAT32,
    FLOAT64,
    GRADIENT,
    Comparison,
    Report,
    compare,
    compare_gradients,
    total_norm,
)
from maedfer_lab.checkpoints.digests import compare_digest
from maedfer_lab.checkpoints.official import to_official
from maedfer_lab.checkpoints.replay import DOUBLE

FULL = "full.json"
EMBED_GRADIENT = "grad_patch_embed"
GRADIENTS = frozenset({"grad_names", "grad_norms", EMBED_GRADIENT})


def compare_archive(archive: Archive) -> Iterator[Comparison]:
    """Build the archive's model, run it, and compare every output that the archive holds.

    Raises ValueError if the model cannot be built or the archive holds nothing to compare.
    """
    official, model = archive.official, archive.load()
    yield _round_trip(archive, to_official(model), official.inferred, official.ignored)
    answers = answer(model, archive.arrays, list(archive.arrays))
    rest = []
    for name, theirs in archive.arrays.items():
        if name in answers.outputs:
            tolerance = FLOAT64 if name.endswith(DOUBLE) else FLOAT32
            ours = answers.outputs[name]
            if name.startswith("labels_") and theirs.ndim == ours.ndim:
                ours = ours[:, : theirs.shape[1]]  # some archives hold the first tokens alone
            yield compare(archive.name, name, ours, theirs, tolerance)
        elif name not in INPUTS | GRADIENTS:
            rest.append(name)
    if EMBED_GRADIENT in archive.arrays:
        prefix = "encoder." if official.kind == "pretrain" else ""
        ours = answers.gradients[f"{prefix}patch_embed.proj.weight"].numpy()
        theirs = archive.arrays[EMBED_GRADIENT]
        yield compare(archive.name, EMBED_GRADIENT, ours, theirs, GRADIENT)
    if "grad_norms" in archive.arrays and "grad_names" in archive.arrays:
        names = [str(name) for name in archive.arrays["grad_names"]]
        norms = archive.arrays["grad_norms"].tolist()
        own = own_names(model, official.kind)
        total = total_norm(answers.gradients[name] for name in own)
        theirs = dict(zip(names, norms, strict=True))
        yield compare_gradients(archive.name, answers.gradients, theirs, total)
    else:
        rest += [name for name in ("grad_names", "grad_norms") if name in archive.arrays]
    if not (GRADIENTS | set(answers.outputs)) & set(archive.arrays):
        raise ValueError(f"{archive.name} holds no output that could be compared")
    for name in rest:
        yield Comparison(archive.name, name, "not compared", note="not an output we know")


def _round_trip(
    archive: Archive, back: dict, inferred: tuple[str, ...], ignored: tuple[str, ...]
) -> Comparison:
    """Official parameters into our model and out again: bit for bit."""
    differences = [
        compare(archive.name, name, back[name].numpy(), value.numpy(), 0.0)
        for name, value in archive.state.items()
    ]
    worst = max(differences, key=lambda row: row.absolute or 0)
    note = f"{len(back)} parameters in and out again"
    if inferred:
        note += f"; not given, inferred: {', '.join(inferred)}"
    if ignored:
        note += f"; without effect in eval mode: {', '.join(ignored)}"
    return Comparison(archive.name, "parameters", worst.verdict, worst.absolute, worst.relative,
                      0.0, note)  # fmt: skip


def compare_folder(
    folder: Path, *, full: bool = False, tell: Callable[[str], object] = lambda line: None
) -> Report:
    """Compare every archive of a folder, and with `full` the full-size models of its full.json.

    tell: called with the name of each archive before it is replayed.

    Raises FileNotFoundError if there is no folder or no archive in it. Whatever an archive
    holds, the others go on: one that cannot be built is a row that says why.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder; give one with golden archives (*.npz) in it"
        )
    archives = sorted(folder.glob("*.npz"))
    digests = folder / FULL
    if full and not digests.is_file():
        raise FileNotFoundError(f"{folder} has no {FULL}, which --full replays; leave --full out")
    if not archives and not full:
        raise FileNotFoundError(f"{folder} holds no golden archives (*.npz)")
    report = Report()
    for path in archives:
        tell(path.name)
        _add(report, path.stem, lambda path=path: compare_archive(read_archive(path)))
    if full:
        for key, entry in _read_digests(digests).items():
            tell(f"{FULL} {key}")
            _add(report, key, lambda key=key, entry=entry: compare_digest(key, entry))
    elif digests.is_file():
        report.rows.append(
            Comparison(FULL, "full-size models", "not compared", note="asked for by --full")
        )
    return report


def _read_digests(path: Path) -> dict[str, dict]:
    try:
        content = json_format.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one object per model, by name")
    return content


def _add(report: Report, name: str, rows: Callable[[], object]) -> None:
    start = time.perf_counter()
    found: list[Comparison] = []
    try:
        found.extend(rows())  # type: ignore[arg-type]
    except Exception as error:  # of whatever kind: a foreign file decides what goes wrong
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        found.append(Comparison(name, "model", "cannot be built", note=" ".join(reason.split())))
    report.rows.extend(found)
    report.seconds[name] = time.perf_counter() - start


def parity_command(folder: Path, /, *, json: Path | None = None, full: bool = False) -> str:
    """Compare our models with golden archives of the official ones.

    Exit status 1 if anything is out of tolerance or cannot be built.

    folder: folder with golden archives (*.npz).
    json: file to write all differences to, as JSON.
    full: also replay the full-size models of full.json there (two minutes, 2 GB of memory).
    """
    if json is not None and not json.absolute().parent.is_dir():
        raise FileNotFoundError(f"--json {json}: there is no folder {json.parent}")

    def tell(name: str) -> None:
        if full:  # minutes: say what they are spent on
            print(f"replaying {name}", file=sys.stderr, flush=True)

    report = compare_folder(folder, full=full, tell=tell)
    if json is not None:
        report.write(json)
    if not report.is_ok:
        print(report.table())
        raise SystemExit(1)
    return report.table()
