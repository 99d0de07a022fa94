"""`maedfer judge`: reconstruction losses of an autoencoder on any folder of face videos."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from maedfer_lab.checkpoints.reading import facts_of
from maedfer_lab.data.faces import find_square
from maedfer_lab.data.folder import check_videos, folder_table
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.table import split_people
from maedfer_lab.data.transforms import centre_square
from maedfer_lab.figures import draw_rows
from maedfer_lab.files import update_by_ends
from maedfer_lab.inference.faces import result_path
from maedfer_lab.inference.known_model import KnownModel, known_model, need_autoencoder
from maedfer_lab.inference.reconstruct import hidden_share
from maedfer_lab.method.models import model_mask
from maedfer_lab.method.reconstruction import reconstruct_clip, reconstruction_rows
from maedfer_lab.method.targets import Losses
from maedfer_lab.metrics import resampled
from maedfer_lab.runs import Run
from maedfer_lab.training.held_out import HeldOut
from maedfer_lab.training.stream import Window

MASKS = 8  # of each clip: with a single one, its loss varies by a quarter
SHOWN = 8  # clips in the picture
AGAINST = {"appearance": "interpolation", "motion": "zero"}


@dataclass(frozen=True)
class Judgement:
    """Mean losses over people, per mask ratio and baseline; every person has equal weight.

    people: the person in each of `videos`. by_person: losses, people sorted by name.
    left_out: videos that the model was trained on. notes: further remarks.
    """

    known: KnownModel
    videos: list[Path]
    people: list[str]
    by_person: dict[float, dict[str, dict[str, Float[np.ndarray, " p"]]]]
    left_out: list[Path]
    notes: tuple[str, ...] = ()

    @property
    def losses(self) -> dict[float, dict[str, Losses]]:
        """Per ratio, of "model", "zero" and "interpolation": appearance and motion."""
        return {ratio: {guess: {kind: float(each.mean()) for kind, each in kinds.items()}
                        for guess, kinds in guesses.items()}
                for ratio, guesses in self.by_person.items()}  # fmt: skip

    def below(self, ratio: float, kind: str) -> tuple[float, float, float]:
        """By how much the model's loss is below the baseline, and its 95 % interval over people.

        The baseline of appearance is interpolation, that of motion is zero; negative is worse.
        """
        ours, guess = (self.by_person[ratio][name][kind] for name in ("model", AGAINST[kind]))
        number = len(ours)
        low, high = resampled(lambda drawn: {kind: 1 - drawn @ ours / (drawn @ guess)},
                              np.full(number, 1 / number), number)[kind]  # fmt: skip
        return float(1 - ours.mean() / guess.mean()), low, high

    def __str__(self) -> str:
        number, lines = len(set(self.people)), [str(self.known)]
        lines.append(
            f"{len(self.videos)} videos of {number} people, the middle clip of each with {MASKS} "
            "masks; every person has equal weight; in brackets 95 % intervals over people:"
        )
        for ratio, guesses in self.losses.items():
            for kind, against in AGAINST.items():
                said = ", ".join(f"{name} {loss[kind]:.4f}" for name, loss in guesses.items())
                value, low, high = self.below(ratio, kind)
                range_ = f" [{low:.1%}, {high:.1%}]" if number > 1 else ""
                lines.append(
                    f"  {ratio:.0%} hidden, {kind:<10} {said} ({abs(value):.1%}{range_} "
                    f"{'below' if value >= 0 else 'ABOVE'} {against})"
                )
        if self.left_out:
            lines.append(f"excluded, because the model was trained on them: {len(self.left_out)} "
                         f"videos, e.g. {self.left_out[0].name}")  # fmt: skip
        return "\n".join([*lines, *self.notes])


def judge(
    folder: Path | str, /, checkpoint: Path | str | None = None, *,
    mask_ratios: tuple[float, ...] = (), held_out: float = 0.0, seed: int = 0,
    stride: int | None = None, picture: Path | str | None = None,
) -> Judgement:  # fmt: skip
    """Measure how well a model reconstructs hidden parts of faces, compared with baselines.

    It evaluates the model, not the people; the result names the model and how it was trained.
    Without a checkpoint it is `demo`, a small model pre-trained on few people's faces, not for real
    use. Losses are in the model's target units, over the hidden cubes of the middle clip of each
    video; masks depend only on the video's content, and every person has equal weight. Videos that
    the model was trained on are excluded if the checkpoint lists them.

    folder: videos; faces are found and framed as in pre-training. People come from MANIFEST.csv,
        else from sub-folders.
    checkpoint: a pre-training run or checkpoint; `demo` by default.
    mask_ratios: shares of hidden tokens; 0.9 by default. The nearest share is used that hides
        equally many cubes of every region.
    held_out: use only the people that a pre-training with this share and seed holds out.
    seed: random seed of that split.
    stride: frames of the video per frame of a clip; by default as in the model's training.
    picture: a PNG with the first clips, at the last of mask_ratios.
    """
    known = known_model(checkpoint)
    model = need_autoencoder(known, "reconstruct")
    picture = result_path(picture)
    chosen = [hidden_share(model, asked) for asked in mask_ratios or (None,)]
    ratios = dict.fromkeys(ratio for ratio, _ in chosen)
    root = Path(folder).expanduser()
    people = (table := folder_table(root)).people()
    held = split_people(people, held_out, seed)[1] if held_out > 0 else range(len(table))
    who = {table.clips[i].path: people[i] for i in held}
    videos, _ = check_videos(list(who))
    trained = _trained_on(known, videos, [who[path] for path in videos], root)
    people = [who[path] for path in videos if path not in trained]
    videos = [path for path in videos if path not in trained]
    if not videos:
        raise ValueError(f"{known.name} was trained on all videos of {root}; give another folder")
    config, shown, faceless = model.config, [], list[str]()
    step = known.stride if stride is None else stride
    window = Window(config.frames, config.size_px, step, "face")
    rows: dict[float, list[dict[str, Losses]]] = {ratio: [] for ratio in ratios}
    for path in tqdm(videos, "judge", unit="video", leave=False):
        reader, own = open_video(path), int.from_bytes(_content(path)[:6], "big")
        if (square := find_square(reader)) is None:
            faceless.append(path.name)
        window.boxes[path] = square or centre_square(reader.height, reader.width)
        clip = window.middle(reader)
        for ratio in ratios:
            held = HeldOut(model, clip.expand(MASKS, *clip.shape), ratio, own)
            rows[ratio].append({"model": held.losses(), **held.baselines()})
        if picture is not None and len(shown) < SHOWN:
            mask = model_mask(model, [*ratios][-1], 1, torch.Generator().manual_seed(own))[0]
            shown.append((reconstruct_clip(model, clip, mask), config.frames // 4 * 2))
    if picture is not None:
        text = f"{[*ratios][-1]:.0%} hidden, frame {shown[0][1] + 1} of {config.frames}. "
        text += f"{known.name}: {known.training}. {known.footer}."
        columns = [path.stem[:12] for path in videos[:SHOWN]]
        draw_rows(reconstruction_rows(shown), columns, text, picture)
    of_person, number = np.unique(people, return_inverse=True)[1], len(set(people))
    weights = np.eye(number)[of_person] / np.bincount(of_person)[of_person, None]
    by_person = {ratio: {guess: {kind: weights.T @ [row[guess][kind] for row in found]
                                 for kind in AGAINST} for guess in found[0]}
                 for ratio, found in rows.items()}  # fmt: skip
    notes = tuple(dict.fromkeys(note for _, note in chosen if note))
    if faceless:
        notes += (f"no face was found in {len(faceless)} of these videos, such as {faceless[0]}: "
                  "the middle square of the picture counts in its place",)  # fmt: skip
    return Judgement(known, videos, people, by_person, sorted(trained), notes)


def _content(path: Path) -> bytes:
    """A digest of a video file (size, first and last megabyte), or of a folder's images."""
    digest = hashlib.sha256()
    update_by_ends(digest, sorted(path.iterdir()) if path.is_dir() else [path])
    return digest.digest()


def _trained_on(known: KnownModel, videos: list[Path], people: list[str], root: Path) -> set[Path]:
    """The training videos that a model lists; in the same folder, all videos of their people.

    A card lists digests of files (`trained_files`), a run's data.json the clips of its table.
    """
    facts = facts_of(known.source)
    digests = set(facts.get("trained_files", ()))
    found = {path for path in videos if digests and _content(path).hex()[:16] in digests}
    config = facts.get("config", {"data": None})
    if config["data"] is None or not (facts["folder"] / "data.json").exists():
        return found
    run = Run(facts["folder"])
    with run.reading("data.json"):
        rows = run.read("data.json")["each"]
        shown, share = [row[3] or row[0] for row in rows], config["held_out"]
        kept = split_people(shown, share, config["seed"])[0] if rows and share else range(len(rows))
        files = {(Path(rows[i][0]).name, rows[i][4]) for i in kept}
        is_same = Path(config["data"]).resolve() == root.resolve()
        seen = {shown[i] for i in kept if is_same}
    return found | {path for path, name in zip(videos, people, strict=True)
                    if name in seen or (path.name, path.stat().st_size) in files}  # fmt: skip
