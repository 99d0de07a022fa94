"""`maedfer judge`: reconstruction losses of an autoencoder on face videos, or on portraits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from maedfer_lab.checkpoints.reading import facts_of
from maedfer_lab.config import PretrainConfig
from maedfer_lab.data.faces import find_square
from maedfer_lab.data.folder import check_videos, folder_table
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.shard_format import is_prepared
from maedfer_lab.data.stills import StillClip, Stills
from maedfer_lab.data.table import split_people
from maedfer_lab.data.transforms import centre_square, to_floats
from maedfer_lab.figures import draw_rows
from maedfer_lab.inference.faces import result_path
from maedfer_lab.inference.known_model import KnownModel, known_model, need_autoencoder
from maedfer_lab.inference.reconstruct import hidden_share
from maedfer_lab.method.models import MaskedAutoencoder, model_mask
from maedfer_lab.method.reconstruction import reconstruct_clip, reconstruction_rows
from maedfer_lab.method.targets import Losses
from maedfer_lab.metrics import resampled
from maedfer_lab.training.held_out import HeldOut, content_of, trained_on
from maedfer_lab.training.stream import Window

MASKS = 8  # of each video: with a single one, its loss varies by a quarter
TILT = 8.0  # degrees by which the camera before a portrait turns at most, as in preset `faces`
SHOWN = 8  # clips in the picture
AGAINST = {"appearance": "interpolation", "motion": "zero"}


@dataclass(frozen=True)
class Judgement:
    """Mean losses over people, per mask ratio and baseline; every person has equal weight.

    videos: or portraits. people: the person in each of them. by_person: losses, people sorted by
    name. clips: what was measured, in words. left_out: videos that the model was trained on.
    notes: further remarks.
    """

    known: KnownModel
    videos: list[Path]
    people: list[str]
    by_person: dict[float, dict[str, dict[str, Float[np.ndarray, " p"]]]]
    clips: str
    left_out: Sequence[Path] = ()
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
        Not finite where the baseline is exact, as where nothing moves.
        """
        ours, guess = (self.by_person[ratio][name][kind] for name in ("model", AGAINST[kind]))
        number = len(ours)
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = resampled(lambda drawn: {kind: 1 - drawn @ ours / (drawn @ guess)},
                                  np.full(number, 1 / number), number)[kind]  # fmt: skip
            return float(1 - ours.mean() / guess.mean()), low, high

    def __str__(self) -> str:
        about = "every person has equal weight; in brackets 95 % intervals over people"
        lines = [str(self.known), f"{self.clips}; {about}:"]
        for ratio, guesses in self.losses.items():
            for kind, against in AGAINST.items():
                said = ", ".join(f"{name} {loss[kind]:.4f}" for name, loss in guesses.items())
                value, low, high = self.below(ratio, kind)
                range_ = f" [{low:.1%}, {high:.1%}]" if -np.inf < low < high else ""
                than = f"{abs(value):.1%}{range_} {'below' if value >= 0 else 'ABOVE'} {against}"
                than = than if np.isfinite(value) else f"{against} is exact: nothing to gain"
                lines.append(f"  {ratio:.0%} hidden, {kind:<10} {said} ({than})")
        if self.left_out:
            lines.append(f"excluded, because the model was trained on them: {len(self.left_out)} "
                         f"videos, e.g. {self.left_out[0].name}")  # fmt: skip
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class _Clips:
    """What is judged: each path's person, how its clip and seed are had, and the number of masks.

    what: in words. left_out: videos that the model was trained on. faceless: filled while opening.
    """

    who: dict[Path, str]
    open: Callable[[Path], tuple[Float[Tensor, "3 T H W"], int]]
    masks: int
    what: str
    left_out: Sequence[Path] = ()
    faceless: list[str] = field(default_factory=list)


def judge(
    folder: Path | str | None = None, /, checkpoint: Path | str | None = None, *,
    mask_ratios: tuple[float, ...] = (), held_out: float = 0.0,
    seed: int | None = None, stride: int | None = None, stills: tuple[Path, ...] = (),
    picture: Path | str | None = None,
) -> Judgement:  # fmt: skip
    """Measure how well a model reconstructs hidden parts of faces, compared with baselines.

    It evaluates the model, not the people; the result names the model and how it was trained.
    Without a checkpoint it is `demo`, a small model pre-trained on faces, not for real
    use. Losses are in the model's target units, over the hidden cubes of the middle clip of each
    video; masks depend only on the video's content, and every person has equal weight. Videos that
    the model was trained on are excluded if the checkpoint lists them.

    folder: videos; faces are found and framed as in pre-training. People come from MANIFEST.csv,
        else from sub-folders.
    checkpoint: a pre-training run or checkpoint; `demo` by default.
    mask_ratios: shares of hidden tokens; 0.9 by default. The nearest share is used that hides
        equally many cubes of every region.
    held_out: use only the people that a pre-training with this share and seed holds out.
    seed: random seed of that split; by default 0, of `stills` that of the model's own training.
    stride: frames of the video per frame of a clip; by default as in the model's training.
    stills: zip files of portraits instead of a folder, all those of `pretrain --stills`: of the
        people that it holds out (a fifth, or `held_out`), one picture of each whom a list names, as
        a clip in which the camera moves. `stride` has no meaning then.
    picture: a PNG with the first clips, at the last of mask_ratios.
    """
    if (folder is None) != bool(stills) or (stills and stride):
        given = f"folder={folder}, stills={list(map(str, stills))}, stride={stride}"
        raise ValueError(f"{given}: give a folder of videos, or zips of portraits and no stride")
    known = known_model(checkpoint)
    model = need_autoencoder(known, "reconstruct")
    picture = result_path(picture)
    chosen = [hidden_share(model, asked) for asked in mask_ratios or (None,)]
    ratios = dict.fromkeys(ratio for ratio, _ in chosen)
    if folder is None:
        clips = _portraits(known, model, stills, held_out, seed)
    else:
        clips = _videos(known, model, Path(folder).expanduser(), held_out, seed or 0, stride)
    videos, people, shown = [*clips.who], [*clips.who.values()], []
    rows: dict[float, list[dict[str, Losses]]] = {ratio: [] for ratio in ratios}
    for path in tqdm(videos, "judge", unit="clip", leave=False):
        clip, own = clips.open(path)
        for ratio in ratios:
            held = HeldOut(model, clip.expand(clips.masks, *clip.shape), ratio, own)
            rows[ratio].append({"model": held.losses(), **held.baselines()})
        if picture is not None and len(shown) < SHOWN:
            mask = model_mask(model, [*ratios][-1], 1, torch.Generator().manual_seed(own))[0]
            shown.append((reconstruct_clip(model, clip, mask), model.config.frames // 4 * 2))
    if picture is not None:
        text = f"{[*ratios][-1]:.0%} hidden, frame {shown[0][1] + 1} of {model.config.frames}. "
        text += f"{known.name}: {known.training}. {known.footer}."
        columns = [path.stem[:12] for path in videos[:SHOWN]]
        draw_rows(reconstruction_rows(shown), columns, text, picture)
    of_person, number = np.unique(people, return_inverse=True)[1], len(set(people))
    weights = np.eye(number)[of_person] / np.bincount(of_person)[of_person, None]
    by_person = {ratio: {guess: {kind: weights.T @ [row[guess][kind] for row in found]
                                 for kind in AGAINST} for guess in found[0]}
                 for ratio, found in rows.items()}  # fmt: skip
    notes = tuple(dict.fromkeys(note for _, note in chosen if note))
    if faceless := clips.faceless:
        notes += (f"no face was found in {len(faceless)} of these videos, such as {faceless[0]}: "
                  "the middle square of the picture counts in its place",)  # fmt: skip
    return Judgement(known, videos, people, by_person, clips.what, clips.left_out, notes)


def _videos(
    known: KnownModel, model: MaskedAutoencoder, root: Path, held_out: float, seed: int,
    stride: int | None,
) -> _Clips:  # fmt: skip
    """The videos below a folder that the model was not trained on."""
    people = (table := folder_table(root)).people()
    held = split_people(people, held_out, seed)[1] if held_out > 0 else range(len(table))
    who = {table.clips[i].path: people[i] for i in held}
    videos, _ = check_videos(list(who))
    trained = trained_on(known.source, videos, [who[path] for path in videos], root)
    who = {path: who[path] for path in videos if path not in trained}
    if not who:
        raise ValueError(f"{known.name} was trained on all videos of {root}; give another folder")
    step = known.stride if stride is None else stride
    window = Window(model.config.frames, model.config.size_px, step, "face")

    def opened(path: Path) -> tuple[Tensor, int]:
        reader = open_video(path)
        if (square := find_square(reader)) is None:
            clips.faceless.append(path.name)
        window.boxes[path] = square or centre_square(reader.height, reader.width)
        return window.middle(reader), int.from_bytes(content_of(path)[:6], "big")

    what = f"{len(who)} videos of {len(set(who.values()))} people, the middle clip of each with "
    what += f"{MASKS} masks"
    if is_prepared(root):
        what += ", of a prepared set (whether the model was trained on them is not known)"
    clips = _Clips(who, opened, MASKS, what, sorted(trained))
    return clips


def _portraits(
    known: KnownModel, model: MaskedAutoencoder, archives: Sequence[Path], held_out: float,
    seed: int | None,
) -> _Clips:  # fmt: skip
    """One picture of each named person whom a pre-training with these files holds out."""
    table, run = Stills(archives), facts_of(known.source).get("config", {})
    share = held_out or run.get("held_out", PretrainConfig.held_out) or 0.01  # as in training
    seed = int(run.get("seed", 0)) if seed is None else seed
    held = split_people(everybody := table.people(), share, seed)[1]
    chosen = {everybody[i]: table.clips[i] for i in held if i in table.named}
    if not chosen:
        raise ValueError(f"stills={list(map(str, archives))}: no list has a column `identity`, so "
                         "nobody is known to be held out")  # fmt: skip
    clips = {clip.path: clip for clip in chosen.values()}
    camera = StillClip(model.config.frames, model.config.size_px, TILT)

    def opened(path: Path) -> tuple[Tensor, int]:
        reader = table.open(clips[path])
        own = int.from_bytes(hashlib.sha256(reader.read([0]).tobytes()).digest()[:6], "big")
        return to_floats(camera(reader, clips[path], np.random.default_rng(own), ())), own

    what = f"{len(clips):,} portraits of as many people ({share:.0%} of all, seed {seed}), one mask"
    who = dict(zip(clips, chosen, strict=True))
    return _Clips(who, opened, 1, f"{what} each, as clips in which the camera moves")
