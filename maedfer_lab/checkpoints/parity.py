"""Parity: our models against archives of inputs and outputs, number by number.

An archive (`*.npz`) holds a model's constructor arguments (`config`), its parameters under the
official names (`sd::...`), an input (`x` with `y` or `mask`) and what the model gave for it. Those
that lie with the package hold our own numbers; docs/official_differences.md says how to make and
compare some of the official code.
"""

from __future__ import annotations

import copy
import json as json_format
import math
import re
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer_lab.checkpoints.loading import Model, load_checkpoint
from maedfer_lab.checkpoints.official import (
    CLASSIFIED,
    Kind,
    arguments_of,
    from_official,
    our_name,
    to_official,
)
from maedfer_lab.checkpoints.reading import recognise
from maedfer_lab.config import TargetConfig, base, choose
from maedfer_lab.method.grid import Grid, take
from maedfer_lab.method.models import (
    Classifier,
    MaskedAutoencoder,
    build_autoencoder,
    build_classifier,
)
from maedfer_lab.method.targets import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    make_target,
    motion_frames,
    reconstruction_loss,
    unnormalise_pixels,
)
from maedfer_lab.text import table
from maedfer_lab.weights import PARITY

FLOAT32 = 1e-5  # of the largest magnitude of a tensor; bit-equal is not to be had across builds
FLOAT64 = 1e-10
GRADIENT = 1e-4
# Gradients are compared relative to their own norm, or to this share of all gradients' norm where
# that is larger.
SMALL_GRADIENT = 1e-3
# Official norms below this share of the total are of gradients that are truly 0 (queries of a
# softmax over one key, say). Ours may be rounding noise as well: up to 6e-8 of the total was seen.
ZERO_GRADIENT, ZERO_SCALE = 1e-6, 1e-2

PARAMETER, FULL, EMBED_GRADIENT = "sd::", "full.json", "grad_patch_embed"
INPUTS = frozenset({"config", "x", "y", "mask"})
GRADIENTS = frozenset({"grad_names", "grad_norms", EMBED_GRADIENT})
DOUBLE = "64"  # ends the names of outputs that were computed in float64

Verdict = Literal["ok", "differs", "cannot be built", "not compared"]


def parity(folder: Path | None = None, /, *, json: Path | None = None, full: bool = False) -> str:
    """Compare our models with archives of inputs and outputs, number by number.

    Exit status 1 if anything is out of tolerance or cannot be built.

    folder: with archives (*.npz), of the official code say; without one, those that lie with the
        package are replayed: our own numbers, which this machine should give as well.
    json: file to write all differences to, as JSON.
    full: also replay the full-size models of full.json there (two minutes, 2 GB of memory).
    """
    if json is not None and not json.absolute().parent.is_dir():
        raise FileNotFoundError(f"--json {json}: there is no folder {json.parent}")

    def tell(name: str) -> None:
        if full:  # minutes: say what they are spent on
            print(f"replaying {name}", file=sys.stderr, flush=True)

    report = compare_folder(folder or PARITY, full=full, tell=tell)
    if json is not None:
        report.write(json)
    text = str(report)
    if folder is None:
        text += (
            "\nThese archives hold our own numbers. How to compare with the official code on your "
            "own machine: docs/official_differences.md"
        )
    if not report.is_ok:
        print(text)
        raise SystemExit(1)
    return text


def compare_folder(
    folder: Path, *, full: bool = False, tell: Callable[[str], object] = lambda line: None
) -> Report:
    """Compare every archive of a folder, and with `full` the full-size models of its full.json.

    tell: called with the name of each archive before it is replayed.

    Raises FileNotFoundError if there is no folder or no archive in it. Whatever an archive
    holds, the others go on: one that cannot be built is a row that says why.
    """
    archives, digests = sorted(folder.glob("*.npz")), folder / FULL
    if not archives and not (full and digests.is_file()):
        raise FileNotFoundError(
            f"{folder} is no folder with golden archives (*.npz) in it; without one, those that "
            "lie with the package are replayed"
        )
    if full and not digests.is_file():
        raise FileNotFoundError(f"{folder} has no {FULL}, which --full replays; leave --full out")
    report = Report()
    for path in archives:
        tell(path.name)
        report.add(path.stem, lambda path=path: compare_archive(read_archive(path)))
    if full:
        entries = json_format.loads(digests.read_text())
        if not isinstance(entries, dict):
            raise ValueError(f"{digests} must hold one object per model, by name")
        for key, entry in entries.items():
            tell(f"{FULL} {key}")
            report.add(key, lambda key=key, entry=entry: compare_digest(key, entry))
    elif digests.is_file():
        report.rows.append(
            Comparison(FULL, "full-size models", "not compared", note="asked for by --full")
        )
    return report


# --- comparisons ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """One line of the table. absolute, relative: largest differences; None: nothing compared."""

    archive: str
    what: str
    verdict: Verdict
    absolute: float | None = None
    relative: float | None = None
    tolerance: float | None = None
    note: str = ""


@dataclass
class Report:
    """All rows of a run. seconds: time each archive took."""

    rows: list[Comparison] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, rows: Callable[[], Iterable[Comparison]]) -> None:
        """Rows of an archive; an error of whatever kind is a row: a foreign file decides that."""
        start = time.perf_counter()
        try:
            for row in rows():
                self.rows.append(row)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self.rows.append(
                Comparison(name, "model", "cannot be built", note=" ".join(reason.split()))
            )
        self.seconds[name] = time.perf_counter() - start

    @property
    def is_ok(self) -> bool:
        """Everything that was compared is within tolerance, and everything could be built."""
        return all(row.verdict in ("ok", "not compared") for row in self.rows)

    def summary(self) -> str:
        """How many comparisons of how many archives, how many of them failed, the worst."""
        compared = [row for row in self.rows if row.relative is not None]
        num = {v: sum(row.verdict == v for row in self.rows) for v in Verdict.__args__}
        verdict = "all within tolerance" if self.is_ok else f"{num['differs']} differ"
        if num["cannot be built"]:
            verdict += f", {num['cannot be built']} archives cannot be built"
        if num["not compared"]:
            verdict += f", {num['not compared']} not compared"
        text = f"{len(self.seconds)} archives, {len(compared)} comparisons: {verdict}"
        if compared:
            worst = max(compared, key=lambda r: _badness(r.relative) / (r.tolerance or FLOAT32))
            text += (  # tells how much room there is, or which one failed most
                f"; nearest to its tolerance: {worst.archive} {worst.what}, "
                f"{worst.relative:.1e} of {worst.tolerance:.0e}"
            )
        return f"{text}; {sum(self.seconds.values()):.0f} s"

    def __str__(self) -> str:
        """The rows as aligned text, with the summary below."""
        head = ("archive", "compared", "largest |diff|", "relative", "tolerance", "verdict", "note")
        numbers = [[row.absolute, row.relative, row.tolerance] for row in self.rows]
        texts = [["" if x is None else f"{x:.1e}" if x else "0" for x in row] for row in numbers]
        cells = [(row.archive, row.what, *text, row.verdict, row.note)
                 for row, text in zip(self.rows, texts, strict=True)]  # fmt: skip
        return f"{table([head, *cells], range(7))}\n\n{self.summary()}"

    def write(self, path: Path) -> None:
        """Write rows and times as JSON; infinities and NaN as text."""

        def finite(value: object) -> object:
            return str(value) if isinstance(value, float) and not math.isfinite(value) else value

        content = {
            "ok": self.is_ok,
            "summary": self.summary(),
            "torch": torch.__version__,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "comparisons": [{k: finite(v) for k, v in asdict(row).items()} for row in self.rows],
        }
        path.write_text(json_format.dumps(content, indent=1) + "\n")


def compare(
    archive: str,
    what: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    tolerance: float,
    scale: float | None = None,
) -> Comparison:
    """Compare two arrays, relative to the largest magnitude of the official one.

    scale: what the difference is taken relative to instead (for a mean near zero).
    """
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
    """Compare gradient norms per official parameter; the row is that of the worst of them.

    total: norm of all gradients together.
    """
    what = f"gradient norms ({len(theirs)})"
    unknown = [name for name in theirs if name not in ours]
    if unknown:
        note = f"{len(unknown)} of these our model does not have, such as {unknown[0]}"
        return Comparison(archive, what, "differs", math.inf, math.inf, GRADIENT, note)
    rows = []
    for name, value in theirs.items():
        scale = max(value, SMALL_GRADIENT * total)
        if value < ZERO_GRADIENT * total:
            scale = ZERO_SCALE * total
        rows.append(compare(archive, name, norm(ours[name]), np.asarray(value), GRADIENT, scale))
    worst = max(rows, key=lambda row: _badness(row.relative))
    return replace(worst, what=what, note=f"worst: {worst.what}")


def _badness(relative: float | None) -> float:
    return math.inf if relative is None or math.isnan(relative) else relative


def norm(x: Tensor) -> np.ndarray:
    """Euclidean norm in float64, as a scalar array."""
    return torch.linalg.vector_norm(x, dtype=torch.float64).numpy()


def total_norm(gradients: Iterable[Tensor]) -> float:
    """Norm of all gradients together."""
    return math.sqrt(sum(float(norm(g)) ** 2 for g in gradients))


# --- archives ---------------------------------------------------------------------------------

# Official classes, with what they take where an argument that parameters do not tell is left out.
CLASSES: dict[str, dict[str, Any]] = {
    "VisionTransformer": {"num_heads": 12, "lg_classify_token_type": "org"},
    "PretrainVisionTransformer": {"encoder_num_heads": 12, "decoder_num_heads": 8},
}
SHARED_DEFAULTS = {"lg_region_size": (2, 2, 10), "all_frames": 16, "img_size": 224}
# Arguments that change nothing in what a loaded model computes in eval mode.
INERT = frozenset({
    "init_scale", "init_ckpt", "drop_rate", "attn_drop_rate", "drop_path_rate", "pretrained",
    "pretrained_cfg", "pretrained_cfg_overlay",
})  # fmt: skip
# Arguments that are honoured at these values alone.
FIXED: dict[str, tuple[Any, ...]] = {
    "in_chans": (3,), "encoder_in_chans": (3,), "encoder_num_classes": (0,),
    "init_values": (0, None),
    "use_learnable_pos_emb": (False,), "keep_temporal_dim": (False,), "qk_scale": (None,),
    "head_activation_func": (None,),
}  # fmt: skip


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
        spec = json_format.loads(str(arrays["config"]))
    except json_format.JSONDecodeError as error:
        raise ValueError(f"{path.name}: config is not JSON: {error}") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("kwargs", {}), dict):
        raise ValueError(f"{path.name}: config must be {{'class': ..., 'kwargs': {{...}}}}")
    state, rest = {}, {}
    for name, value in arrays.items():
        if name.startswith(PARAMETER):
            if value.dtype.kind != "f":
                raise ValueError(f"{name} has dtype {value.dtype}; parameters are floats")
            state[name.removeprefix(PARAMETER)] = torch.from_numpy(value)
        elif name != "config":
            rest[name] = value
    return Archive(path.stem, spec, state, rest)


def load_archive(archive: Archive) -> tuple[Model, str]:
    """Our model with the archive's parameters, by way of the public loader, and what to note.

    Raises ValueError where parameters are missing, do not fit, or are those of another model
    than the constructor arguments say.
    """
    name = str(archive.spec.get("class")).rpartition(".")[2]
    choose("class", name, tuple(CLASSES))
    given = dict(archive.spec.get("kwargs") or {})
    if "num_frames" in given:  # the name that some versions of the class use
        given.setdefault("all_frames", given.pop("num_frames"))
    for key, value in given.items():
        width = given.get("embed_dim", given.get("encoder_embed_dim", 768))
        heads = given.get("num_heads", given.get("encoder_num_heads", 12))
        if key == "qk_scale" and value and math.isclose(value, (width // heads) ** -0.5):
            continue
        if value not in FIXED.get(key, (value,)):
            raise ValueError(
                f"constructor argument {key}={value!r} is not something that our models do; only "
                f"{key}={FIXED[key][0]!r} can be built"
            )
    clip = {}
    if "x" in archive.arrays:
        clip = {
            "all_frames": archive.arrays["x"].shape[2],
            "img_size": archive.arrays["x"].shape[3],
        }
    arguments = {**SHARED_DEFAULTS, **CLASSES[name], **clip, **given}
    weights = recognise({"model": archive.state, "args": arguments}, archive.name)
    is_pretraining = name == "PretrainVisionTransformer"
    pooling = (
        "mean" if given.get("use_mean_pooling", "norm.weight" not in archive.state) else "first"
    )
    model = load_checkpoint(
        weights,
        as_="autoencoder" if is_pretraining else "classifier",
        pooling=None if is_pretraining else pooling,
    ).model
    missing = [n for n in to_official(model) if n not in archive.state]
    if missing:
        raise ValueError(f"{missing[0]} is missing ({len(missing)} of the parameters)")
    found = arguments_of(model)
    unknown = given.keys() - found.keys() - FIXED.keys() - INERT
    if unknown:
        choose("constructor argument", sorted(unknown)[0], tuple(sorted({*found, *FIXED, *INERT})))
    wrong = [f"{key}={value}, but {found[key]}" for key, value in given.items()
             if key in found and not _same(key, value, given, found)]  # fmt: skip
    if wrong:
        raise ValueError(f"arguments and parameters disagree: {'; '.join(wrong)}")
    set_epsilon(model, archive.spec.get("ln_eps"))
    inferred = [f"{key}={value}" for key, value in found.items() if key not in given]
    without = [f"{key}={given[key]}" for key in sorted(INERT & given.keys()) if given[key]]
    note = f"; not given, inferred: {', '.join(inferred)}" if inferred else ""
    note += f"; without effect in eval mode: {', '.join(without)}" if without else ""
    return model, note


def _same(key: str, value: Any, given: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether an argument says what the loaded model is."""
    if key.startswith("lg_"):
        if found["attn_type"] == "joint":
            return True
        gone = "lg_third_attn_type", "lg_attn_param_sharing_first_third"
        if key in gone and (found["lg_no_third"] or given.get("lg_attn_param_sharing_all")):
            return True  # nothing is shared with a stage that is not there
    if key == "mlp_ratio":
        width = found.get("embed_dim", found.get("encoder_embed_dim"))
        return int(width * value) == int(width * found[key])

    def plain(x: Any) -> Any:
        return tuple(x) if isinstance(x, list | tuple) else (x, x)

    return plain(value) == plain(found[key])


def set_epsilon(model: nn.Module, epsilon: float | None) -> None:
    """Give every LayerNorm this epsilon, if there is one."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and epsilon is not None:
            module.eps = float(epsilon)


def compare_archive(archive: Archive) -> Iterator[Comparison]:
    """Build the archive's model, run it, and compare every output that the archive holds.

    Raises ValueError if the model cannot be built or the archive holds nothing to compare.
    """
    model, note = load_archive(archive)
    back = to_official(model)  # official parameters into our model and out again: bit for bit
    rows = [compare(archive.name, name, back[name].numpy(), value.numpy(), 0.0)
            for name, value in archive.state.items()]  # fmt: skip
    worst = max(rows, key=lambda row: row.absolute or 0)
    note = f"{len(back)} parameters in and out again{note}"
    yield replace(worst, what="parameters", note=note)
    answers = answer(model, archive.arrays, archive.arrays)
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
    kind: Kind = "finetune" if isinstance(model, Classifier) else "pretrain"
    if EMBED_GRADIENT in archive.arrays:
        prefix = "encoder." if kind == "pretrain" else ""
        ours = answers.gradients[f"{prefix}patch_embed.proj.weight"].numpy()
        theirs = archive.arrays[EMBED_GRADIENT]
        yield compare(archive.name, EMBED_GRADIENT, ours, theirs, GRADIENT)
    if "grad_norms" in archive.arrays and "grad_names" in archive.arrays:
        names = [str(name) for name in archive.arrays["grad_names"]]
        theirs = dict(zip(names, archive.arrays["grad_norms"].tolist(), strict=True))
        total = total_norm(answers.gradients[name] for name in own_names(model, kind))
        yield compare_gradients(archive.name, answers.gradients, theirs, total)
    else:
        rest += [name for name in ("grad_names", "grad_norms") if name in archive.arrays]
    if not (GRADIENTS | set(answers.outputs)) & set(archive.arrays):
        raise ValueError(f"{archive.name} holds no output that could be compared")
    for name in rest:
        yield Comparison(archive.name, name, "not compared", note="not an output we know")


# --- what our models answer -------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """Outputs under the names of an archive, and gradients under official parameter names.

    gradients: of the loss; for shared parameters the same one under every name; zero where the
    loss does not depend on a parameter.
    """

    outputs: dict[str, np.ndarray]
    gradients: dict[str, Tensor] = field(default_factory=dict)


def own_names(model: Model, kind: Kind) -> list[str]:
    """Official names of all parameters, shared ones once, in the official order."""
    own = {name for name, _ in model.named_parameters()}
    return [name for name in to_official(model) if our_name(name, kind) in own]


def gradients(model: Model) -> dict[str, Tensor]:
    """Gradients under the official names: query and key-value parts apart."""
    shell = copy.deepcopy(model)  # holds gradients in place of parameters; sharing is kept
    with torch.no_grad():
        for slot, parameter in zip(shell.parameters(), model.parameters(), strict=True):
            slot.zero_() if parameter.grad is None else slot.copy_(parameter.grad)
    return to_official(shell)


def answer(model: Model, arrays: Mapping[str, np.ndarray], wanted: Iterable[str] = ()) -> Answers:
    """What our model gives for an archive's input, in eval mode, and its gradients.

    arrays: x, ImageNet-normalised clips (b, 3, T, H, W), with y, the class of each (b,), or mask
        (b, n), True = masked. ValueError naming an input that lacks.
    wanted: names that the archive has; of losses, and in float64, only those are computed.
        Gradients are of the cross-entropy or of `loss_diff`.
    """
    for name in ("x", "y" if isinstance(model, Classifier) else "mask"):
        if name not in arrays:
            raise ValueError(f"{name!r} is missing: the model's input is x with y or mask")
    model.eval().zero_grad()
    exact, wanted = unnormalise_pixels(torch.from_numpy(arrays["x"]).double()), set(wanted)
    if isinstance(model, Classifier):
        return _answer_classifier(model, exact, torch.from_numpy(arrays["y"]).long(), wanted)
    return _answer_autoencoder(model, exact, torch.from_numpy(arrays["mask"]), wanted)


def _answer_classifier(model: Classifier, clip: Tensor, y: Tensor, wanted: set[str]) -> Answers:
    def run(model: Classifier, clip: Tensor) -> dict[str, Tensor]:
        feature = model.features(clip)
        logits = model.head(feature)
        return {"logits": logits, "feature": feature, "loss": F.cross_entropy(logits, y)}

    outputs = run(model, clip.float())
    outputs["loss"].backward()
    found = Answers({k: v.detach().numpy() for k, v in outputs.items()}, gradients(model))
    if {f"{name}{DOUBLE}" for name in outputs} & wanted:
        with torch.no_grad():
            double = run(copy.deepcopy(model).double(), clip)
        found.outputs.update({f"{k}{DOUBLE}": v.numpy() for k, v in double.items()})
    return found


def _answer_autoencoder(
    model: MaskedAutoencoder, clip: Tensor, mask: Tensor, wanted: set[str]
) -> Answers:
    split = model.split(mask)

    def run(model: MaskedAutoencoder, clip: Tensor) -> dict[str, Tensor]:
        encoded = model.norm(model.encoder(clip, split.visible).tokens)
        prediction = model.decoder(encoded, split.decoder_positions, split.masked)
        return {"encoder_out": encoded, "pred": prediction}

    outputs = run(model, clip.float())
    found = Answers({k: v.detach().numpy() for k, v in outputs.items()})
    kinds = {name.partition("_")[2] for name in wanted if name.startswith(("loss_", "labels_"))}
    for kind in sorted({"diff", *kinds}):
        parsed = parse_kind(kind)
        if parsed is None:
            continue
        target, weight = parsed
        tubelet = model.config.tubelet
        labels = take(make_target(clip.float(), tubelet, target), split.masked)
        if weight is None:  # one mean over all outputs: motion weighs by its share of the frames
            moving = motion_frames(model.grid, tubelet, target.motion_group)[split.masked]
            weight = float(moving.float().mean())
        target = replace(target, motion_weight=weight)
        loss = reconstruction_loss(
            outputs["pred"], labels, split.masked, model.grid, tubelet, target
        ).total
        found.outputs[f"labels_{kind}"] = labels.numpy()
        found.outputs[f"loss_{kind}"] = loss.detach().numpy()
        if kind == "diff":
            loss.backward(retain_graph=True)
            found.gradients.update(gradients(model))
    if {f"{name}{DOUBLE}" for name in outputs} & wanted:
        with torch.no_grad():
            double = run(copy.deepcopy(model).double(), clip)
        found.outputs.update({f"{k}{DOUBLE}": v.numpy() for k, v in double.items()})
    return found


def parse_kind(name: str) -> tuple[TargetConfig, float | None] | None:
    """The target, and the weight of motion (None: the plain mean), that an archive calls "diff",
    "plain", "diff_w05", "diff_raw", "diff_g4", ...; None for a name that does not read so.

    plain: pixels of every frame; diff: motion targets in groups of two frames. `raw`: cubes are
    not normalised. `gN`: groups of N frames. `wNN`: weight of motion, 05 and 0.5 are a half, 03 is
    0.3, 25 is a quarter.
    """
    read = re.fullmatch(r"(plain|diff)((?:_(?:raw|g\d+|w\d+(?:\.\d+)?))*)", name)
    if read is None:
        return None
    group, weight = 2, None
    for option in read[2].split("_"):
        if option.startswith("g"):
            group = int(option[1:])
        if option.startswith("w"):
            weight = float(option[1:])
            if "." not in option:
                weight /= 10 ** (len(option) - 2)
                weight = weight if weight <= 1 else weight / 10
    if group < 2 or (weight is not None and (group != 2 or read[1] == "plain")):
        return None  # the official code weighs groups of two frames alone
    units = "pixel" if "_raw" in name else "cube"
    return TargetConfig(units=units, motion=read[1] == "diff", motion_group=group), weight


# --- models of full size: the recipe that fills them, and a few of their numbers ---------------

SELECTED = "grad_sel"
# A mean near zero has no magnitude of its own: its difference is relative to the deviation.
SCALES = {"feature_mean": "feature_std", "pred_mean": "pred_std", "label_mean": "label_std"}


def recipe_parameters(model: Model, kind: Kind, std: float, seed: int = 0) -> dict[str, Tensor]:
    """Official parameters drawn by the recipe of the golden archives, shared ones once.

    Names in sorted order draw z from one legacy NumPy generator: LayerNorm weights are 1 + 0.1 z,
    all others std z. Shared parameters get their value under every name.
    """
    random = np.random.RandomState(seed)
    shapes = {name: tuple(x.shape) for name, x in to_official(model).items()}
    drawn: dict[str, Tensor] = {}
    for name in sorted(own_names(model, kind)):
        z = random.standard_normal(shapes[name]).astype(np.float32)
        *_, layer, part = ["", *name.split(".")]
        is_scale = "norm" in layer and part == "weight"
        drawn[name] = torch.from_numpy(1 + np.float32(0.1) * z if is_scale else np.float32(std) * z)
    model.load_state_dict(from_official(drawn, kind), strict=False)
    return to_official(model)


def recipe_clips(num: int, frames: int, size_px: int, seed: int = 1) -> np.ndarray:
    """ImageNet-normalised clips (num, 3, frames, size_px, size_px) of uniform noise."""
    pixels = np.random.RandomState(seed).rand(num, 3, frames, size_px, size_px).astype(np.float32)
    mean, std = (np.asarray(x, "f4").reshape(1, 3, 1, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def recipe_mask(
    num: int, grid: Grid, window: tuple[int, int], ratio: float, seed: int = 2
) -> np.ndarray:
    """Masks (num, n), True = masked: the same number visible in each window, all times alike."""
    random = np.random.RandomState(seed)
    (h, w), places = window, window[0] * window[1]
    visible = places - round(ratio * places)
    masks = np.ones((num, grid.h, grid.w), bool)
    for mask in masks:
        for top in range(0, grid.h, h):
            for left in range(0, grid.w, w):
                shown = random.permutation(places)[:visible]
                mask[top + shown // w, left + shown % w] = False
    return np.tile(masks.reshape(num, -1), grid.t)


def compare_digest(key: str, entry: Mapping[str, Any]) -> Iterator[Comparison]:
    """Compare an entry of full.json with the full-size model that `key` names, filled anew.

    key: such as "ft_region_std0.05", "vit" or "pt_vit".
    """
    read = re.fullmatch(r"(ft_(?P<tokens>\w+?)|vit|pt|pt_vit)(_std(?P<std>[\d.]+))?", key)
    if read is None or read["tokens"] not in (None, *CLASSIFIED):
        raise ValueError(
            f"{key!r} is not a full-size model; known are ft_region, ft_org, ft_all, vit, pt and "
            "pt_vit, followed by _std0.02 or the like"
        )
    config, num = base("vit" if "vit" in key else "lgi").model, len(entry.get("logits", "ab"))
    inputs = {"x": recipe_clips(num, config.frames, config.size_px)}
    if key.startswith("pt"):
        config = replace(config, legacy_visible_order="vit" not in key)
        model, kind = build_autoencoder(config), "pretrain"
        inputs["mask"] = recipe_mask(num, model.grid, config.region[1:], 0.9)
    else:
        tokens = CLASSIFIED[read["tokens"]] if read["tokens"] else None
        model, kind = build_classifier(config, 7, tokens), "finetune"
        inputs["y"] = np.arange(1, num + 1)
    recipe_parameters(model, kind, float(read["std"] or 0.02))
    yield from compare_numbers(key, digest(model, kind, inputs), entry)


@dataclass(frozen=True)
class Digest:
    """A few numbers of a model: outputs by name, gradients by official name, their norm."""

    numbers: dict[str, np.ndarray]
    gradients: dict[str, Tensor]
    total: float


def digest(model: Model, kind: Kind, inputs: Mapping[str, np.ndarray]) -> Digest:
    """The numbers that full.json has of a model; it runs once forward and backward."""
    answers = answer(model, inputs, ["loss_diff", "labels_diff"])
    out, numbers = answers.outputs, {}
    if "logits" in out:
        numbers |= {
            "logits": out["logits"],
            "loss": out["loss"],
            "feature16": out["feature"][0, :16],
        }
        spread = {"feature": out["feature"]}
    else:
        pred, labels, mask = out["pred"], out["labels_diff"], inputs["mask"]
        half = labels.shape[-1] // 2
        spread = {"pred": pred, "label": labels}
        numbers |= {
            "loss_diff": out["loss_diff"],
            "pred_0_0_16": pred[0, 0, :16],
            "pred_1_last_16": pred[-1, -1, -16:],
            "label_0_0_16": labels[0, 0, :16],
            f"label_0_0_{half}_16": labels[0, 0, half : half + 16],
            "mask_sum": np.asarray(mask.sum()),
            "mask_first_visible": np.flatnonzero(~mask[0])[:10],
        }
    for name, x in spread.items():
        x = x.astype(np.float64)
        numbers |= {f"{name}_mean": np.asarray(x.mean()), f"{name}_std": np.asarray(x.std(ddof=1))}
    total = total_norm(answers.gradients[name] for name in own_names(model, kind))
    return Digest(numbers | {"grad_total": np.asarray(total)}, answers.gradients, total)


def compare_numbers(name: str, ours: Digest, entry: Mapping[str, Any]) -> Iterator[Comparison]:
    """Compare with an entry of a JSON file; what it holds beyond our numbers is named."""
    for key, value in entry.items():
        if key == SELECTED:
            yield compare_gradients(name, ours.gradients, value, ours.total)
        elif key in ours.numbers:
            theirs = np.asarray(value, np.float64)
            tolerance = GRADIENT if key == "grad_total" else FLOAT32
            scale = entry.get(SCALES.get(key, ""))
            yield compare(name, key, ours.numbers[key], theirs, tolerance, scale)
        elif key not in ("config", "num"):
            yield Comparison(name, key, "not compared", note="not a name we know")
