"""Find the clips below a folder; class, split and person from their folders or from lists.

Layouts as the data sets' authors ship them (published/layouts.json, with sources); if an archive
unpacks differently on different machines (spaces or underscores, one more folder) both are read.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations, zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from maedfer_lab.data.labels import (
    LOOK_ALIKE,
    WORDS,
    Labels,
    is_expression,
    label_number,
    original,
    plain_word,
)
from maedfer_lab.data.lists import (
    Clip,
    ListFile,
    ListRow,
    Reading,
    fold_of,
    read_rows,
    side_of,
    words_beside_side,
)
from maedfer_lab.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key

MOST_FOLDS = 10_000  # each is counted
_KEEP = "keep one, or point root at one"
_KINDS = {
    **dict.fromkeys(VIDEO_SUFFIXES, "video"),
    **dict.fromkeys(IMAGE_SUFFIXES, "image"),
    **dict.fromkeys((".csv", ".txt"), "list"),
}
_PERSON = re.compile(WORDS["folder of a person"].replace("PERSON", WORDS["person"]))
# By pandas and Excel: 7.0, 1e+02 and 1,001.
_ODD_NUMBER = re.compile(r"(?i)\d{1,3}(?:,\d{3})+|\d{1,15}(?:[.,]0+|(?:[.,]\d+)?e\+?\d\d?)")
_SESSION = re.compile(WORDS["another session"])
_PERSON_WORD = re.compile(rf"{WORDS['person']}|patient|sub|id|user|pt|p")
_SURE_PERSON = re.compile(rf"(?i)(?:{WORDS['person']}|sub|id|user)[ _.-]*\d+")
# What stands between two names; only the first kind never stands within one ("Meyer, Anna").
_AND = re.compile(r"\s*[;|&+\n\uff1b\u3001]\s*|\s+(?:and|und|et|y|with|vs)\s+")
_WEIGHT = re.compile(r"\s*[:=(]\s*[\d.]+%?\)?$")  # happy:0.9
_PARTS = re.compile(rf"{_AND.pattern}|\s*[,/\\]\s*")
# P1_P2: a word with a number, and after it the same word with another.
_PAIR = re.compile(r"(?i)((?<![^\W\d_])([^\W\d_]+)[ _.-]*(\d+))[ _.&x+-]*(?=\2[ _.-]*(?!\3\b)\d)")
_NO_PERSON = re.compile(WORDS["folder of no person"])
# One of several recordings, which is no class: session 1, cam2, 2024-05; level 2 may be one.
_RECORDING = re.compile(rf"(?!(?i:level|intensity)){_NO_PERSON.pattern}(?<=\d)")
_SHOWN_AS = re.compile(WORDS["folder of one kind of pictures"])
# Who is seen, told by a path: (of, whether every clip has to fit, since it is short, pattern).
_PEOPLE = [
    (of.partition(",")[0], must_fit, re.compile(pattern.replace("PERSON", WORDS["person"])))
    for of, must_fit, pattern in WORDS["people"]
]


@dataclass(frozen=True)
class Tree:
    """Videos below a folder with their number of images (None: files), lists, and ignored files.

    ignored: the latter, in sentences.
    """

    root: Path
    videos: dict[Path, int | None]
    lists: tuple[Path, ...] = ()
    ignored: tuple[str, ...] = ()

    def name(self, path: Path) -> str:
        """The path below the root, with slashes; a path elsewhere stays absolute."""
        return path.relative_to(self.root).as_posix() if self.root in path.parents else str(path)


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`; linked folders last, so that one with two names goes by its own."""
    linked = [str(root)]
    for start in linked:
        for folder, below, names in os.walk(start):
            yield folder, below, names
            linked += [p for name in below if os.path.islink(p := f"{folder}/{name}")]  # noqa: PTH114


def scan(root: Path) -> Tree:
    """List the videos below `root` (as `find_videos` does), files that may be lists, and the rest.

    A million images are scanned without a disk access for each; linked folders are entered once.
    Folders that other programs create among clips, and our results, are ignored.

    Raises:
        NotADirectoryError: `root` is not a folder.
    """
    from tqdm.auto import tqdm

    if not root.is_dir():
        raise NotADirectoryError(f"root={str(root)!r} is not a folder; give one that holds videos")
    videos: dict[Path, int | None] = {}
    lists, seen = [], set()
    ignored: dict[str, list[Path]] = defaultdict(list)
    for folder, below, names in tqdm(_walk(root), "listing", unit=" folders", delay=2, leave=False):
        place = Path(folder)
        identity = place.stat().st_dev, place.stat().st_ino
        if identity in seen:
            ignored["suspicious: N folders that are linked a second time"].append(place)
            below.clear()
            continue
        seen.add(identity)
        below[:] = [name for name in below if name[0] != "."]
        if not below and not names:
            ignored["N folders that are empty"].append(place)
        for name in [name for name in below if name.casefold() in WORDS["no data"]]:
            below.remove(name)
            ignored[f"N folders {name}"].append(place / name)
        kinds: dict[str, list[Path]] = defaultdict(list)
        for name in names:
            if name[0] != ".":
                suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a million names)
                kinds[_KINDS.get(suffix, suffix)].append(place / name)
        files, images = kinds.pop("video", []), kinds.pop("image", [])
        lists += kinds.pop("list", [])
        videos.update(dict.fromkeys(files))
        if images and files:
            ignored["N images beside videos"] += images
        elif images:
            videos[place] = len(images)
        for suffix, others in kinds.items():
            is_poster = bool(files or images)  # of a video beside it, or the clip itself
            is_lost = suffix in WORDS["other videos"] + WORDS["other pictures"] * (not is_poster)
            ignored["suspicious: " * is_lost + f"N files {suffix or 'without a suffix'}"] += others
    notes = (
        f"{what.replace('N', f'{len(paths):,}', 1)} are not read, such as {paths[0]}"
        for what, paths in ignored.items()
    )
    in_order = {path: videos[path] for path in sorted(videos, key=natural_key)}
    return Tree(root, in_order, tuple(sorted(lists, key=natural_key)), tuple(notes))


# ---- Who is seen -------------------------------------------------------------------------------


def people_of(
    names: Sequence[str], root: Path, found: Reading, folders: bool = True
) -> list[str | None]:
    """The person in each clip (None: unknown); `found.people_told`: MANIFEST.csv says it.

    names: paths below `root`. From ``root``/MANIFEST.csv (columns file and identity), else from
    names as the known sets have them, else from the first `folders` whose names may be people.
    """
    if manifests := manifests_in(root):
        return _listed_people(names, root, manifests, found)
    people: list[str | None] = [None] * len(names)
    for of, must_fit, pattern in _PEOPLE:
        matches = [pattern.search(name) for name in names] if not all(people) else []
        for i, match in enumerate(matches if all(matches) or not must_fit else []):
            if match and people[i] is None:
                who, found.people_by = match.groupdict(), f"their names ({of})"
                people[i] = who["t"] if "t" in who else str(int(who["n"]))
    levels = [name.split("/")[:-1] for name in names]
    depth = max(map(len, levels), default=0) if folders and not any(people) else 0
    for i in _levels_of_people(levels, range(depth))[:1]:
        people = [parts[i] if i < len(parts) else None for parts in levels]
        found.people_by = "their folders"
    return people


def _levels_of_people(levels: Sequence[Sequence[str]], among: Iterable[int]) -> list[int]:
    """Which of the levels of folders `among` is of people; several if nothing tells which.

    Actor_01 before S01 before anna; bare numbers last if they hold a video each. Of folders inside
    each other the upper ones, so that nobody is parted.
    """
    words = {i: {parts[i] for parts in levels if len(parts) > i} for i in among}

    def where(fits: Callable[[str], object], every: bool = False) -> list[int]:
        return [i for i in may if (all(map(fits, words[i])) if every else _most(words[i], fits))]

    may = [i for i, some in words.items() if len(some) > 1]
    shown, nobody = where(_SHOWN_AS.fullmatch), where(_is_no_person)
    like, numbers = where(_PERSON.fullmatch), where(str.isdecimal, every=True)
    able = may = [i for i in may if i not in shown and (i in like or i not in nobody)]
    sure = where(_SURE_PERSON.fullmatch)
    may = sure or [i for i in may if i in like and i not in numbers] or may
    single = [i for i in numbers if len({(*p[: i + 1],) for p in levels}) == len(levels)]
    may = [i for i in may if i not in single] or may
    able = [i for i in able if i not in single]

    def recurs(i: int, under: int) -> bool:
        pairs = {(parts[under], parts[i]) for parts in levels if len(parts) > max(i, under)}
        return len(pairs) > len(words[i])

    found = [i for i in may if i == may[0] or recurs(i, may[0])]
    # In anna/s1 and bert/s1 the upper may be the people; only Actor_01 is one wherever it lies.
    return [i for i in able if found and not sure and i < found[0] and recurs(found[0], i)] + found


def manifests_in(folder: Path) -> list[Path]:
    """MANIFEST.csv, in whatever case."""
    return sorted(p for p in folder.glob("[Mm]*.[Cc]*") if p.name.lower() == "manifest.csv")


def people_of_copies(names: Sequence[str], who: Sequence[str | None]) -> list[str | None]:
    """People, those of altered copies of whom nothing tells filled in: as in the clip copied.

    a_flip.mp4 belongs to a.mp4, and flipped/happy/a.mp4 to happy/a.mp4. Copies whose original is
    not there belong together, if their folder has others as well.
    """
    if None not in who:
        return list(who)
    spelled = [[p.strip() for p in _bare(_folded(name)).split("/")] for name in names]
    plain = [[original(part) for part in parts] for parts in spelled]
    there: dict[tuple[str, ...], list[int]] = defaultdict(list)
    copied: dict[tuple[str, ...], set[str]] = defaultdict(set)  # folder -> originals of its copies
    keys = []
    for i, (*above, name) in enumerate(plain):
        folder = tuple(part for part in above if part not in ("", "original", "raw"))
        near = (part for part in folder if not side_of(part))
        keys.append((("own", *folder, name), ("near", *near, name), ("copy", *folder, name)))
        if spelled[i] == plain[i]:
            there[keys[i][0]].append(i)
            there[keys[i][1]].append(i)
        elif not spelled[i][-1].endswith(")"):
            there[keys[i][2]].append(i)
            copied[folder].add(name)
    found = list(who)
    for i, (own, near, copy) in enumerate(keys):
        if who[i] is None and spelled[i] != plain[i]:
            of = there[own][:1]
            if not of and not spelled[i][-1].endswith(")"):
                of = there[near] if len(there[near]) == 1 else []
                of = of or there[copy][: len(copied[copy[1:-1]]) > 1]
            for k in of if of != [i] else ():
                found[i] = found[k] = who[k] or names[k]
    return found


def _is_no_person(word: str) -> bool:
    return bool(side_of(word) or is_expression(word) or _NO_PERSON.fullmatch(word))


def may_be_name(word: str) -> bool:
    """Whether a word alone may name a person: anna, and neither actor, male nor s."""
    return len(word) > 1 and not _is_no_person(word) and not _PERSON_WORD.fullmatch(word)


def may_be_person(name: str, is_guess: bool) -> bool:
    """Whether a whole name may be a person's: anna and 12, and neither male nor 2024.

    is_guess: no list says so. Then only P01 or S001 does: anna may be a place as well, 3 a fold,
    001 a clip, S02 a session or sentence, and W1 a week.
    """
    if is_guess:
        return bool(_PERSON.fullmatch(name)) and not re.fullmatch(r"(?i)[sw]\d\d?|f\d|\d.*", name)
    return may_be_name(name) or bool(re.search(r"\d", name) and not _NO_PERSON.fullmatch(name))


def is_person_number(key: Sequence[str]) -> bool:
    """Whether a person's words are a word for a person and a number: participant 1."""
    return len(key) == 2 and key[1].isdecimal() and bool(_PERSON_WORD.fullmatch(key[0]))


def _most(words: Collection[str], fits: Callable[[str], object]) -> bool:
    return 2 * sum(bool(fits(word)) for word in words) >= len(words)


def _listed_people(
    names: Sequence[str], root: Path, manifests: Sequence[Path], found: Reading
) -> list[str | None]:
    """People by MANIFEST.csv; a row without a file or a file without a row is a problem."""
    manifest, *others = manifests
    if others:
        what = f"is a second list besides {others[0].name}; keep one of them"
        found.problem("people", manifest, what)
    finder = Finder(Tree(root, dict.fromkeys(map(root.joinpath, names))), "csv", found)
    before = len(found.problems)
    rows, roles = read_rows(manifest, found, need=("path", "subject"))
    if unused := [column for role, column in roles.items() if role in ("label", "split")]:
        found.notes.append(f"columns of {manifest.name} that are not used: {', '.join(unused)}")
    found.people_told, is_sound = True, len(found.problems) == before
    found.people_by = f"column {roles.get('subject')} of {manifest.name}"
    who: dict[Path, str] = {}
    lost, twice = [], []
    for row in rows:
        path, listed = finder.find(row.path, str(manifest)), row.path.replace("\\", "/")
        if isinstance(path, Path):
            if (other := who.setdefault(path, row.subject)) != row.subject:
                twice.append(f"{row.where}: {row.path!r} is {row.subject!r} and {other!r}")
        elif isinstance(path, list) or not ((root / listed).exists() or ".tar/" in listed):
            lost.append(f"{row.where}: {row.path!r}")
    unlisted = [name for name in names if root / name not in who]
    kinds = {"rows name no file": lost, "clips are in no row": unlisted, "rows differ": twice}
    for what, places in kinds.items():
        if places and is_sound:
            more = f"; and {len(places) - 5:,} more" * (len(places) > 5)
            text = f"{len(places):,} {what} ({'; '.join(places[:5])}{more}); its paths are relative"
            found.problem("people", manifest, f"{text} to that folder, such as {names[0]!r}")
    return [who.get(root / name) or None for name in names]


def same_persons(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What is equal for spellings of one person, and for their sessions, sides and copies.

    "Actor 1" is "actor_01", "Zoë" is "zoe"; 7, 7.0 and, where 7 is there, S07 are one person.
    """
    keys = {name: person_words(name) for name in names}
    known = set(keys.values())
    for name, key in keys.items():
        base = key[1:] if is_person_number(key) else person_words(original(name))
        keys[name] = base if base in known else key
    return keys


def person_words(name: str) -> tuple[str, ...]:
    """Words and numbers of a person's name, however they are spelled: `same_persons`."""
    text = name.strip().casefold().translate(LOOK_ALIKE)
    text = unicodedata.normalize("NFKD", _SESSION.sub("", text) or text)
    if _ODD_NUMBER.fullmatch(text):
        text = re.sub(r"(?<=\d),(?=\d{3}(?:,|$))", "", text).replace(",", ".")
        text = f"{float(text):.0f}"
    text = re.sub("[\u0300-\u036f\u200b-\u200d\ufeff]", "", text)  # accents, and what has no width
    marks = {letter for letter in text if unicodedata.category(letter)[0] in "PSZ"}
    text = "".join(" " if letter in marks else letter for letter in text)
    words = [re.sub(r"^s(?:ubj?)?$", "subject", w) for w in re.findall(r"\d+|[^\d\s]+", text)]
    return tuple(word.lstrip("0") or "0" for word in words) or (name,)


def named_together(texts: Iterable[str], key: Callable[[str], Any]) -> list[tuple[str, str, str]]:
    """Texts that name several of what stands there, one of these, and the text in which it does.

    As "anna; bert", "anna" and "anna". key: what is equal for spellings of one.
    """

    def parted(text: str, mark: re.Pattern[str]) -> list[str]:
        text = _PAIR.sub(r"\1;", text)
        parts = (_WEIGHT.sub("", part).strip(" []'\"") for part in mark.split(text))
        return [part for part in parts if part]

    stands: dict[Any, list[str]] = defaultdict(list)
    for text in (texts := list(texts)):
        for one in {key(part) for part in parted(text, _AND)}:
            stands[one].append(text)
    found = []
    for text in texts:
        parts = parted(text, _PARTS)
        there = ((p, o) for p in parts for o in stands.get(key(p), [])[:2] if o != text)
        if len(parts) > 1 and not _ODD_NUMBER.fullmatch(text) and (one := next(there, None)):
            found.append((text, *one))
    return found


# ---- Sides and folds ----------------------------------------------------------------------------


def fold_clips(
    given: Iterable[tuple[Path, tuple[str, int]]], found: Reading, where: Mapping[Path, str]
) -> dict[Path, int]:
    """The fold that tests each clip, from its part and fold in each list; reports contradictions.

    Clips marked as test are tested, else val; if there is a test split, val is trained on.
    """
    test_fold: dict[Path, int] = {}
    sides: dict[tuple[str, int], set[Path]] = defaultdict(set)
    for path, side in given:
        sides[side].add(path)
    if any(part and not fold for part, fold in sides):
        sides = {(part, fold + 1): paths for (part, fold), paths in sides.items()}
        found.notes.append("folds count from 0 here: fold 1 is the one called 0, and so on")
    every = set().union(*(paths for (part, _), paths in sides.items() if part))
    for fold in sorted({fold for _, fold in sides}):
        train, val, test = (sides.get((part, fold), set()) for part in ("train", "val", "test"))
        # The official code validates on the test fold, so its lists of both are equal.
        if val and not test:
            test = val
            note = "there is no test split, so val is the test: do not select on it"
            found.notes.append(f"fold {fold}: {note}")
        elif val - test:
            train = train | (val - test)
            found.notes.append(f"fold {fold}: val is trained on (--holdout validates)")
        for path in sorted(test, key=natural_key):
            if path in train:
                what = f"{path.name} is in the train and the test list of fold {fold}"
                found.problem("train and test", where[path], what)
            if test_fold.setdefault(path, fold) != fold:
                what = f"{path.name} is tested in folds {test_fold[path]} and {fold}"
                found.problem("tested twice", where[path], what)
        if train and (left_out := len(every - train - test)):
            what = f"{left_out:,} clips of other folds are in neither list of this one, and would "
            what += "be trained on; give the lists of one data set and version"
            found.problem("folds disagree", f"fold {fold}", what)
    return test_fold


def _sides_given(
    texts: Sequence[str], what: str, where: object, found: Reading
) -> list[tuple[str, int]]:
    """Part and fold of each clip, by what a column or a level of folders says of it.

    Of folds by number each is tested in turn, but for 0 in a column. Without a test part, people
    are still to be split.
    """
    numbers = [int(t or 0) if re.fullmatch(r"\d{0,9}", t) else fold_of(t) for t in texts]
    folds = [number for number in numbers if number is not None and number <= MOST_FOLDS]
    parts = [side_of(text) or "" for text in texts]
    found.splits = False
    if len(folds) == len(texts):
        pairs = zip(texts, folds, strict=True)
        parts = ["test" if number or fold_of(text) == 0 else "" for text, number in pairs]
        never = f"; {parts.count(''):,} clips of fold 0 are never tested" * ("" in parts)
        found.notes.append(f"each fold of {what} is tested in turn{never}")
        return list(zip(parts, folds, strict=True))
    if odd := [text for text, part in zip(texts, parts, strict=True) if not part]:
        known = f"use train, val and test, or folds from 1 to {MOST_FOLDS:,}"
        found.problem("format", where, f"{what} holds {odd[0][:20]!r}: {known}")
    elif not {"test", "val"} & {*parts}:
        found.splits = True
        note = "everything is given as train, nothing as val or test: a fifth of the people are "
        found.notes.append(note + "fold 1")
    else:
        counts = ", ".join(f"{part} {number:,}" for part, number in sorted(Counter(parts).items()))
        found.notes.append(f"the given split is used ({counts})")
    return [(part, 1) for part in parts]


# ---- Folders of classes ------------------------------------------------------------------------


def guess_layout(names: Sequence[str]) -> tuple[str, ...]:
    """The kind of each level of folders above the clips: "split", "class", "person" or "*".

    Raises:
        ValueError: no classes, or two readings; the message shows both, and the option to choose.
    """
    levels = [name.split("/")[:-1] for name in names]
    # The levels of most clips: the others are told, if theirs would be of classes or splits.
    common = range(sorted(map(len, levels))[len(levels) // 2])
    words = [sorted({p[i] for p in levels if len(p) > i}) for i in range(max(map(len, levels)))]
    kinds = ["*"] * len(words)
    sides = [{side_of(word) for word in some} for some in words]
    for level in common:
        others = [word for word in words[level] if not side_of(word)]
        if others and sides[level] != {None}:
            raise ValueError(
                f"the folders {', '.join(word for word in words[level] if side_of(word))} are "
                f"splits, but {', '.join(others[:5])} is not: rename it (train, val, test), "
                "move it away, or use --layout class/clip"
            )
        if len(words[level]) > 1 and (
            len(sides[level]) > 1 or None not in map(fold_of, words[level])
        ):
            if "split" in kinds:
                raise ValueError("two levels of folders are splits; point root at one of the folds")
            kinds[level] = "split"
    if "split" not in kinds:  # everything below train/, which then tells that nothing is tested
        kinds = ["split" if i in common and s == {"train"} else "*" for i, s in enumerate(sides)]
    free = [i for i in common if len(words[i]) > 1 and kinds[i] == "*"]
    if not free:
        raise ValueError(
            f"it holds {len(words[0])} folders ({', '.join(words[0][:5])}) and no two classes; "
            "labelled videos need a folder for each class, such as happy/ and sad/"
        )
    kinds[_class_level(levels, words, kinds, free)] = "class"
    likely = _levels_of_people(levels, [i for i, kind in enumerate(kinds) if kind == "*"])
    if likely[1:]:
        readings = []
        for some in [*([level] for level in likely), likely]:
            how = "/".join("person" if i in some else kind for i, kind in enumerate(kinds))
            people = sorted({"/".join(p for i, p in enumerate(x) if i in some) for x in levels})
            named = f"{len(people)} people: {', '.join(people[:3])}..."
            readings.append(f"--layout {how}/clip ({named})")
        raise ValueError(f"several readings are possible, choose one: {' or '.join(readings)}")
    for level in likely:
        kinds[level] = "person"
    del kinds[max(i for i, kind in enumerate(kinds) if kind != "*") + 1 :]
    level = kinds.index("split") if "split" in kinds else 0
    if "split" in kinds and len({words_beside_side(word) for word in words[level]} - {""}) > 1:
        below = ("*" if kind == "person" else kind for kind in kinds[level + 1 :])
        raise ValueError(
            f"the folders {', '.join(words[level][:3])} may be splits or people, type one: "
            f"--layout {'/'.join(kinds)}/clip or "
            f"--layout {'/'.join([*kinds[:level], 'person', *below])}/clip"
        )
    return tuple(kinds)


def _class_level(
    levels: list[list[str]], words: list[list[str]], kinds: list[str], free: list[int]
) -> int:
    """The level of `free` that holds the classes: by words for expressions, else for people."""
    share = {i: sum(map(is_expression, words[i])) / len(words[i]) for i in free}
    likely = [i for i in free if share[i] == max(share.values()) >= 0.5] or free
    people = [i for i in likely if _most(words[i], _PERSON.fullmatch)]
    # Numbers may be classes: small whole ones, and all if a level of P01 or Actor_01 is there.
    numbers = [i for i in people if all(word[0].isdigit() for word in words[i])]
    if len(people) == len(numbers):
        numbers = [i for i in numbers if all(w.isdecimal() and w == str(int(w)) for w in words[i])]
    able = [i for i in likely if i not in people or i in numbers] or likely
    if len(likely) == 1 and all(_PERSON.fullmatch(w) and not w.isdecimal() for w in words[able[0]]):
        raise ValueError(
            f"the folders {', '.join(words[able[0]][:3])} are people and no classes; put a "
            "folder for each class above or below them, or type --layout class/clip"
        )
    able = [i for i in able if not _most(words[i], _RECORDING.fullmatch)] or able
    for i in able[1:]:  # a class that only one folder above has would be shown by one person
        if len({(parts[able[0]], parts[i]) for parts in levels if parts[i:]}) == len(words[i]):
            able.remove(i)
    if len(able) == 1:
        return able[0]
    readings = []
    for i in able[:2]:
        who = next((k for k in people if k != i), next(k for k in able if k != i))
        kind = "person" if who in people or not _most(words[who], _is_no_person) else "*"
        meaning = {**dict(enumerate(kinds[: max(i, who) + 1])), i: "class", who: kind}
        counts = f"{len(words[i])} classes: {', '.join(words[i][:3])}...; {len(words[who])} "
        counts += "people" if kind == "person" else "others"
        readings.append(f"--layout {'/'.join(meaning.values())}/clip ({counts})")
    raise ValueError(f"two readings are possible, choose one: {' or '.join(readings)}")


def layout_of(text: str) -> tuple[str, ...]:
    """Read a layout such as class/person/clip; * is a level without meaning.

    Raises:
        ValueError: other words, or not exactly one class.
    """
    parts = text.strip("/ ").casefold().removesuffix("/clip").split("/")
    if parts.count("class") != 1 or not set(parts) <= {"class", "person", "split", "*"}:
        raise ValueError(
            f"layout={text!r} must name the levels of folders: class once, and person, split or *, "
            "then clip, such as class/person/clip; two levels of person name one together"
        )
    return tuple(parts)


def read_class_folders(tree: Tree, layout: str | None = None) -> Reading:
    """ROOT/CLASS/...: classes are folders in alphabetical order, with splits and people around.

    Raises:
        ValueError: fewer than two classes, or an ambiguous layout (`guess_layout`).
    """
    found = Reading(splits=True)
    names = {tree.name(path): path for path in tree.videos if path != tree.root}
    try:
        below = [name for name in names if "/" in name]
        images = sorted({path.name for path, number in tree.videos.items() if number})
        if not layout and images and _most(images, is_expression):
            raise ValueError(
                f"class folders contain images ({', '.join(images[:3])}); put the frames of each "
                f"clip into a sub-folder, e.g. {images[0]}/clip1/1.jpg (stills are not clips)"
            )
        kinds = layout_of(layout) if layout else guess_layout(below or ["/"])
    except ValueError as error:
        raise ValueError(f"root={str(tree.root)!r}: {error}") from None
    depth = kinds.index("class") + 1
    for name in [name for name in names if name.count("/") < depth]:
        what = "is in no class folder (a clip of images needs its own sub-folder there)"
        found.problem("file names", name, what)
        del names[name]
    rows = [name.split("/")[:-1] for name in names]
    levels = {
        one: ["/".join(part for kind, part in zip(kinds, parts) if kind == one) or None  # noqa: B905
              for parts in rows]
        for one in kinds
    }  # fmt: skip
    labels = [label or "" for label in levels["class"]]
    found.classes = tuple(sorted(set(labels)))
    _check_classes(labels, tree.root, found)
    inside = {(parts[depth - 1], part) for parts in rows for part in parts[depth:]}
    twice = sorted((a, b) for a, b in inside if a != b and b in found.classes)
    if twice and not layout:
        what = f"a class, and a folder in {twice[0][0]!r} has this name: move them together or away"
        found.problem("file names", twice[0][1], what + ", or type --layout")
    who = people_of(list(names), tree.root, found)
    if not found.people_told and "person" in levels:
        found.people_by = "folders, as --layout says" if layout else "their folders"
        who = levels["person"]
        if not layout:
            _compare_with_names(who, list(names), tree, "/".join(kinds))
    elif not found.people_told and (layout or who in (levels["class"], levels.get("split"))):
        who = [None] * len(who)  # a class or a split is no person
    texts = [text or "no folder" for text in levels.get("split", ())]
    given = _sides_given(texts, "the level of splits", tree.root, found) if texts else ()
    folds = fold_clips(zip(names.values(), given), found, dict(zip(names.values(), names)))  # noqa: B905
    first: dict[tuple[str, ...], str] = {}
    for (name, path), parts, label, person in zip(names.items(), rows, labels, who, strict=True):
        number, source = found.classes.index(label), f"folder {'/'.join(parts[:depth])}"
        levels = zip_longest(kinds[: len(parts)], parts, fillvalue="*")
        kept = (part for kind, part in levels if kind != "*" or not _SHOWN_AS.fullmatch(part))
        if (there := first.setdefault((*kept, _bare(path.name)), name)) != name:
            found.problem("duplicates", name, f"the same clip as {there}; {_KEEP}")
        fold = folds.get(path, 0)
        found.clips.append(Clip(path, number, fold, tree.videos[path], source, person))
    others = [name for name in map(tree.name, tree.lists) if name.lower() != "manifest.csv"]
    if others:
        others = sorted(others, key=lambda name: "manifest" not in name.lower())
        note = f"{len(others):,} lists are not read, such as {others[0]}; dataset csv reads one"
        lost = "manifest" in others[0].lower()  # elsewhere than right below root
        found.notes.append("suspicious: " * lost + note)
    if kinds != ("class",):
        counts = f"{len(found.classes)} classes, {len(set(who) - {None}):,} people"
        how = "as asked" if layout else "--layout asks for another reading"
        found.notes.append(f"read as {'/'.join(kinds)}/clip: {counts} ({how})")
    return found


def _compare_with_names(folders: list[str | None], names: list[str], tree: Tree, how: str) -> None:
    """Refuse people by folders if file names show that some are in several folders.

    pilot/happy/p1.mp4 and main/happy/p1.mp4 may show one person.
    """
    named = people_of(names, tree.root, Reading(), folders=False)
    by_folder, by_name = (sorted({who for who in some if who}) for some in (folders, named))
    is_sure = _most(by_folder, _PERSON.fullmatch) or not all(named)
    pairs = len(set(zip(folders, named, strict=True)))
    if not is_sure and pairs > min(len(by_folder), len(by_name)):
        raise ValueError(
            f"root={str(tree.root)!r}: people are folders ({', '.join(by_folder[:3])}...: type "
            f"--layout {how}/clip) or in names of files ({', '.join(by_name[:3])}...: say so in "
            "MANIFEST.csv, columns file and identity)"
        )


def _check_classes(labels: Iterable[str], where: object, found: Reading) -> None:
    """Report spellings that would be two classes, or one; several in one; and what is no class."""
    words: dict[str, list[str]] = defaultdict(list)
    texts = sorted(set(labels))
    known = {plain_word(text) for text in texts}
    if 0 < sum(re.fullmatch(r"[+-]?\d+", text) is not None for text in texts) < len(texts):
        what = f"labels are names and numbers ({', '.join(texts[:6])}); write all in one way"
        found.problem("spelling", where, what)
    for text in texts:
        word = plain_word(text)
        base = plain_word(re.sub(r"^\d+[ _.-]*|[ _.-]*\d+$", "", original(text)))
        words[base if base in known else word].append(text)
    for spelled in words.values():
        if len(spelled) > 1:
            what = f"{' and '.join(map(repr, spelled))} are spellings of one class; choose one"
            found.problem("spelling", where, what)
    if texts and all(_NO_PERSON.fullmatch(text) and re.search(r"\d", text) for text in texts):
        note = f"suspicious: classes are called {', '.join(texts[:3])}: are these classes?"
        found.notes.append(note)
    for text, part, _ in named_together(texts, plain_word):
        what = f"{text!r} names several classes, of which {part!r} also occurs alone: choose "
        found.problem("two labels", where, what + "one for each clip, or leave it out")
    if odd := [text for text in texts if plain_word(text) in WORDS["no class"]]:
        note = f"suspicious: {odd[0]!r} is trained as a class; leave its clips out if it is not one"
        found.notes.append(note)
    parts = [re.findall(r"[^\W_]+", text) or [text] for text in texts]
    shown = [{plain_word(w.strip("0123456789")) for w in p if is_expression(w)} for p in parts]
    ends = [{p[i] for p in parts} for i in (0, -1)]
    if all(p[1:] for p in parts) and len(texts) > max(map(len, ends)):
        for some, p in zip(shown, parts, strict=True):  # en_lie, en_truth, de_lie
            some.add(p[0 if len(ends[0]) < len(ends[1]) else -1])
    alike, pairs = [], combinations(zip(texts, shown, strict=True), 2)
    for (a, some), (b, others) in pairs if len(texts) < 100 else ():
        one, other = sorted((a.casefold(), b.casefold()), key=len)
        is_near = len(one) > 2 and (other.startswith(one) or sorted(one) == sorted(other))
        is_near |= len(one) > 3 and SequenceMatcher(None, one, other).ratio() > 0.85
        if some & others or (is_near and f"{a}{b}".isalpha()):
            alike.append((a, b))
    if alike:
        note = f"suspicious: {' and '.join(map(repr, alike[0]))} count as two classes"
        note += f", and so do {len(alike) - 1:,} such pairs" * bool(alike[1:])
        found.notes.append(f"{note}, but share a word or are spelled alike")


def read_unlabelled(tree: Tree) -> Reading:
    """Any folder of videos for pre-training, such as VoxCeleb2's dev/mp4/id00012/.../00001.mp4."""
    found = Reading(("unlabelled",))
    who = people_of([tree.name(path) for path in tree.videos], tree.root, found)
    for (path, frames), person in zip(tree.videos.items(), who, strict=True):
        found.clips.append(Clip(path, 0, 0, frames, "unlabelled folder", person))
    return found


# ---- Sets with complete information in file names ----------------------------------------------

_NAMED = WORDS["named"]  # an example, and a pattern of who is seen and of the code of the class


def read_named(tree: Tree, labels: Labels) -> Reading:
    """CREMA-D, RAVDESS and eNTERFACE05, whose paths name class and person (examples: `_NAMED`).

    RAVDESS: the official lists hold the silent speech videos (02-01-...); the same recordings with
    sound (01-01-...) replace missing silent ones. Songs and audio files are left out.
    eNTERFACE05: the folders are used, as in the official lists. Subject 6 is uncut and in none.
    """
    found, skipped = Reading(labels.classes, people_by=f"names as of {labels.title}"), Counter()
    silent = {path.stem[3:] for path in tree.videos if path.name.startswith("02-01-")}
    first: dict[tuple[str, int], Path] = {}
    for path, frames in tree.videos.items():
        name, stem = tree.name(path), path.stem if frames is None else path.name
        label_and_subject, kind = named(name, labels), ""
        if labels.name == "ravdess" and label_and_subject and not stem.startswith("02-01-"):
            kind = "songs" if stem[3:5] == "02" else "files of sound only"
            if stem.startswith("01-") and kind != "songs":
                kind = "copies with sound" if stem[3:] in silent else ""
        elif labels.name == "enterface" and re.search(r"(?i)subject[ _-]*0*6/", name):
            kind = "subject 6, who is in no official list"
        if kind:
            skipped[kind] += 1
        elif label_and_subject is None:
            what = f"the name says no class and person, as {_NAMED[labels.name][0]} does"
            found.problem("file names", name, what)
        elif label_and_subject[1] not in labels.test_fold:
            known = f"{min(labels.test_fold)} to {max(labels.test_fold)}"
            what = f"subject {label_and_subject[1]} is in no published fold (known: {known})"
            found.problem("subjects", name, what)
        else:
            label, subject = label_and_subject
            if (there := first.setdefault((stem, subject), path)) != path:
                found.problem("duplicates", name, f"the same clip as {tree.name(there)}; {_KEEP}")
            fold, source = labels.test_fold[subject], f"{labels.title} names"
            found.clips.append(Clip(path, label, fold, frames, source, str(subject)))
    found.notes += [f"left out: {what} ({number:,})" for what, number in sorted(skipped.items())]
    return found


def named(name: str, labels: Labels) -> tuple[int, int] | None:
    """Label and person from the path of a clip of CREMA-D, RAVDESS or eNTERFACE05."""
    if labels.name == "enterface":
        parts = name.lower().split("/")[:-1]
        people = [int(m[1]) for part in parts if (m := re.fullmatch(r"subject[ _-]*(\d+)", part))]
        classes = [n for part in parts if (n := label_number(part, labels.classes)) is not None]
        return (classes[0], people[0]) if len(people) == len(classes) == 1 else None
    codes = [f"{i:02}" for i in range(1, len(labels.classes) + 1)]
    if labels.name == "cremad":
        codes = [word[:3].upper() for word in labels.classes]
    match = re.search(_NAMED[labels.name][1], name)
    if match is None or match["code"] not in codes:
        return None
    return codes.index(match["code"]), int(match["who"])


def _path_label(name: str, labels: Labels) -> int | None:
    """The label in a clip's own path, in the data sets whose paths have one."""
    if labels.name == "ferv39k":
        return label_number(PurePosixPath(name).parent.name, labels.classes)
    label_and_subject = named(name, labels) if labels.test_fold else None
    return label_and_subject[0] if label_and_subject else None


# ---- Lists -------------------------------------------------------------------------------------


class Finder:
    """Find the clip that a list means: as written, below the root, or by its last parts.

    Lists contain paths of the machine they were made on. The longest tail of the path that exists
    below the root is used, if necessary without suffix or letter case; failing that, in published
    sets, the clip whose last part (FERV39k: three) is the same without leading zeros.
    """

    def __init__(self, tree: Tree, dataset: str, found: Reading) -> None:
        self._tree, self._is_own, self._found = tree, dataset == "csv", found
        self.parts = 3 if dataset == "ferv39k" else 1  # Action/Happy/0063
        self._spelled: list[dict[str, list[Path]]] = [defaultdict(list) for _ in _spellings("")]
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._cut: dict[str, str] = {}  # list -> what is cut off the front of its paths
        self.videos = self._wanted(WORDS["kinds"].get(dataset, ()))
        for path in self.videos:
            name = tree.name(path)
            for known, spelled in zip(self._spelled, _spellings(name), strict=True):
                known[spelled].append(path)
            self._by_name[self._tail(name)].append(path)

    def _wanted(self, known: Sequence[Sequence[str]]) -> Mapping[Path, object]:
        """The videos of the preferred kind; notes what else there is."""
        tree, others = self._tree, []
        kinds: dict[int, dict[Path, str]] = defaultdict(dict)
        for path in tree.videos:
            fits = (
                (rank, folder)
                for folder in reversed(path.relative_to(tree.root).parts[:-1])
                for rank, (pattern, _) in enumerate(known)
                if re.fullmatch(pattern, folder, re.I)
            )
            if fit := next(fits, None):
                kinds[fit[0]][path] = fit[1]
            else:
                others.append(path)
        if not kinds:
            return tree.videos
        taken, *rest = (
            f"{', '.join(sorted(set(kinds[rank].values())))} ({known[rank][1]})"
            for rank in sorted(kinds)
        )
        wanted = kinds[min(kinds)]
        same = {self._tail(tree.name(path)) for path in wanted}
        alike = [path for path in others if self._tail(tree.name(path)) in same]
        if "scenes" in taken and alike:
            raise ValueError(
                f"root={str(tree.root)!r} has clips twice: {taken}, and others, e.g. {alike[0]}, "
                "whose folder name does not say whether they are face crops; rename that folder "
                "(faces, if so), or point root at the clips and lists at the lists"
            )
        less = [f"{', '.join(rest)} exists as well, which suits training less"] * bool(rest)
        less += [f"not from e.g. {path.parent}" for path in alike[:1]]
        less = [*less, "point root at it to use it"] if less else []
        less = less or ["training expects crops of faces"] * ("scenes" in taken)
        if less:
            self._found.notes.append(f"clips are taken from {taken}; {'; '.join(less)}")
        return wanted

    def _tail(self, name: str) -> str:
        parts = PurePosixPath(_bare(name)).parts[-self.parts :]
        return "/".join(part.lstrip("0") or "0" if part.isdecimal() else part for part in parts)

    def knows(self, listed: str) -> bool:
        """Whether a clip has this name."""
        return bool(listed) and isinstance(self.find(listed), Path)

    def find(self, listed: str, of: str | None = None) -> Path | list[Path] | str:
        """The clip, the candidates, or the reason why there is none.

        of: the list, whose paths must start alike.
        """
        parts = PurePosixPath(listed.replace("\\", "/")).parts
        whole = Path(listed) if Path(listed).is_absolute() and Path(listed).exists() else None
        if whole and self._is_own:
            return whole
        for start in range(len(parts)):
            tail, front = "/".join(parts[start:]), "/".join(parts[:start])
            for known, spelled in zip(self._spelled, _spellings(tail), strict=True):
                if spelled not in known:
                    continue
                same = known[spelled]
                if self._is_own and of and self._cut.setdefault(of, front) != front:
                    return f"{listed!r} does not exist, though {tail!r} does"
                return same[0] if len(same) == 1 else same
        same = self._by_name.get(self._tail("/".join(parts)), [])
        if whole or not same or self._is_own or len(parts) < self.parts:
            but = f", though {self._tree.name(same[0])!r} does" if same else ""
            return whole or f"{listed!r} does not exist{but}"
        return same[0] if len(same) == 1 else same


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _bare(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in VIDEO_SUFFIXES else name


def _spellings(name: str) -> tuple[str, str, str, str]:
    """A path as it is, without suffix, without letter case, without both."""
    plain = _folded(name)
    return name, _bare(name), plain, _bare(plain)


def read_lists(tree: Tree, labels: Labels | None, files: Sequence[ListFile], base: Path) -> Reading:
    """Clips of train, val and test lists of all folds, or of your own table.

    A table's column of splits (train, val, test) or of folds is used; without one, fold 1 tests
    held-out people. Contradictions are problems.
    """
    found = Reading(labels.classes if labels else ())
    finder = Finder(tree, labels.name if labels else "csv", found)
    pairs: list[tuple[ListFile, ListRow, tuple[str, int]]] = []
    native = set()  # the authors' own lists
    for file in files:
        name = file.path.relative_to(base).as_posix()
        rows, roles = read_rows(file.path, found, name, finder.knows)
        given = [(file.part, file.fold)] * len(rows)
        if not file.part and "split" in roles:
            texts = [row.split for row in rows]
            given = _sides_given(texts, f"column {roles['split']}", name, found)
        elif not file.part:
            found.splits = True
            found.notes.append("no column fold: about a fifth of the people are tested, as fold 1")
        if "subject" in roles:
            found.people_told, found.people_by = True, f"column {roles['subject']} of {name}"
        native |= {row.where for row in rows if roles.get("path", "").lower() == "video_name"}
        pairs += [(file, row, side) for row, side in zip(rows, given, strict=True)]
    texts = {row.label for _, row, _ in pairs}
    if not found.classes:
        found.classes = class_names(texts, found)
    elif texts and not native and all(map(str.isdecimal, texts)) and min(map(int, texts)) == 1:
        found.notes.append(f"labels start at 1, which is {found.classes[1]}; 0 does not occur")
    numbers: dict[str, set[int]] = defaultdict(set)
    for file, row, _ in pairs:
        if re.fullmatch(r"\d{1,9}", row.label):
            numbers[file.path.name].add(int(row.label))
    spans = {(min(some), max(some)): name for name, some in numbers.items()}
    if len(spans) > len({b - a for a, b in spans}):
        ranges = ", ".join(f"{a} to {b} in {name}" for (a, b), name in spans.items())
        found.notes.append(f"suspicious: lists may count labels from different numbers ({ranges})")
    done: dict[tuple[str, ...], tuple[Path, int] | None] = {}
    first: dict[Path, tuple[int, ListRow]] = {}
    seen: dict[tuple[Path, ListFile], ListRow] = {}
    sides: list[tuple[Path, tuple[str, int]]] = []
    for file, row, side in pairs:
        if (key := (row.path, row.label, "" if labels else str(file.path))) not in done:
            start = labels.first_label if labels and row.where in native else 0
            done[key] = _meaning(row, finder, found, start)
        meant = done[key]
        if meant and (there := seen.setdefault((meant[0], file), row)) is not row:
            what = f"{row.path!r} stands in {there.where} already"
            what += f", as {there.label}" * (there.label != row.label)
            found.problem("duplicates", row.where, what)
        elif meant:
            path, label = meant
            other, there = first.setdefault(path, (label, row))
            if other != label or (row.subject and there.subject not in ("", row.subject)):
                here, others = (f"{one.label} {one.subject}".strip() for one in (row, there))
                what = f"{row.path!r} has label {here}, but {others} in {there.where}"
                found.problem("two labels", row.where, what)
            sides.append((path, side))
    folds = fold_clips(sides, found, {path: row.where for path, (_, row) in first.items()})
    for path in sorted(first, key=natural_key):
        label, row = first[path]
        fold, who = folds.get(path, 0), row.subject or None
        if labels and (said := _path_label(tree.name(path), labels)) not in (None, label):
            what = f"{tree.name(path)} is listed as {labels.classes[label]}, its path says "
            found.problem("label order", row.where, what + labels.classes[said])
        found.clips.append(Clip(path, label, fold, tree.videos.get(path), row.where, who))
    left = len(finder.videos) - len(first)
    found.notes += [f"{left:,} clips below root are in no list"] * (left > 0)
    return found


def _meaning(row: ListRow, finder: Finder, found: Reading, start: int) -> tuple[Path, int] | None:
    """Clip and label of a row, whose labels count from `start`; problems are noted."""
    path = finder.find(row.path, row.where.rpartition(" line ")[0])
    label = label_number(row.label, found.classes, start)
    if label is None:
        known = f"{start} to {start + len(found.classes) - 1} or {', '.join(found.classes)}"
        what = f"label {row.label!r} of {row.path!r} is out of range; known are {known}"
        if row.label == str(start + len(found.classes)):
            what += "; does the list count from 1? Take one off, as the official code does"
        found.problem("label range", row.where, what)
    if isinstance(path, str):
        found.problem("missing clips", row.where, path)
    elif isinstance(path, list):
        what = f"{row.path!r} may be {path[0]} or {path[1]}; point root at one folder, or "
        found.problem("two places", row.where, what + "write paths as they are spelled")
    return (path, label) if isinstance(path, Path) and label is not None else None


def class_names(labels: Iterable[str], found: Reading) -> tuple[str, ...]:
    """Classes of a list without a table, named as written: whole numbers by value."""
    texts = sorted({text for text in labels if text})
    whole = [text for text in texts if re.fullmatch(r"[+-]?\d+", text)]
    _check_classes(texts, "labels", found)
    number = re.compile(r"(?i)[+-]?\d*[.,]?\d+(?:e[+-]?\d+)?")
    if broken := [text for text in texts if number.fullmatch(text) and text not in whole]:
        what = f"label {broken[0]!r} has decimals or a power; a class is a name or a whole number"
        found.problem("label range", "labels", what)
    if not texts or len(whole) < len(texts):
        return tuple(sorted(texts, key=lambda text: natural_key(Path(text))))
    texts = sorted(texts, key=int)
    if list(map(int, texts)) != list(range(len(texts))):
        shown = ", ".join(f"{text} is output {i}" for i, text in enumerate(texts[:3]))
        start = "start at 1" if int(texts[0]) == 1 else f"are {texts[0]} to {texts[-1]}"
        found.notes.append(f"labels {start}; the numbers that occur are the classes ({shown}, ...)")
    return tuple(texts)
