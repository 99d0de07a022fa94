"""Find the clips below a folder, and read class, split and person from where they lie.

Layouts as the data sets' authors ship them; where an archive unpacks differently on different
machines (spaces or underscores, one folder more) both are taken.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from maedfer_lab.data.labels import Labels, is_expression, label_number, plain_word
from maedfer_lab.data.lists import ListFile, Problem, Row, fold_of, read_rows, side_of
from maedfer_lab.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key

_KINDS = {
    **dict.fromkeys(VIDEO_SUFFIXES, "video"),
    **dict.fromkeys(IMAGE_SUFFIXES, "image"),
    **dict.fromkeys((".csv", ".txt"), "list"),
}
# Folders that other programs put among clips, and our own results; their clips are no data.
_NO_DATA = {"__macosx", "runs", "@eadir", "$recycle.bin", "system volume information", "lost+found"}

# Of several kinds of clips in one archive, the first that is there is taken: crops of faces before
# whole scenes, original frames before 16 interpolated ones. The deepest known folder counts.
KINDS = {
    # The authors ship Clip/original/1.mp4, Clip/clip_224x224/00001/00001_00001.jpg (in parts),
    # clip_224x224_avi/00001.avi and clip_224x224_16f (README of the data set; jiangxingxun/DFEW
    # calls the crops data_affine). jpg_224 was renamed jpg_256, its content unchanged, by
    # MAE-DFER's authors (sunlicai/MAE-DFER, issue 17); MSA-LMC/S4D has clip_jpg_256.
    "dfew": (
        (r"(clip_)?jpg_256", "crops of faces, original frames"),
        (r"(clip_)?jpg_224", "crops of faces, original frames"),
        (r"clip_224x224(_part.*)?|data_affine", "crops of faces, original frames"),
        (r"clip_224x224_avi", "crops of faces as videos"),
        (r"(?!.*16f).*(face|crop|align).*", "crops of faces"),
        (r".*16f|.*tim", "crops of faces, interpolated to 16 frames"),
        (r"original.*|raw.*|videos?", "whole scenes"),
    ),
    # 2_ClipsforFaceCrop beside 3_ClipsforScenImages: wangyanckxx/FERV39k; zips add "-002".
    "ferv39k": (
        (r"2_clipsforfacecrop.*", "crops of faces"),
        (r".*(face|crop|align).*", "crops of faces"),
        (r".*(scen.*image|original|clipsforscen).*", "whole scenes"),
    ),
    # data/clips/00001.mp4 are scenes, data/frames the authors' crops (MAE-DFER, issue 22);
    # frames_crop_align_224 beside or below it: MSA-LMC/S4D; clips_faces: katerynaCh/MMA-DFER.
    "mafw": (
        (r"frames_crop_align.*", "aligned crops of faces"),
        (r".*(face|crop|align).*", "crops of faces"),
        (r"frames", "frames"),
        (r"clips|videos?|original.*|unzip", "whole scenes"),
    ),
}
_NAME_PARTS = {"ferv39k": 3}  # Action/Happy/0063: elsewhere the last part of a path is enough

# Who is seen, told by a path: (pattern, whether every clip has to fit, since it is short).
_WORDS = "subject|subj|actor|actress|person|speaker|spk|participant|identity"
_CREMAD = re.compile(r"(?:^|/)(\d{4})_[A-Z]{3}_([A-Z]{3})_[A-Z]{1,2}(?:\.\w+)?$")
_RAVDESS = re.compile(r"(?:^|/)(\d\d)-(\d\d)-(\d\d)-\d\d-\d\d-\d\d-(\d\d)(?:\.\w+)?$")
_PEOPLE = (
    (re.compile(r"(?<![A-Za-z0-9])(?P<t>id\d{5})(?!\d)"), False),  # VoxCeleb
    (re.compile(r"(?:^|/)(?P<n>\d{4})_[A-Z]{3}_[A-Z]{3}_[A-Z]{1,2}(?:\.\w+)?$"), False),  # CREMA-D
    (re.compile(r"(?:^|/)(?:\d\d-){6}(?P<n>\d\d)(?:\.\w+)?$"), False),  # RAVDESS
    (re.compile(rf"(?i)(?<![a-z])(?P<t>(?:{_WORDS})[ _.-]*\d+)(?!\d)"), False),
    (re.compile(r"(?:^|/)s(?P<n>\d+)_(?:an|di|fe|ha|sa|su)_\d+(?:\.\w+)?$"), True),  # eNTERFACE
    (re.compile(r"(?:^|/)(?P<t>(?:[MW]|S|P)\d{3})(?=[/_])"), True),  # MEAD, CK+, Oulu-CASIA
    # CASME's sub01, and what people write: sub-01, s1_3, P07_happy
    (re.compile(r"(?i)(?:^|/)(?P<t>(?:sub|id|user|[psmfw])[_-]?\d{1,4})(?=[/_-])"), True),
    (re.compile(r"(?:^|/)(?P<t>DC|JE|JK|KL)(?=[/_])"), True),  # SAVEE
)
_PERSON = re.compile(rf"(?i)(?:(?:{_WORDS}|sub|id|user|face|pt|[psmwfu])[ _.-]*)?\d+[a-z]?")
_NAMED_PERSON = re.compile(rf"(?i)(?:{_WORDS})[ _.-]*\d+")
_NO_PERSON = re.compile(
    r"(?i)(?:session|take|part|scene|level|intensity|camera|cam|view|videos?|clips?|sentence|trial|"
    r"rep|repetition|day|shot|seq|sequence|front|left|right|up|down|frames?|images?|data|faces?|"
    r"shard|batch|chunk|folder|dir|set|split|fold)\w{0,5}(?:[ _.-]*\d+)?(?:[ _.-]\w+)?"
)


@dataclass(frozen=True)
class Clip:
    """One labelled video.

    path: a video file, or a folder of images. label: place of its class, from 0. fold: the one
    in which it is tested, from 1; 0 = never tested. frames: where known without decoding.
    source: the list and line, or the layout, that named it. subject: the person, where known.
    """

    path: Path
    label: int
    fold: int
    frames: int | None = None
    source: str = ""
    subject: str | None = None


@dataclass
class Found:
    """Clips, what is wrong with them, and what was chosen.

    splits: whether people are still to be split. people_told: whether a list says who is seen.
    """

    classes: tuple[str, ...]
    clips: list[Clip] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    splits: bool = False
    people_told: bool = False

    def problem(self, kind: str, where: str, what: str) -> None:
        """Note what is wrong."""
        self.problems.append(Problem(kind, where, what))


@dataclass(frozen=True)
class Tree:
    """What lies below a folder: videos with their number of images (None: files), and lists.

    ignored: what is neither, in sentences.
    """

    root: Path
    videos: dict[Path, int | None]
    lists: tuple[Path, ...]
    ignored: tuple[str, ...] = ()

    def name(self, path: Path) -> str:
        """The path below the root, with slashes; a path elsewhere stays whole."""
        return path.relative_to(self.root).as_posix() if self.root in path.parents else str(path)


def scan(root: Path) -> Tree:
    """List the videos below `root` (as `find_videos` does), files that may be lists, and the rest.

    A million images are walked without asking the disk about each of them; linked folders are
    entered, each once.

    Raises:
        NotADirectoryError: `root` is no folder.
    """
    from tqdm.auto import tqdm

    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"root={str(root)!r} is not a folder; give one that holds videos")
    videos: dict[Path, int | None] = {}
    lists, seen = [], set()
    ignored: dict[str, list[Path]] = {}
    walk = os.walk(root, followlinks=True)
    for folder, below, names in tqdm(walk, "listing", unit=" folders", delay=2, leave=False):
        place = Path(folder)
        identity = place.stat().st_dev, place.stat().st_ino
        if identity in seen:
            ignored.setdefault("folders that are linked a second time", []).append(place)
            below.clear()
            continue
        seen.add(identity)
        for name in [name for name in below if name[0] == "." or name.casefold() in _NO_DATA]:
            below.remove(name)
            if name[0] != ".":
                ignored.setdefault(f"folders {name}", []).append(place / name)
        kinds: dict[str, list[Path]] = {}
        for name in names:
            if name[0] != ".":
                suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a million names)
                kinds.setdefault(_KINDS.get(suffix, suffix), []).append(place / name)
        files, images = kinds.pop("video", []), kinds.pop("image", [])
        videos.update(dict.fromkeys(files))
        if images and files:
            ignored.setdefault("images beside videos", []).extend(images)
        elif images:
            videos[place] = len(images)
        lists += kinds.pop("list", [])
        for suffix, others in kinds.items():
            ignored.setdefault(f"files {suffix or 'without a suffix'}", []).extend(others)
    told = (f"{len(p):,} {what} are not read, such as {p[0]}" for what, p in ignored.items())
    order = sorted(videos, key=natural_key)
    by_name = tuple(sorted(lists, key=natural_key))
    return Tree(root, {path: videos[path] for path in order}, by_name, tuple(told))


# ---- Who is seen -------------------------------------------------------------------------------


def people_of(names: Sequence[str], root: Path, found: Found) -> list[str | None]:
    """Who each clip shows (None: nothing tells); `found.people_told`: MANIFEST.csv says it.

    names: paths below `root`. Told by ``root``/MANIFEST.csv (columns file and identity), else by
    names as the known sets have them, else by the first folders whose names may be people.
    """
    files = [path for path in root.glob("[Mm]*.[Cc]*") if path.name.lower() == "manifest.csv"]
    for manifest in files[:1]:
        return _listed_people(names, root, manifest, found)
    told: list[str | None] = [None] * len(names)
    for pattern, must_fit in _PEOPLE:
        if all(told) or (must_fit and not all(pattern.search(name) for name in names)):
            continue
        for i, name in enumerate(names):
            if told[i] is None and (match := pattern.search(name)):
                here = match.groupdict()
                told[i] = here["t"] if "t" in here else str(int(here["n"]))
    if any(told):
        return told
    levels = [name.split("/")[:-1] for name in names]
    for level in range(max(map(len, levels), default=0)):
        folders = [parts[level] if level < len(parts) else None for parts in levels]
        words = sorted({folder for folder in folders if folder})
        if len(words) > 1 and not _most(words, _is_no_person):
            return folders
    return told


def told_by_names(who: Sequence[str | None]) -> list[str]:
    """A note on people whom nothing but names tells."""
    names = list(dict.fromkeys(filter(None, who)))
    return [
        f"{len(names):,} people are told by names of files or folders, such as "
        f"{', '.join(names[:3])}; MANIFEST.csv (columns file, identity) says it for sure"
    ] * bool(names)


def _is_no_person(word: str) -> bool:
    return bool(side_of(word) or is_expression(word) or _NO_PERSON.fullmatch(word))


def _most(words: Sequence[str], fits: Callable[[str], object]) -> bool:
    return 2 * sum(map(bool, map(fits, words))) >= len(words)


def _listed_people(
    names: Sequence[str], root: Path, manifest: Path, found: Found
) -> list[str | None]:
    """People by MANIFEST.csv; a row without a file or a file without a row is a problem."""
    finder = Finder(Tree(root, dict.fromkeys(map(root.joinpath, names)), ()), "csv")
    read = read_rows(manifest, need=("path", "subject"))
    found.people_told = True
    found.problems += read.problems
    who: dict[Path | list[Path] | str, str] = {}
    lost, twice = [], []
    for row in read.rows:
        path = finder.find(row.path, str(manifest))
        if not isinstance(path, Path):
            listed = row.path.replace("\\", "/")
            if isinstance(path, list) or not ((root / listed).exists() or ".tar/" in listed):
                lost.append(f"{row.where}: {row.path!r}")
        elif who.setdefault(path, row.subject) != row.subject:
            twice.append(f"{row.where}: {row.path!r} is {row.subject!r} and {who[path]!r}")
    found.notes += finder.respelled()
    unlisted = [name for name in names if root / name not in who]
    kinds = (("rows name no file", lost), ("clips are in no row", unlisted), ("rows differ", twice))
    for what, places in kinds if not read.problems else ():
        if places:
            more = f"; and {len(places) - 5:,} more" if len(places) > 5 else ""
            text = (
                f"{len(places):,} {what} ({'; '.join(places[:5])}{more}); its paths are relative "
                f"to that folder, such as {names[0]!r}"
            )
            found.problem("people", str(manifest), text)
    return [who.get(root / name) or None for name in names]


def same_person(name: str) -> tuple[str, ...]:
    """Equal for two spellings of one person: "Actor 1" and "actor_01"."""
    words = re.findall(r"[^\W\d_]+|\d+", unicodedata.normalize("NFC", name).casefold())
    return tuple(word.lstrip("0") or "0" for word in words) or (name,)


# ---- Folders of classes ------------------------------------------------------------------------


def guess_layout(names: Sequence[str]) -> tuple[str, ...]:
    """What each level of folders above the clips is: "split", "class", "person" or "*".

    Raises:
        ValueError: no classes, or two readings; the message shows both, and what to type.
    """
    levels = [name.split("/")[:-1] for name in names]
    words = [
        sorted({parts[level] for parts in levels if len(parts) > level})
        for level in range(max(map(len, levels)))
    ]
    kinds = ["*"] * len(words)
    for level in range(min(map(len, levels))):
        given = [word for word in words[level] if side_of(word)]
        others = [word for word in words[level] if not side_of(word)]
        if given and others:
            raise ValueError(
                f"the folders {', '.join(given)} are splits, but {', '.join(others[:5])} beside "
                "them is none: rename it (train, val, test), move it away, or type what they are: "
                "--layout class/clip"
            )
        are_folds = len(words[level]) > 1 and all(fold_of(word) for word in words[level])
        if len({side_of(word) for word in given}) > 1 or are_folds:
            if "split" in kinds:
                raise ValueError("two levels of folders are splits; point root at one of the folds")
            kinds[level] = "split"
    if "split" not in kinds:  # everything below train/, which then tells that nothing is tested
        for level in range(min(map(len, levels))):
            if {side_of(word) for word in words[level]} == {"train"}:
                kinds[level] = "split"
    free = [i for i in range(min(map(len, levels))) if len(words[i]) > 1 and kinds[i] == "*"]
    if not free:
        raise ValueError(
            f"it holds {len(words[0])} folders ({', '.join(words[0][:5])}) and no two classes; "
            "labelled videos need a folder for each class, at least two, such as happy/ and sad/"
        )
    kinds[_class_level(levels, words, kinds, free)] = "class"
    others = [i for i, kind in enumerate(kinds) if kind == "*" and len(words[i]) > 1]
    likely = [i for i in others if _most(words[i], _PERSON.fullmatch)]
    likely += [i for i in others if not _most(words[i], _is_no_person)]
    if likely:
        kinds[likely[0]] = "person"
    while kinds[-1] == "*":
        kinds.pop()
    return tuple(kinds)


def _class_level(
    levels: list[list[str]], words: list[list[str]], kinds: list[str], free: list[int]
) -> int:
    """The level of `free` that holds the classes: by words for expressions, else for people."""
    likely = [i for i in free if _most(words[i], is_expression)] or free[:2]
    first, second = likely[0], likely[-1]
    people = [i for i in likely if _most(words[i], _PERSON.fullmatch)]
    if len(likely) == 1 or people == [second]:
        if all(_NAMED_PERSON.fullmatch(word) for word in words[first]):
            raise ValueError(
                f"the folders {', '.join(words[first][:3])} are people and no classes; put a "
                "folder for each class above or below them"
            )
        return first
    if people == [first]:
        return second
    above: dict[str, set[str]] = {}
    for parts in levels:
        above.setdefault(parts[second], set()).add(parts[first])
    if max(map(len, above.values())) == 1 or _most(words[second], _is_no_person):
        return first  # a class that only one folder above has would be shown by one person
    readings = []
    for a, b in ((first, second), (second, first)):
        told = list(kinds[: max(a, b) + 1])
        told[a], told[b] = "class", "person"
        some = ", ".join(words[a][:3]) + ", ..." * (len(words[a]) > 3)
        readings.append(
            f"--layout {'/'.join(told)}/clip ({len(words[a])} classes: {some}; {len(words[b])} "
            "people)"
        )
    raise ValueError(f"two readings are possible, type one: {' or '.join(readings)}")


def layout_of(text: str) -> tuple[str, ...]:
    """Read a layout such as class/person/clip; * is a level that tells nothing.

    Raises:
        ValueError: other words, or not exactly one class.
    """
    parts = text.strip("/ ").casefold().split("/")
    if parts[-1] == "clip":
        parts.pop()
    if parts.count("class") != 1 or not set(parts) <= {"class", "person", "split", "*"}:
        raise ValueError(
            f"layout={text!r} must name the levels of folders: class once, and person, split or *, "
            "then clip, such as class/person/clip, person/class/clip or split/class/clip"
        )
    return tuple(parts)


def read_class_folders(tree: Tree, layout: str | None = None) -> Found:
    """ROOT/CLASS/...: classes are folders in alphabetical order, with splits and people around.

    Raises:
        ValueError: fewer than two classes, or a layout that is not plain (`guess_layout`).
    """
    found = Found((), splits=True)
    names = {tree.name(path): path for path in tree.videos if path != tree.root}
    below = [name for name in names if "/" in name]
    try:
        kinds = layout_of(layout) if layout else guess_layout(below or ["/"])
    except ValueError as error:
        raise ValueError(f"root={str(tree.root)!r}: {error}") from None
    at = {kind: kinds.index(kind) for kind in kinds}
    for name in [name for name in names if name.count("/") <= at["class"]]:
        images = "; images in a class's own folder are one clip, which needs a folder of its own"
        what = f"lies in no folder of a class{images * bool(tree.videos[names.pop(name)])}"
        found.problem("name", name, what)
    rows = [name.split("/")[:-1] for name in names]
    labels = [parts[at["class"]] for parts in rows]
    found.classes = tuple(sorted(set(labels)))
    found.problems += [Problem("spelling", str(tree.root), w) for w in spelled_twice(labels)]
    who = people_of(list(names), tree.root, found)
    if "person" in at and not found.people_told:
        who = [parts[at["person"]] if len(parts) > at["person"] else None for parts in rows]
    elif not found.people_told and (
        layout or any(who == [p[i] for p in rows] for i in at.values())
    ):
        who = [None] * len(who)  # a class or a split is no person
    elif not found.people_told:
        found.notes += told_by_names(who)
    sides = [side_of(parts[at["split"]]) or "" if "split" in at else "" for parts in rows]
    numbers = [fold_of(parts[at["split"]]) if "split" in at else None for parts in rows]
    if "split" in at and (odd := [p[at["split"]] for p in rows if not side_of(p[at["split"]])]):
        if all(numbers):
            found.splits = False
            found.notes.append(f"each of {max(n or 0 for n in numbers)} folds is tested in turn")
        else:
            what = f"the folder {odd[0]!r} is no split; call it train, val or test, or fold1, fold2"
            found.problem("split", str(tree.root), what)
    if any(numbers):
        folds = [number or 0 for number in numbers]
    else:
        folds = folds_of(sides, found) if "split" in at else [0] * len(rows)
    for path, parts, label, fold, person in zip(
        names.values(), rows, labels, folds, who, strict=True
    ):
        source = f"folder {'/'.join(parts[: at['class'] + 1])}"
        number = found.classes.index(label)
        found.clips.append(Clip(path, number, fold, tree.videos[path], source, person))
    if kinds != ("class",):
        people = f", {len(set(who) - {None}):,} people" * ("person" in at)
        how = "as asked" if layout else "--layout asks for another reading"
        told = f"read as {'/'.join(kinds)}/clip: {len(found.classes)} classes{people} ({how})"
        found.notes.append(told)
    return found


def spelled_twice(labels: Iterable[str]) -> list[str]:
    """Spellings that would be two classes, or one, in sentences."""
    words: dict[str, list[str]] = {}
    for text in sorted(set(labels)):
        words.setdefault(plain_word(text), []).append(text)
    return [
        f"{' and '.join(map(repr, spelled))} are spellings of one class; write it in one way"
        for spelled in words.values()
        if len(spelled) > 1
    ]


def folds_of(sides: Sequence[str], found: Found) -> list[int]:
    """Fold 1 tests what is given as test, else as val; val beside a test is trained on."""
    number = Counter(sides)
    tested = "test" if number["test"] else "val"
    found.splits = not number[tested]
    told = f"the given split is used ({', '.join(f'{s} {n:,}' for s, n in sorted(number.items()))})"
    if found.splits:
        told = "everything is given as train, nothing as val or test: a fifth of the people, held "
        told += "out here, are tested as fold 1"
    elif not number["test"]:
        told += "; there is no test, so val is the test: choose no epoch or setting by it"
    elif number["val"]:
        told += "; val is trained on (--holdout validates)"
    found.notes.append(told)
    return [int(side == tested) for side in sides]


def read_unlabelled(tree: Tree) -> Found:
    """Any folder of videos for pre-training, such as VoxCeleb2's dev/mp4/id00012/.../00001.mp4."""
    found = Found(("unlabelled",))
    who = people_of([tree.name(path) for path in tree.videos], tree.root, found)
    for (path, frames), person in zip(tree.videos.items(), who, strict=True):
        found.clips.append(Clip(path, 0, 0, frames, "unlabelled folder", person))
    return found


# ---- Sets whose file names tell everything -----------------------------------------------------


def read_named(tree: Tree, labels: Labels) -> Found:
    """CREMA-D, RAVDESS and eNTERFACE05, whose paths tell class and person.

    CREMA-D: VideoFlash/1001_DFA_ANG_XX.flv = actor, sentence, expression, level.
    RAVDESS: Actor_01/02-01-06-01-02-01-12.mp4 = modality, speech or song, expression, ... The
    official lists hold the speech without sound (02-01-...). The same recordings with sound
    (01-01-...) show the same pictures: they stand in where no silent ones are. Songs and files of
    sound only are left out.
    eNTERFACE05: subject 1/anger/sentence 1/s1_an_1.avi; the folders count, not file names (the
    official lists follow the folders). Subject 6 is uncut and in no official list.
    """
    found, skipped = Found(labels.classes), Counter()
    rule, example = {
        "cremad": (cremad_name, "1001_DFA_ANG_XX"),
        "ravdess": (ravdess_name, "02-01-06-01-02-01-12"),
        "enterface": (_enterface, "subject 1/anger/sentence 1/s1_an_1.avi"),
    }[labels.name]
    silent = {path.stem[3:] for path in tree.videos if path.name.startswith("02-01-")}
    first: dict[tuple[str, int], Path] = {}
    for path, frames in tree.videos.items():
        told = rule(tree.name(path), labels, silent)
        stem = path.stem if frames is None else path.name
        if told is None:
            what = f"the name says no class and person, as {example} does"
            found.problem("name", tree.name(path), what)
        elif isinstance(told, str):
            skipped[told] += 1
        elif told[1] not in labels.test_fold:
            known = f"{min(labels.test_fold)} to {max(labels.test_fold)}"
            what = f"subject {told[1]} is in no published fold (known: {known})"
            found.problem("subject", tree.name(path), what)
        else:
            label, subject = told
            if (stem, subject) in first:
                there = tree.name(first[stem, subject])
                what = f"the same clip as {there}; keep one, or point root at one"
                found.problem("duplicate", tree.name(path), what)
            first.setdefault((stem, subject), path)
            fold, source = labels.test_fold[subject], f"{labels.title} names"
            found.clips.append(Clip(path, label, fold, frames, source, str(subject)))
    found.notes += [f"left out: {what} ({number:,})" for what, number in sorted(skipped.items())]
    return found


Told = tuple[int, int] | str | None  # label and subject, or why the clip is left out


def cremad_name(name: str, labels: Labels, _: set[str]) -> Told:
    """1001_DFA_ANG_XX."""
    match = _CREMAD.search(name)
    codes = [word[:3].upper() for word in labels.classes]
    return (codes.index(match[2]), int(match[1])) if match and match[2] in codes else None


def ravdess_name(name: str, labels: Labels, silent: set[str]) -> Told:
    """02-01-06-01-02-01-12."""
    match = _RAVDESS.search(name)
    if match is None or not 1 <= int(match[3]) <= len(labels.classes):
        return None
    if match[2] == "02":
        return "songs"
    if match[1] not in ("01", "02"):
        return "files of sound only"
    if match[1] == "01" and PurePosixPath(name).stem[3:] in silent:
        return "copies with sound"
    return int(match[3]) - 1, int(match[4])


def _enterface(name: str, labels: Labels, _: set[str]) -> Told:
    parts = name.lower().split("/")[:-1]
    people = [int(m[1]) for part in parts if (m := re.fullmatch(r"subject[ _-]*(\d+)", part))]
    classes = [n for part in parts if (n := label_number(part, labels.classes)) is not None]
    if people == [6]:
        return "subject 6, who is in no official list"
    return (classes[0], people[0]) if len(people) == len(classes) == 1 else None


# ---- Lists -------------------------------------------------------------------------------------


class Finder:
    """Find the clip that a list means: as written, below the root, or by its last parts.

    Lists carry paths of the machine they were made on. The longest tail of the path that exists
    below the root is taken, if need be without suffix or letter case; failing that, in published
    sets, the clip whose last part (FERV39k: three) is the same without leading zeros.
    """

    def __init__(self, tree: Tree, dataset: str) -> None:
        self._tree, self.parts, self._is_own = tree, _NAME_PARTS.get(dataset, 1), dataset == "csv"
        self._spelled: tuple[dict[str, list[Path]], ...] = ({}, {}, {}, {})  # as `_spellings`
        self._by_name: dict[str, list[Path]] = {}
        self._cut: dict[str, str] = {}  # list -> what is cut off the front of its paths
        self._respelled: dict[str, str] = {}
        self.notes: list[str] = []
        for path in self._wanted(tree, KINDS.get(dataset, ())):
            name = tree.name(path)
            for known, spelled in zip(self._spelled, _spellings(name), strict=True):
                known.setdefault(spelled, []).append(path)
            self._by_name.setdefault(self._tail(name), []).append(path)

    def _wanted(self, tree: Tree, known: tuple[tuple[str, str], ...]) -> Iterable[Path]:
        """The videos of the kind to be taken; what else is there goes into `notes`."""
        kinds: dict[int, list[Path]] = {}
        names: dict[int, set[str]] = {}
        for path in tree.videos:
            for folder in reversed(path.relative_to(tree.root).parts[:-1]):
                ranks = [i for i, (p, _) in enumerate(known) if re.fullmatch(p, folder, re.I)]
                if ranks:
                    kinds.setdefault(ranks[0], []).append(path)
                    names.setdefault(ranks[0], set()).add(folder)
                    break
        if not kinds:
            return tree.videos
        taken, *rest = (f"{', '.join(sorted(names[r]))} ({known[r][1]})" for r in sorted(kinds))
        same = {self._tail(tree.name(path)) for path in kinds[min(kinds)]}
        known_kind = {path for paths in kinds.values() for path in paths}
        others = [path for path in tree.videos if path not in known_kind]
        if "scenes" in taken and (
            alike := [path for path in others if self._tail(tree.name(path)) in same]
        ):
            raise ValueError(
                f"root={str(tree.root)!r} holds clips twice: {taken}, and such as {alike[0]}, of "
                "which the name does not say whether they are crops of faces; rename that folder "
                "(faces, if so), or point root at the clips and lists at the lists"
            )
        if rest:
            self.notes.append(
                f"clips are taken from {taken}; {', '.join(rest)} lies there as well, which suits "
                "training less: point root at it, and lists at the lists, to use it"
            )
        elif "scenes" in taken:
            self.notes.append(f"clips are taken from {taken}; training expects crops of faces")
        return kinds[min(kinds)]

    def _tail(self, name: str) -> str:
        parts = PurePosixPath(_bare(name)).parts[-self.parts :]
        return "/".join(part.lstrip("0") or "0" if part.isdecimal() else part for part in parts)

    def unread(self, used: int) -> list[str]:
        """Notes on clips that no list names, and on names that were matched without case."""
        left = sum(map(len, self._by_name.values())) - used
        return [*[f"{left:,} clips below root are in no list"] * (left > 0), *self.respelled()]

    def respelled(self) -> list[str]:
        """A note on paths that were found without regard to letter case."""
        first = next(iter(self._respelled.items()), ())
        told = f"{len(self._respelled):,} paths of lists match only without letter case, first "
        return [told + " for ".join(map(repr, first))] if first else []

    def knows(self, listed: str) -> bool:
        """Whether a clip is called so."""
        return bool(listed) and isinstance(self.find(listed), Path)

    def find(self, listed: str, of: str | None = None) -> Path | list[Path] | str:
        """The clip, or those it may be, or why there is none.

        of: the list, whose paths must start alike.
        """
        parts = PurePosixPath(listed.replace("\\", "/")).parts
        if Path(listed).is_absolute() and self._is_own and Path(listed).exists():
            return Path(listed)
        for start in range(len(parts)):
            tail, front = "/".join(parts[start:]), "/".join(parts[:start])
            for i, spelled in enumerate(_spellings(tail)):
                if not (same := self._spelled[i].get(spelled)):
                    continue
                if self._is_own and of and self._cut.setdefault(of, front) != front:
                    return f"{listed!r} does not exist, though {tail!r} does"
                if i > 1 and of and len(same) == 1:
                    self._respelled[self._tree.name(same[0])] = listed
                return same[0] if len(same) == 1 else same
        if Path(listed).is_absolute() and Path(listed).exists():
            return Path(listed)
        same = self._by_name.get(self._tail("/".join(parts)), [])
        if not same or self._is_own or len(parts) < self.parts:
            return f"{listed!r} does not exist"
        return same[0] if len(same) == 1 else same


def _bare(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in VIDEO_SUFFIXES else name


def _spellings(name: str) -> tuple[str, str, str, str]:
    """A path as it is, without suffix, without letter case, without both."""
    plain = unicodedata.normalize("NFC", name).casefold()
    return name, _bare(name), plain, _bare(plain)


def read_fold_lists(tree: Tree, labels: Labels | None, files: list[ListFile], base: Path) -> Found:
    """One table from the train, val and test lists of all folds; contradictions are problems."""
    found = Found(labels.classes if labels else ())
    finder = Finder(tree, labels.name if labels else "csv")
    found.notes += finder.notes
    pairs: list[tuple[ListFile, Row]] = []
    native = set()  # the authors' own lists
    for file in files:
        read = read_rows(file.path, file.path.relative_to(base).as_posix(), finder.knows)
        found.problems += read.problems
        found.notes += read.notes
        found.people_told |= "subject" in read.roles
        native |= {row.where for row in read.rows if read.roles.get("path") == "video_name"}
        pairs += [(file, row) for row in read.rows]
    understood = understand([row for _, row in pairs], finder, labels, found, native)
    first: dict[Path, tuple[int, Row]] = {}
    seen: dict[tuple[Path, ListFile], Row] = {}
    sides: dict[tuple[str, int], set[Path]] = {}
    for (file, row), meant in zip(pairs, understood, strict=True):
        if meant is None:
            continue
        path, label = meant
        if (path, file) in seen:
            what = f"{row.path!r} stands in {seen[path, file].where} already"
            found.problem("duplicate", row.where, what)
        elif path in first and first[path][0] != label:
            there = first[path][1]
            what = f"{row.path!r} has label {row.label}, but {there.label} in {there.where}"
            found.problem("two labels", row.where, what)
        seen.setdefault((path, file), row)
        first.setdefault(path, (label, row))
        sides.setdefault((file.part, file.fold), set()).add(path)
    for fold in sorted({fold for _, fold in sides}):
        # The official code validates on the test fold, so its lists of both are equal.
        val, test = sides.pop(("val", fold), set()), sides.get(("test", fold))
        if val and test is None:
            sides["test", fold] = val
            found.notes.append(f"fold {fold} has no test list: its val list is the test")
        elif val - (test or set()):
            sides.setdefault(("train", fold), set()).update(val - (test or set()))
            found.notes.append(f"the val list of fold {fold} is trained on (--holdout validates)")
    test_fold = _test_folds(sides, first, found)
    for path in sorted(first, key=natural_key):
        label, row = first[path]
        fold, frames, who = test_fold.get(path, 0), tree.videos.get(path), row.subject or None
        found.clips.append(Clip(path, label, fold, frames, row.where, who))
    found.notes += finder.unread(len(first))
    return found


def _test_folds(
    sides: dict[tuple[str, int], set[Path]], first: dict[Path, tuple[int, Row]], found: Found
) -> dict[Path, int]:
    test_fold: dict[Path, int] = {}
    for (part, fold), paths in sorted(sides.items()):
        for path in sorted(paths, key=natural_key) if part == "test" else ():
            where = first[path][1].where
            if path in sides.get(("train", fold), ()):
                what = f"{path.name} is in the train and the test list of fold {fold}"
                found.problem("train and test", where, what)
            if path in test_fold:
                what = f"{path.name} is tested in folds {test_fold[path]} and {fold}"
                found.problem("tested twice", where, what)
            test_fold.setdefault(path, fold)
    for (part, fold), paths in sorted(sides.items()):
        left_out = len(set(first) - paths - sides.get(("test", fold), set()))
        if part == "train" and left_out:
            what = (
                f"{left_out:,} clips of the other folds are in neither list of fold {fold}, though "
                "the table would train on them; give the lists of one data set and version"
            )
            found.problem("folds disagree", f"fold {fold}", what)
    return test_fold


def understand(
    rows: Sequence[Row], finder: Finder, labels: Labels | None, found: Found, native: set[str]
) -> Iterator[tuple[Path, int] | None]:
    """Clip and label of each row; what stands in the way goes to `found.problems`.

    Without classes in `found` the labels' own names become them. native: rows of the
    authors' own lists, whose first label may be 1.
    """
    texts = {row.label for row in rows}
    if not found.classes:
        found.classes = class_names(texts, found)
    elif texts and not native and all(map(str.isdecimal, texts)) and min(map(int, texts)) == 1:
        found.notes.append(f"labels start at 1, which is {found.classes[1]}; 0 does not occur")
    done: dict[tuple[str, str, str], tuple[Path, int] | None] = {}
    unclear: dict[tuple[Path, ...], list[tuple[Row, list[Path]]]] = {}
    for row in rows:
        of = row.where.rpartition(" line ")[0]
        if (key := (row.path, row.label, of if labels is None else "")) in done:
            yield done[key]
            continue
        first = labels.first_label if labels and row.where in native else 0
        label = label_number(row.label, found.classes, first)
        if label is None:
            known = f"{first} to {first + len(found.classes) - 1} or {', '.join(found.classes)}"
            what = f"label {row.label!r} of {row.path!r} is out of range; known are {known}"
            found.problem("label", row.where, what)
        path = finder.find(row.path, of)
        if isinstance(path, str):
            found.problem("missing", row.where, path)
        elif isinstance(path, list):
            folders = tuple(dict.fromkeys(one.parents[finder.parts - 1] for one in path))
            unclear.setdefault(folders, []).append((row, path))
        done[key] = (path, label) if isinstance(path, Path) and label is not None else None
        yield done[key]
    for folders, places in unclear.items():
        row, (first, second, *_) = places[0]
        what = f"{row.path!r} may be {first} or {second}"
        if len(folders) > 1 and labels:
            roots = " or ".join(f"--root {str(folder)!r}" for folder in folders)
            what += f", as {len(places):,} rows may: type {roots} (and --lists), or move one away"
        else:
            what += "; write it as it is spelled"
        found.problem("places", row.where, what)


def class_names(labels: Iterable[str], found: Found) -> tuple[str, ...]:
    """Classes of a list without a table, called as they are written: whole numbers by value."""
    texts = sorted({text for text in labels if text})
    found.problems += [Problem("spelling", "labels", what) for what in spelled_twice(texts)]
    if len({bool(re.fullmatch(r"[+-]?\d+", text)) for text in texts}) > 1:
        what = f"labels are names and numbers ({', '.join(texts[:6])}); write all in one way"
        found.problem("spelling", "labels", what)
    if broken := [text for text in texts if re.fullmatch(r"[+-]?\d*[.,]\d+", text)]:
        what = f"label {broken[0]!r} has decimals; a class is a name or a whole number"
        found.problem("label", "labels", what)
    if not texts or not all(re.fullmatch(r"[+-]?\d+", text) for text in texts):
        return tuple(sorted(texts, key=lambda text: natural_key(Path(text))))
    texts = sorted(texts, key=int)
    if [int(text) for text in texts] != list(range(len(texts))):
        shown = ", ".join(f"{text} is output {i}" for i, text in enumerate(texts[:3]))
        start = "start at 1" if int(texts[0]) == 1 else f"are {texts[0]} to {texts[-1]}"
        found.notes.append(
            f"labels {start}; the {len(texts)} numbers that occur are the classes ({shown}, ...)"
        )
    return tuple(texts)
