"""Parity: our models compared with recorded inputs and outputs, number by number.

An archive (`*.npz`) holds constructor arguments (`config`), parameters under official names
(`sd::...`), an input (`x` with `y` or `mask`) and outputs: docs/official_differences.md.
"""

from __future__ import annotations

import copy
import math
import re
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from json import dumps, loads
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.official import Model, arguments_of, to_official
from maedfer_lab.checkpoints.reading import recognise
from maedfer_lab.config import TargetConfig, choose
from maedfer_lab.files import write_aside
from maedfer_lab.method.grid import take
from maedfer_lab.method.models import Classifier, MaskedAutoencoder
from maedfer_lab.method.targets import (
    make_target,
    motion_frames,
    reconstruction_loss,
    unnormalise_pixels,
)
from maedfer_lab.text import table
from maedfer_lab.weights import PARITY

FLOAT32 = 1e-5  # of the largest magnitude of a tensor; builds of PyTorch are not bit-identical
FLOAT64 = 1e-10
GRADIENT = 1e-4
# Gradients are compared relative to their own norm, or to this share of all gradients' norm if
# that is larger.
SMALL_GRADIENT = 1e-3
# Official norms below this share of the total belong to gradients that are truly 0 (queries of a
# softmax over one key, say). Ours may be rounding noise as well: up to 6e-8 of the total was seen.
ZERO_GRADIENT, ZERO_SCALE = 1e-6, 1e-2

PARAMETER, EMBED_GRADIENT = "sd::", "grad_patch_embed"
INPUTS = {"config", "x", "y", "mask"}
GRADIENTS = {"grad_names", "grad_norms", EMBED_GRADIENT}
DOUBLE = "64"  # ends the names of outputs that were computed in float64
HEAD = ("archive", "compared", "largest |diff|", "relative", "tolerance", "verdict", "note")
OURS = (
    "\nThese archives contain our own numbers. How to compare with the official code on your own "
    "machine: docs/official_differences.md"
)

Verdict = Literal["ok", "differs", "cannot be built", "not compared"]


class Comparison(NamedTuple):
    """One line of the table. absolute, relative: largest differences; None if not compared."""

    archive: str
    what: str
    verdict: Verdict
    absolute: float | None = None
    relative: float | None = None
    tolerance: float | None = None
    note: str = ""

    @property
    def badness(self) -> float:
        """The share of its tolerance that is used."""
        bad = self.relative is None or math.isnan(self.relative)
        return math.inf if bad else self.relative / (self.tolerance or FLOAT32)  # type: ignore


@dataclass
class ParityReport:
    """All rows of a run. seconds: time for each archive. after: a last line."""

    rows: list[Comparison] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    after: str = ""

    @property
    def exit_status(self) -> int:
        """0 if everything could be built and is within tolerance."""
        return int(not all(row.verdict in ("ok", "not compared") for row in self.rows))

    def summary(self) -> str:
        """How many comparisons of how many archives, how many of them failed, the worst."""
        compared = [row for row in self.rows if row.relative is not None]
        num = Counter(row.verdict for row in self.rows)
        counts = [f"{num['differs']} differ" if self.exit_status else "all within tolerance"]
        counts += [f"{num[v]} {v}" for v in ("cannot be built", "not compared") if num[v]]
        text = f"{len(self.seconds)} archives, {len(compared)} comparisons: {', '.join(counts)}"
        if compared:  # tells how much room there is, or which one failed most
            worst = max(compared, key=lambda row: row.badness)
            text += (f"; nearest to its tolerance: {worst.archive} {worst.what}, "
                     f"{worst.relative:.1e} of {worst.tolerance:.0e}")  # fmt: skip
        return f"{text}; {sum(self.seconds.values()):.0f} s"

    def __str__(self) -> str:
        cells: list[tuple[str, ...]] = [HEAD]
        for row in self.rows:
            numbers = ("" if x is None else f"{x:.1e}" if x else "0" for x in row[3:6])
            cells.append((row.archive, row.what, *numbers, row.verdict, row.note))
        return f"{table(cells, range(7))}\n\n{self.summary()}{self.after}"


def parity(folder: Path | None = None, /, *, json: Path | None = None) -> ParityReport:
    """Compare our models with recorded inputs and outputs, number by number.

    Exit status 1 if anything is out of tolerance or cannot be built. An archive that cannot be
    built becomes a row with the reason, and the others are still compared.

    folder: with archives (*.npz), e.g. of the official code; by default the archives shipped with
        the package, recorded from our own models, which this machine should reproduce.
    json: JSON file for all differences.
    """
    if json is not None and not json.absolute().parent.is_dir():
        raise FileNotFoundError(f"--json {json}: there is no folder {json.parent}")
    archives = sorted((folder or PARITY).glob("*.npz"))
    if not archives:
        raise FileNotFoundError(
            f"{folder} is not a folder with archives (*.npz); without a folder, the archives "
            "shipped with the package are used"
        )
    report = ParityReport(after=OURS if folder is None else "")
    for path in archives:
        start = time.perf_counter()
        try:
            for row in compare_archive(read_archive(path)):
                report.rows.append(row)
        except Exception as error:  # a foreign file may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            report.rows.append(Comparison(path.stem, "model", "cannot be built", note=reason))
        report.seconds[path.stem] = time.perf_counter() - start
    if json is not None:
        rows = [{name: str(x) if isinstance(x, float) and not math.isfinite(x) else x
                 for name, x in row._asdict().items()} for row in report.rows]  # fmt: skip
        seconds = {name: round(value, 2) for name, value in report.seconds.items()}
        content = {"ok": not report.exit_status, "summary": report.summary(),
                   "torch": torch.__version__, "seconds": seconds, "comparisons": rows}  # fmt: skip
        write_aside(json, (dumps(content, indent=1) + "\n").encode())
    return report


def compare(
    archive: str, what: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float,
    scale: float | None = None,
) -> Comparison:  # fmt: skip
    """Compare two arrays, relative to the largest magnitude of the official one, or to `scale`."""
    if ours.shape != theirs.shape:
        note = f"shape {ours.shape}, official {theirs.shape}"
        return Comparison(archive, what, "differs", math.inf, math.inf, tolerance, note)
    if not theirs.size:
        return Comparison(archive, what, "not compared", note="holds no values")
    absolute = float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())
    scale = scale if scale is not None else float(np.abs(theirs).max())
    relative = absolute / scale if scale else math.inf if absolute else 0.0
    verdict: Verdict = "ok" if relative <= tolerance else "differs"  # NaN differs
    return Comparison(archive, what, verdict, absolute, relative, tolerance)


def compare_gradients(
    archive: str, ours: Mapping[str, Tensor], theirs: Mapping[str, float], total: float
) -> Comparison:
    """The worst of the gradient norms by official parameter. total: norm of all together."""
    what = f"gradient norms ({len(theirs)})"
    if unknown := [name for name in theirs if name not in ours]:
        note = f"{len(unknown)} of these our model does not have, such as {unknown[0]}"
        return Comparison(archive, what, "differs", math.inf, math.inf, GRADIENT, note)
    rows = []
    for name, value in theirs.items():
        is_zero = value < ZERO_GRADIENT * total
        scale = ZERO_SCALE * total if is_zero else max(value, SMALL_GRADIENT * total)
        rows.append(compare(archive, name, norm(ours[name]), np.asarray(value), GRADIENT, scale))
    worst = max(rows, key=lambda row: row.badness)
    return worst._replace(what=what, note=f"worst: {worst.what}")


def norm(x: Tensor) -> np.ndarray:
    """Euclidean norm in float64, as a scalar array."""
    return torch.linalg.vector_norm(x, dtype=torch.float64).numpy()


def total_norm(gradients: Iterable[Tensor]) -> float:
    """Norm of all gradients together."""
    return math.hypot(*(float(norm(g)) for g in gradients))


# --- archives ---------------------------------------------------------------------------------

# Official classes, with what they take where an argument that parameters do not tell is left out.
CLASSES: dict[str, dict[str, Any]] = {
    "VisionTransformer": {"num_heads": 12, "lg_classify_token_type": "org"},
    "PretrainVisionTransformer": {"encoder_num_heads": 12, "decoder_num_heads": 8},
}
SHARED_DEFAULTS = {"lg_region_size": (2, 2, 10), "all_frames": 16, "img_size": 224}


@dataclass(frozen=True)
class Archive:
    """One archive. arrays: everything but parameters and config."""

    name: str
    spec: dict[str, Any]
    state: dict[str, Tensor]
    arrays: dict[str, np.ndarray]


def read_archive(path: Path) -> Archive:
    """Read an archive; never unpickles. ValueError if it is not one."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy's own text would advise to load the file unsafely.
        said = type(error).__name__ if "pickle" in str(error) else error
        raise ValueError(f"{path.name} is not a readable archive: {said}") from error
    if "config" not in arrays:
        raise ValueError(f"{path.name} has no 'config', which names the official class")
    try:
        spec = loads(str(arrays.pop("config")))
    except ValueError as error:
        raise ValueError(f"{path.name}: config is not JSON: {error}") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("kwargs", {}), dict):
        raise ValueError(f"{path.name}: config must be {{'class': ..., 'kwargs': {{...}}}}")
    state = {}
    for name in [name for name in arrays if name.startswith(PARAMETER)]:
        value = arrays.pop(name)
        if value.dtype.kind != "f":
            raise ValueError(f"{name} has dtype {value.dtype}; parameters are floats")
        state[name.removeprefix(PARAMETER)] = torch.from_numpy(value)
    return Archive(path.stem, spec, state, arrays)


def load_archive(archive: Archive) -> tuple[Model, str]:
    """Our model with the archive's parameters, through the public loader, and a remark.

    ValueError if parameters are missing, do not fit, or contradict the constructor arguments.
    """
    name = str(archive.spec.get("class")).rpartition(".")[2]
    choose("class", name, tuple(CLASSES))
    given = dict(archive.spec.get("kwargs") or {})
    if "num_frames" in given:  # the name that some versions of the class use
        given.setdefault("all_frames", given.pop("num_frames"))
    clip = {}
    if "x" in archive.arrays:
        _, _, frames, side, _ = archive.arrays["x"].shape
        clip = {"all_frames": frames, "img_size": side}
    arguments = {**SHARED_DEFAULTS, **CLASSES[name], **clip, **given}
    weights = recognise({"model": archive.state, "args": arguments}, archive.name)
    is_mean = given.get("use_mean_pooling", "norm.weight" not in archive.state)
    options: dict[str, Any] = {"as_": "classifier", "pooling": "mean" if is_mean else "first"}
    if name == "PretrainVisionTransformer":
        options = {"as_": "autoencoder"}
    model = load_checkpoint(weights, **options).model
    missing = [n for n in to_official(model) if n not in archive.state]
    if missing:
        raise ValueError(f"{missing[0]} is missing ({len(missing)} of the parameters)")
    found = arguments_of(model)
    wrong = [f"{key}={value}, but {found[key]}" for key, value in given.items()
             if key in found and not _same(key, value, given, found)]  # fmt: skip
    if wrong:
        raise ValueError(f"arguments and parameters disagree: {'; '.join(wrong)}")
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = float(archive.spec.get("ln_eps") or module.eps)
    unused = [f"{key}={value}" for key, value in given.items() if key not in found and value]
    return model, f"; arguments not used: {', '.join(unused)}" if unused else ""


def _same(key: str, value: Any, given: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether an argument agrees with the loaded model."""
    if key.startswith("lg_"):
        gone = "lg_third_attn_type", "lg_attn_param_sharing_first_third"
        is_gone = found["lg_no_third"] or given.get("lg_attn_param_sharing_all")
        if found["attn_type"] == "joint" or (key in gone and is_gone):
            return True  # nothing is shared with a missing stage
    if key == "mlp_ratio":
        width = found.get("embed_dim", found.get("encoder_embed_dim"))
        return int(width * value) == int(width * found[key])
    plain = [tuple(x) if isinstance(x, list | tuple) else (x, x) for x in (value, found[key])]
    return plain[0] == plain[1]


def compare_archive(archive: Archive) -> Iterator[Comparison]:
    """Build the archive's model, run it, and compare every output in the archive.

    Raises ValueError if the model cannot be built or the archive holds nothing to compare.
    """
    model, note = load_archive(archive)
    name, arrays = archive.name, archive.arrays
    back = to_official(model)  # official parameters into our model and out again: bit for bit
    rows = [compare(name, n, back[n].numpy(), x.numpy(), 0.0) for n, x in archive.state.items()]
    worst = max(rows, key=lambda row: row.absolute or 0)
    note = f"{len(back)} parameters in and out again{note}"
    yield worst._replace(what="parameters", note=note)
    outputs, gradients = answer(model, arrays, arrays)
    for what in [what for what in arrays if what in outputs]:
        ours, theirs = outputs[what], arrays[what]
        if what.startswith("labels_") and theirs.ndim == ours.ndim:
            ours = ours[:, : theirs.shape[1]]  # some archives hold the first tokens alone
        yield compare(name, what, ours, theirs, FLOAT64 if what.endswith(DOUBLE) else FLOAT32)
    rest = arrays.keys() - INPUTS - outputs.keys() - GRADIENTS
    if EMBED_GRADIENT in arrays:
        (embed,) = (n for n in gradients if n.endswith("patch_embed.proj.weight"))
        ours, theirs = gradients[embed].numpy(), arrays[EMBED_GRADIENT]
        yield compare(name, EMBED_GRADIENT, ours, theirs, GRADIENT)
    if {"grad_norms", "grad_names"} <= arrays.keys():
        names = [str(one) for one in arrays["grad_names"]]
        theirs = dict(zip(names, arrays["grad_norms"].tolist(), strict=True))
        total = total_norm(gradients[one] for one in own_names(model))
        yield compare_gradients(name, gradients, theirs, total)
    else:
        rest |= {"grad_names", "grad_norms"} & arrays.keys()
    if not (GRADIENTS | outputs.keys()) & arrays.keys():
        raise ValueError(f"{name} holds no output that could be compared")
    for what in sorted(rest):
        yield Comparison(name, what, "not compared", note="not an output we know")


# --- outputs of our models --------------------------------------------------------------------


def own_names(model: Model) -> list[str]:
    """Official names of all parameters, shared ones once, in the official order."""
    first: dict[int, str] = {}
    return [n for n, x in to_official(model).items() if first.setdefault(x.data_ptr(), n) == n]


def gradients_of(model: Model) -> dict[str, Tensor]:
    """Gradients under the official names, with separate query and key-value parts."""
    shell = copy.deepcopy(model)  # holds gradients in place of parameters; sharing is kept
    with torch.no_grad():
        for slot, parameter in zip(shell.parameters(), model.parameters(), strict=True):
            slot.zero_() if parameter.grad is None else slot.copy_(parameter.grad)
    return to_official(shell)


def answer(
    model: Model, arrays: Mapping[str, np.ndarray], wanted: Iterable[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
    """Outputs of our model for an archive's input, in eval mode, and its gradients.

    Gradients (of the cross-entropy or of `loss_diff`) have official names: for shared parameters
    the same one under every name, zero if the loss does not depend on one.

    arrays: x, ImageNet-normalised clips (b, 3, T, H, W), with y, the class of each (b,), or mask
        (b, n), True = masked. ValueError naming a missing input.
    wanted: names that the archive has; of losses, and in float64, only those are computed.
    """
    for name in ("x", "y" if isinstance(model, Classifier) else "mask"):
        if name not in arrays:
            raise ValueError(f"{name!r} is missing: the model's input is x with y or mask")
    model.eval().zero_grad()
    clip, wanted = unnormalise_pixels(torch.from_numpy(arrays["x"]).double()), set(wanted)
    outputs = _run(model, clip.float(), arrays)
    if isinstance(model, MaskedAutoencoder):
        split = model.split(torch.from_numpy(arrays["mask"]))
        kinds = {name.partition("_")[2] for name in wanted if name.startswith(("loss_", "labels_"))}
        for kind in sorted({"diff", *kinds}):
            if (parsed := parse_kind(kind)) is None:
                continue
            target, weight = parsed
            tubelet = model.config.tubelet
            labels = take(make_target(clip.float(), tubelet, target), split.masked)
            if weight is None:  # one mean over all outputs: motion weighs by its share of frames
                moving = motion_frames(model.grid, tubelet, target.motion_group)[split.masked]
                weight = float(moving.float().mean())
            outputs[f"labels_{kind}"] = labels
            outputs[f"loss_{kind}"] = reconstruction_loss(
                outputs["pred"], labels, split.masked, model.grid, tubelet,
                replace(target, motion_weight=weight),
            ).total  # fmt: skip
    outputs["loss" if isinstance(model, Classifier) else "loss_diff"].backward()
    found = {name: x.detach().numpy() for name, x in outputs.items()}
    if any(name.endswith(DOUBLE) for name in wanted):
        with torch.no_grad():
            exact = _run(copy.deepcopy(model).double(), clip, arrays)
        found |= {f"{name}{DOUBLE}": x.numpy() for name, x in exact.items()}
    return found, gradients_of(model)


def _run(model: Model, clip: Tensor, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    if isinstance(model, Classifier):
        feature = model.features(clip)
        logits = model.head(feature)
        loss = F.cross_entropy(logits, torch.from_numpy(arrays["y"]).long())
        return {"logits": logits, "feature": feature, "loss": loss}
    split = model.split(torch.from_numpy(arrays["mask"]))
    encoded = model.norm(model.encoder(clip, split.visible).tokens)
    prediction = model.decoder(encoded, split.decoder_positions, split.masked)
    return {"encoder_out": encoded, "pred": prediction}


def parse_kind(name: str) -> tuple[TargetConfig, float | None] | None:
    """The target, and the weight of motion (None: the plain mean), that an archive's name means.

    plain: pixels of every frame; diff: motion targets in groups of two frames. `raw`: cubes are
    not normalised. `gN`: groups of N frames. `wNN`: weight of motion, 05 and 0.5 are a half, 25 is
    a quarter. None for a name that does not read so.
    """
    read = re.fullmatch(r"(plain|diff)((?:_(?:raw|g\d+|w\d+(?:\.\d+)?))*)", name)
    if read is None:
        return None
    group, weight = 2, None
    for option in read[2].split("_")[1:]:
        if option[0] == "g":
            group = int(option[1:])
        elif option[0] == "w":
            weight = float(option[1:]) / (1 if "." in option else 10 ** (len(option) - 2))
            weight = weight if weight <= 1 or "." in option else weight / 10
    if group < 2 or (weight is not None and (group != 2 or read[1] == "plain")):
        return None  # the official code weighs only groups of two frames
    units = "pixel" if "_raw" in name else "cube"
    return TargetConfig(units=units, motion=read[1] == "diff", motion_group=group), weight
