"""`maedfer probe`: do a model's features of faces predict your labels? Leave one person out."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from maedfer_lab import text as text_of
from maedfer_lab.config import Framing, check_counts
from maedfer_lab.data.faces import FRAMINGS, Detector, Square, detect_faces
from maedfer_lab.data.labels import is_expression, plain_word
from maedfer_lab.data.table import Annotations, Clip, read_annotations
from maedfer_lab.files import figures_folder, provenance, text_bytes, write_aside
from maedfer_lab.inference.embed import encode
from maedfer_lab.inference.faces import open_faces, over_videos, result_path, steps_for
from maedfer_lab.inference.known_model import KnownModel, known_model
from maedfer_lab.inference.movement import GREY
from maedfer_lab.metrics import bootstrap, confusion_matrix, permuted, probe_person, uar, war

SHOWN, GREY_PX, HOG_PX = 4, 20, 64  # frames of a clip that the baselines see, and their sides
CELL, BINS = 8, 9  # of HOG: pixels, directions
FER_NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FER_PX = 240  # of a crop that fer sees: it adds 10 pixels around the face
CARRIES = 0.05  # features are said to predict labels if p is below
FEW_CLIPS = 500  # at most, for a notebook to probe automatically


@dataclass(frozen=True)
class Probe:
    """Scores of linear probes for labels of held-out people.

    scores: of "model", "HOG", "raw pixels" and perhaps "fer": "uar" and "war", each its value and
    95 % interval over people, in [0, 1]. p: of the model's UAR, by the permutation `test`. videos:
    path, person, label and predictions of each. notes, refused: further remarks, in sentences.
    """

    known: KnownModel
    framing: str
    scores: dict[str, dict[str, tuple[float, float, float]]]
    p: float
    test: str
    videos: list[dict[str, str]]
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def reading(self) -> str:
        """One sentence: whether the model's features predict the labels, and the best baseline."""
        model, *controls = ((values["uar"][0], kind) for kind, values in self.scores.items())
        best, kind = max(controls)
        said = f"(UAR {model[0]:.1%}; {kind} {best:.1%})"
        if self.p >= CARRIES:
            return f"These features do not significantly predict your labels {said}."
        also = f", but no better than {kind}" if best >= model[0] else ""
        return f"These features predict your labels{also} {said}."

    def __str__(self) -> str:
        counts = Counter(row["label"] for row in self.videos)
        shares = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
        most, people = max(counts.values()), len({row["person"] for row in self.videos})
        rows = [("features", "UAR", "95 %", "WAR", "95 %")]
        rows += [(kind, *(cell for value, low, high in values.values()
                          for cell in (f"{value:.1%}", f"{low:.1%} to {high:.1%}")))
                 for kind, values in self.scores.items()]  # fmt: skip
        rows.append(("chance", f"{1 / len(counts):.1%}", "", f"{most / len(self.videos):.1%}", ""))
        head = (
            f"{len(self.videos)} videos of {people} people ({shares}), the middle clip of each, "
            f"framing {self.framing}; leave one person out; intervals over people"
        )
        lines = [self.known, head, text_of.table(rows), self.test, self.reading, *self.notes]
        return "\n".join(map(str, [*lines, *filter(None, [self.path])]))


def probe(
    videos: Sequence[Path | str], /, labels: Path | str | None = None, *,
    checkpoint: Path | str | None = None, out: Path | str | None = None,
    face: str | int = "largest", framing: Framing = "wide", stride: int | None = None,
    permutations: int = 100, seed: int = 0, detect: Detector = detect_faces, progress: bool = True,
) -> Probe:  # fmt: skip
    """Test with a linear probe whether a model's features of faces predict your labels.

    The probe (standardised features, logistic regression) is trained and tested by leaving one
    person out. It is compared with raw pixels and HOG of the same crops, with chance level, and,
    if it is installed and knows every class, with the pre-trained classifier of the package fer.
    The middle clip of each video is used. The result names the model and how it was trained;
    without a checkpoint it is `demo`, a small model pre-trained on faces; not for real
    use, and not for identifying or assessing people.

    videos: a folder, or video files.
    labels: a CSV with columns path, label and subject (or person, identity, ...); without it, a
        folder per class. People may also come from MANIFEST.csv or folders, else every video counts
        as a person. A class needs two people.
    checkpoint: pre-trained or fine-tuned. Features are all its representative tokens, concatenated;
        of a ViT, the mean of its tokens.
    out: a .json with scores, all predictions and provenance.
    face: largest, longest, left, right, or the number of a face track.
    framing: wide, voxceleb2, official, or whole for videos that are face crops already.
    stride: frames of the video per frame of a clip; by default as in the model's training.
    permutations: number of label permutations, within people who show several classes and between
        people who show one; all probes are refitted. 100 can give p = 0.01 at best.
    seed: random seed of the permutations.
    """
    check_counts(permutations=permutations)
    out = result_path(out, ".json")
    table, clips, notes = _labelled(videos, labels)
    ready_made = _fer(table.classes, FRAMINGS.get(framing))
    known = known_model(checkpoint)
    model, of_path = known.model, {clip.path: clip for clip in clips}
    level = "regions" if model.encoder.num_regions else "clip"
    bar = tqdm(total=len(clips), desc="faces", unit="video", disable=not progress)

    def one(path: Path, name: str) -> tuple[Clip, dict[str, np.ndarray]]:
        bar.update()
        faces = open_faces(path, model.config.size_px, face=face, framing=framing, detect=detect,
                           progress=False)  # fmt: skip
        crops = faces.clip(faces.middle(model.config, steps_for(known.stride, faces.fps, stride)))
        vector = encode(model, crops[None], [level])[level][0].numpy()
        ready = {} if ready_made is None else {"fer": ready_made(crops)}
        return of_path[path], {"model": vector, **_controls(crops), **ready}

    with bar:
        done, refused = over_videos([*of_path], out and out.parent, one)
    clips = [clip for clip, _ in done]
    _check_people(table, clips, refused)
    people, truth = table.people(clips), np.array([clip.label for clip in clips])
    names, number = np.array(people), len(table.classes)
    others, how = permuted(truth, people, permutations, seed)
    scores, guesses = {}, {}
    for kind in done[0][1]:
        features = np.stack([values[kind] for _, values in done])
        asked = np.vstack([truth[None], others if kind == "model" else others[:0]])
        found = np.zeros_like(asked)
        for person in tqdm(np.unique(names), f"probe of {kind}", disable=not progress):
            if kind == "fer":  # its predictions: nothing is fitted
                found[:, names == person] = features[names == person]
                continue
            found[:, names == person] = probe_person(features, asked, people, person)
        guesses[kind] = found
        confusion = confusion_matrix(truth, found[0], number)
        ranges = bootstrap(truth, found[0], number, people)
        scores[kind] = {"uar": (uar(confusion), *ranges["uar"]),
                        "war": (war(confusion), *ranges["war"])}  # fmt: skip
    null = np.array([uar(confusion_matrix(row, guess, number))
                     for row, guess in zip(others, guesses["model"][1:], strict=True)])  # fmt: skip
    p = float((1 + np.sum(null >= scores["model"]["uar"][0] - 1e-9)) / (1 + permutations))
    test = (
        f"permutation test of the model's UAR: p = {p:.3g} (labels {how}, {permutations} times; "
        f"mean UAR then {np.mean(null):.1%})"
    )
    rows = [
        {"path": table.name(clip), "person": who, "label": table.classes[clip.label],
         **{kind: table.classes[found[0, i]] for kind, found in guesses.items()}}
        for i, (clip, who) in enumerate(zip(clips, people, strict=True))
    ]  # fmt: skip
    result = Probe(known, framing, scores, p, test, rows, notes, refused, out)
    if out is not None:
        names = ("reading", "framing", "scores", "p", "test", "notes", "refused", "videos")
        source = provenance(profile="none", seed=seed, device="cpu", data=str(table.root))
        content = {"provenance": source, "model": str(known)}
        content |= {name: getattr(result, name) for name in names}
        write_aside(out, text_bytes(json.dumps(content, indent=1)))
    return result


def of_expressions(folder: Path | None) -> Probe | str:
    """The probe of a folder with a sub-folder per expression, with few permutations.

    A sentence if it is None, has no expression labels, or is too large to probe automatically.
    """
    if folder is None:
        return "Set MAEDFER_DATA to a folder with a sub-folder per expression to probe it."
    try:
        table = read_annotations("folder", folder)
        if others := [name for name in table.classes if not is_expression(name)]:
            return f"{folder}: {others[0]!r} is not a known expression; use maedfer probe"
        if len(table.clips) > FEW_CLIPS:
            return f"{len(table.clips):,} clips take long; run: maedfer probe {folder}"
        out = figures_folder("none") / "probe.json"  # figures/own: who is seen stays with you
        return probe([folder], permutations=20, out=out)
    except (ValueError, FileNotFoundError) as error:
        return f"No probe: {error}"


def _labelled(
    videos: Sequence[Path | str], labels: Path | str | None
) -> tuple[Annotations, list[Clip], tuple[str, ...]]:
    """The table of labels, the selected clips, and remarks."""
    videos = [videos] if isinstance(videos, str | Path) else videos
    paths = [Path(os.path.abspath(Path(video).expanduser())) for video in videos]  # noqa: PTH100
    if not paths:
        raise ValueError("videos must name at least one; give a folder")
    is_folder = len(paths) == 1 and paths[0].is_dir()
    root = paths[0] if is_folder else Path(os.path.commonpath([path.parent for path in paths]))
    if labels is None and not is_folder:
        raise ValueError("labels=None needs a folder with a sub-folder per class; else give a CSV")
    labels = None if labels is None else Path(labels).expanduser()
    table = read_annotations("csv" if labels else "folder", root, labels)
    clips = [clip for clip in table.clips if is_folder or clip.path in paths]
    _check_people(table, clips)
    notes = [note for note in table.notes if not any(w in note for w in ("fold", "test", "held"))]
    lacking = sorted(set(paths) - {clip.path for clip in clips})
    if labels is not None and not is_folder and lacking:
        notes.append(f"{len(lacking)} videos have no row in {labels.name}, first {lacking[0].name}")
    return table, clips, tuple(notes)


def _check_people(table: Annotations, clips: Sequence[Clip], refused: Sequence[str] = ()) -> None:
    shown: dict[str, set[str]] = {name: set() for name in table.classes}
    for clip, person in zip(clips, table.people(clips), strict=True):
        shown[table.classes[clip.label]].add(person)
    few = [f"{name!r} has {len(p)}" + f" ({', '.join(p)})" * bool(p)
           for name, p in shown.items() if len(p) < 2]  # fmt: skip
    if few or len(shown) < 2:
        gone = f" ({len(refused)} videos could not be used: {refused[0]})" if refused else ""
        counts = ", ".join(few) or f"only {', '.join(shown)} is there"
        raise ValueError(
            "labels must name two classes or more with at least two people each, since the probe "
            f"leaves one person out: {counts}; add people, or leave such rows out{gone}"
        )


def _controls(clip: Float[Tensor, "3 T H W"]) -> dict[str, np.ndarray]:
    """HOG and grey pixels of a few frames of a clip, concatenated."""
    chosen = torch.linspace(0, clip.shape[1] - 1, SHOWN).round().long()
    grey = torch.einsum("cfhw,c->fhw", clip[:, chosen], torch.tensor(GREY))
    large, small = (functional.adaptive_avg_pool2d(grey, px).numpy() for px in (HOG_PX, GREY_PX))
    return {"HOG": hog(large).ravel(), "raw pixels": small.ravel()}


def _fer(
    classes: Sequence[str], square: Square | None
) -> Callable[[Float[Tensor, "3 T H W"]], np.ndarray] | None:
    """The classifier of the package fer, restricted to these classes; None if it cannot.

    square: the crops' framing around faces; None if the videos are face crops.
    """
    known = {plain_word(name): name for name in FER_NAMES}
    names = [known.get(plain_word(name)) for name in classes]
    if None in names:
        return None
    try:
        from fer.fer import FER  # type: ignore
    except ImportError:
        return None
    reader = FER()
    side, lift = (1.0, 0.0) if square is None else (1 / square.side, square.lift)
    corner = ((1 - side) / 2, (1 - side) / 2 + lift * side)
    face = [round(FER_PX * part) for part in (*corner, side, side)]

    def guess(clip: Tensor) -> np.ndarray:
        chosen = clip[:, torch.linspace(0, clip.shape[1] - 1, SHOWN).round().long()]
        large = functional.interpolate(chosen.transpose(0, 1), (FER_PX, FER_PX), mode="bilinear")
        frames = (255 * large.flip(1)).permute(0, 2, 3, 1).round().byte().numpy()
        said = [reader.detect_emotions(frame, [face])[0]["emotions"] for frame in frames]
        return np.array(np.argmax([sum(one[name] for one in said) for name in names]))

    return guess


def hog(grey: Float[np.ndarray, "f H W"]) -> Float[np.ndarray, "f h w 36"]:
    """Histograms of oriented gradients (Dalal and Triggs 2005) of pictures in [0, 1].

    Nine directions in cells of 8 x 8 pixels; blocks of 2 x 2 cells, normed, clipped at 0.2, normed.
    """
    down, across = np.gradient(grey, axis=(1, 2))
    place = np.arctan2(down, across) % np.pi / np.pi * BINS  # shared by the two nearest directions
    low, part = np.floor(place).astype(int), (place % 1)[..., None]
    votes = (1 - part) * np.eye(BINS)[low % BINS] + part * np.eye(BINS)[(low + 1) % BINS]
    votes *= np.hypot(down, across)[..., None]
    cells = reduce(votes, "f (h y) (w x) k -> f h w k", "sum", y=CELL, x=CELL)
    corners = (cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:])
    return _unit(_unit(np.concatenate(corners, -1)).clip(max=0.2))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-3)
