"""Tables of clips from every layout and list: order, labels, folds, people, and bad rows."""

import csv
import json
import os
import re
import shutil
from itertools import chain, product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making_datasets import (
    MAKERS,
    edit_line,
    linked_copy,
    make_class_folders,
    make_dfew,
    make_official_lists,
    tiny_video,
    write_frames,
    write_lines,
)

from maedfer_lab import files
from maedfer_lab.data.labels import DATASETS, dataset_name, label_number, published_labels
from maedfer_lab.data.readers import content_digest
from maedfer_lab.data.table import (
    Annotations,
    Clip,
    explain_change,
    find_annotations,
    read_annotations,
    split_people,
)
from maedfer_lab.data.video import natural_key


@pytest.fixture
def dfew(sets, tmp_path) -> Path:
    """A copy that may be spoiled."""
    return linked_copy(sets["dfew"], tmp_path / "DFEW")


def kinds(dataset: str, root: Path, lists: Path | None = None) -> list[str]:
    return [problem.kind for problem in find_annotations(dataset, root, lists)[1]]


def essence(table: Annotations) -> list[tuple[str, int, int]]:
    return [(table.name(clip), clip.label, clip.fold) for clip in table.clips]


def videos(root: Path, *places: str) -> Path:
    """A small file of its own content at each place."""
    for i, place in enumerate(places):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(bytes([i % 256]) * (i + 1))
    return root


def places(*levels: str) -> list[str]:
    return ["/".join(parts) for parts in product(*(level.split() for level in levels))]


NATIVE = {  # clips in all; of some the class, fold and person
    "dfew": (35, {"Clip/clip_224x224/00001": ("happy", 1, None),
                  "Clip/clip_224x224/00035": ("fear", 5, None)}),
    "ferv39k": (28, {"2_ClipsforFaceCrop/War/Angry/0002": ("anger", 1, None),
                     "2_ClipsforFaceCrop/War/Angry/0001": ("anger", 0, None)}),
    "mafw": (55, {"data/frames/00055": ("disappointment", 5, None)}),
    "cremad": (30, {"VideoFlash/1091_IEO_NEU_XX.flv": ("neutral", 5, "1091")}),
    "ravdess": (48, {"Actor_24/02-01-02-01-01-01-24.mp4": ("calm", 6, "24")}),
    "enterface": (30, {"subject 20/surprise/sentence 1/s20_su_1.avi": ("surprise", 3, "20")}),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_each_native_layout_is_read_with_the_authors_labels_and_folds(name, sets):
    table, labels = read_annotations(name, sets[name]), published_labels(name)
    number, some = NATIVE[name]
    assert labels is not None and (len(table), table.classes) == (number, labels.classes)
    found = {table.name(c): (table.classes[c.label], c.fold, c.subject) for c in table.clips}
    assert found == found | some
    assert table.num_folds == labels.num_folds
    for fold in range(1, table.num_folds + 1):
        train, test = table.split(fold)
        assert len(train) + len(test) == len(table) and not set(train) & set(test)
        assert min(table.counts(test)) > 0 and min(table.counts(train)) > 0
    assert list(table.clips) == sorted(table.clips, key=lambda c: natural_key(c.path))
    assert len(table.open(table.clips[0])) == (table.clips[0].frames or 20)
    assert f"{len(table)} clips of {len(table.classes)} classes" in str(table)


def test_published_tables_are_in_the_official_order():
    dfew, mafw = published_labels("DFEW"), published_labels("mafw")
    assert dfew and mafw and published_labels("folder") is None
    assert dfew.classes == ("happy", "sad", "neutral", "anger", "surprise", "disgust", "fear")
    assert dfew.clips_per_class == (2445, 1894, 2669, 2173, 1469, 145, 902)
    assert mafw.classes[7:] == ("contempt", "anxiety", "helplessness", "disappointment")
    numbers = {"Angry": 3, "anger": 3, "6": 6, "7": None, "glad": None}
    assert {text: label_number(text, dfew.classes) for text in numbers} == numbers
    assert label_number("7", dfew.classes, dfew.first_label) == 6
    spelled = ("DFEW", "FERV39k", "CREMA-D", "eNTERFACE05", "VoxCeleb2", "csv")
    assert " ".join(map(dataset_name, spelled)) == "dfew ferv39k cremad enterface voxceleb2 csv"
    with pytest.raises(ValueError, match=f"dataset='AFEW' is not known; known are {DATASETS[0]}"):
        dataset_name("AFEW")


def test_official_lists_of_another_machine_mean_the_same_clips(sets, tmp_path):
    native = read_annotations("dfew", sets["dfew"])
    lists = make_official_lists(tmp_path / "lists")
    assert essence(read_annotations("dfew", sets["dfew"], lists)) == essence(native)
    inside = read_annotations("dfew", sets["dfew"] / "Clip" / "clip_224x224", lists)
    assert [e[1:] for e in essence(inside)] == [e[1:] for e in essence(native)]
    one = read_annotations("dfew", sets["dfew"], lists / "split01")
    assert one.num_folds == 1 and len(one.split(1)[1]) == 7
    for fold in range(1, 6):  # the shipped lists name the test side val in places
        (lists / f"split{fold:02d}" / "test.csv").rename(lists / f"split{fold:02d}" / "val.csv")
    assert essence(read_annotations("dfew", sets["dfew"], lists)) == essence(native)


@pytest.mark.parametrize(("end", "encoding"), [("\r\n", "utf-8-sig"), ("\r", "utf-16")])
def test_marks_of_other_systems_change_nothing(end, encoding, dfew):
    before = read_annotations("dfew", dfew)
    for path in dfew.rglob("set_*.csv"):
        head, *lines = path.read_text().splitlines()
        write_lines(path, [head.title().replace(",", ", "), *lines, "", "  "], end, encoding)
    assert read_annotations("dfew", dfew).clips == before.clips


def test_paths_with_spaces_quotes_and_backslashes_are_understood(tmp_path):
    for i, name in enumerate(("anna maria/take 2", "bea lou/take 10", "ü b,c/one")):
        write_frames(tmp_path / "clips" / name, i, num=2)
    lists = tmp_path / "lists"
    write_lines(lists / "train.csv", ['"anna maria/take 2" 0', "ü b,c/one 1"])
    write_lines(lists / "test.csv", [r"C:\somebody\clips\bea lou\take 10 1"])
    table = read_annotations("csv", tmp_path / "clips", lists)
    assert essence(table) == [
        ("anna maria/take 2", 0, 0),
        ("bea lou/take 10", 1, 1),
        ("ü b,c/one", 1, 0),
    ]
    assert table.classes == ("0", "1")


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("99999,1", "missing clips", r"set_1.csv line 3: '99999' does not exist"),
        ("8,9", "label range", r"line 3: label '9' of '8' is out of range; known are 1 to 7 or"),
        ("8,-1", "label range", "label '-1'"),
        ("8,1.0", "label range", "label '1.0'"),
        ("8,", "label range", "label ''"),
        ("8", "format", r"line 3: 1 values, but the header names 2 columns"),
        ("10,3", "duplicates", r"line 4: '10' stands in .*set_1.csv line 3 already"),
        ("9,4", "two labels", r"label 4, but 2 in .*line \d+|label 2, but 4 in"),
        ("1,1", "train and test", "00001 is in the train and the test list of fold 1"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(line, kind, message, dfew):
    edit_line(dfew / "EmoLabel_DataSplit" / "train(single-labeled)" / "set_1.csv", 3, line)
    _, problems = find_annotations("dfew", dfew)
    printed = "\n".join(str(problem) for problem in problems if problem.kind == kind)
    assert re.search(message, printed), problems
    with pytest.raises(ValueError, match="the annotations of dfew have"):
        read_annotations("dfew", dfew)


def test_lists_that_contradict_each_other_are_told(dfew):
    folder = dfew / "EmoLabel_DataSplit" / "test(single-labeled)"
    shutil.copy(folder / "set_1.csv", folder / "set_2.csv")
    assert {"tested twice", "folds disagree"} <= set(kinds("dfew", dfew))
    (folder / "set_3.csv").write_bytes(b"video_name,label\n1,2\n\xe9\xe8,3\n")
    assert "encoding" in kinds("dfew", dfew)
    (folder / "set_3.csv").write_bytes(b"")
    assert "format" in kinds("dfew", dfew)
    (dfew / "other").mkdir()
    shutil.copy(folder / "set_1.csv", dfew / "other" / "single test set_1.csv")
    with pytest.raises(ValueError, match="two test lists of fold 1"):
        read_annotations("dfew", dfew)


def test_lists_of_another_task_are_refused(sets):
    lists = sets["mafw"] / "Train & Test Set"
    assert len(read_annotations("mafw", sets["mafw"], lists)) == NATIVE["mafw"][0]
    with pytest.raises(ValueError, match=r"compound or captioned lists; .*single/no_caption"):
        read_annotations("mafw", sets["mafw"], lists / "compound")


def test_a_clip_in_two_places_is_not_guessed(dfew):
    clips = dfew / "Clip" / "clip_224x224"
    for name in ("00001", "00002"):
        shutil.copytree(clips / name, clips / "part_2" / name)
    _, problems = find_annotations("dfew", dfew)
    places = sorted(p.what for p in problems if p.kind == "two places")
    assert len(places) == 2 and f"may be {clips}/00001 or {clips}/part_2/00001" in places[0]


@pytest.mark.parametrize(
    ("dataset", "files", "expected"),
    [
        ("ravdess", ["Actor_05/01-01-08-02-01-01-05.mp4", "Actor_05/01-02-06-02-01-01-05.mp4"],
         ("surprised", 2, "5", "left out: songs (1)")),
        ("enterface", ["subject_11/Sadness/sentence_2/s12_an_2.avi", "subject 6/anger/anger.avi"],
         ("sadness", 2, "11", "left out: subject 6, who is in no official list (1)")),
        ("voxceleb2", ["dev/mp4/id00012/xyz/00001.mp4"], ("unlabelled", 0, "id00012", "")),
    ],
)  # fmt: skip
def test_a_recording_with_sound_stands_in_folders_count_and_the_rest_is_told(
    dataset, files, expected, tmp_path
):
    table, problems = find_annotations(dataset, videos(tmp_path, *files))
    (clip,) = table.clips
    label = table.classes[clip.label]
    assert not problems and (label, clip.fold, clip.subject, "".join(table.notes[:-1])) == expected
    if dataset == "voxceleb2":
        with pytest.raises(ValueError, match="tests no clip"):
            table.split(1)


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("cremad", "VideoFlash/1001_IEO_JOY_XX.flv", "file names"),
        ("cremad", "VideoFlash/2001_IEO_SAD_XX.flv", "subjects"),
        ("cremad", "zwei/1001_IEO_ANG_XX.mp4", "duplicates"),
        ("ravdess", "Actor_01/02-01-09-01-01-01-01.mp4", "file names"),
        ("ravdess", "Actor_25/02-01-01-01-01-01-25.mp4", "subjects"),
        ("enterface", "subject 1/boredom/sentence 1/s1_bo_1.avi", "file names"),
        ("enterface", "subject 45/anger/sentence 1/s45_an_1.avi", "subjects"),
    ],
)
def test_names_that_tell_nothing_are_told(name, file, kind, sets, tmp_path):
    root = linked_copy(sets[name], tmp_path / "copy")
    tiny_video(root / file, 77)
    table, problems = find_annotations(name, root)
    assert [(p.kind, p.where) for p in problems] == [(kind, file)]
    assert len(table) == NATIVE[name][0] + (kind == "duplicates")


def test_a_folder_per_class_holds_people_out_so_that_each_class_is_tested(tmp_path):
    make_class_folders(tmp_path, ("sad", "happy", "angry"), num=3)
    table = read_annotations("folder", tmp_path)
    assert table.classes == ("angry", "happy", "sad") and table.num_folds == 1
    assert table.counts(table.split(1)[1]) == (1, 1, 1)
    names = [table.name(clip) for clip in table.clips]
    assert names[0] == "angry/take 8.mp4"
    for shared, tested in (("8", (1, 1, 1)), ("angry", (0, 1, 1))):  # of one person
        rows = [f"{name},{'ann' if shared in name else name}" for name in names]
        write_lines(tmp_path / "MANIFEST.csv", ["file,identity", *rows])
        table = read_annotations("folder", tmp_path)
        found = table.counts(table.split(1)[1])
        assert [n > 0 for n in found] == [n > 0 for n in tested]
        assert min(table.counts(table.split(1)[0])) > 0
        assert len({clip.fold for clip in table.clips if clip.subject == "ann"}) == 1


def test_a_csv_of_ones_own(tmp_path):
    for name in ("a", "b", "c"):
        write_frames(tmp_path / name, ord(name), num=3)
    rows = ["path;label;fold;subject", "a;sad;1;x", "b;glad;2;y", "c;glad;0;"]
    write_lines(tmp_path / "mine.csv", rows, end="\r\n", encoding="utf-8-sig")
    table = read_annotations("csv", tmp_path / "mine.csv")
    assert table.classes == ("glad", "sad") and table.num_folds == 2
    assert table.clips[0] == Clip(tmp_path / "a", 1, 1, 3, "mine.csv line 2", "x")
    write_lines(tmp_path / "annotations.csv", ["file,class", "a,0", "b,2", "c,2"])
    table = read_annotations("csv", tmp_path)
    assert table.classes == ("0", "2") and table.num_folds == 1
    assert "no column fold" in " ".join(table.notes)
    write_lines(tmp_path / "mine.csv", ["path,label,fold", "a,0,first", "a,0,1", "a,0,1"])
    assert kinds("csv", tmp_path / "mine.csv") == ["format", "duplicates", "duplicates"]


def test_the_root_may_come_from_the_environment(sets, tmp_path, monkeypatch):
    monkeypatch.setenv("MAEDFER_DATA", str(sets["cremad"]))
    with pytest.raises(ValueError, match="fold=6 is not in this table, which has folds 1 to 5"):
        read_annotations("cremad").split(6)
    monkeypatch.delenv("MAEDFER_DATA")
    for asked, kind, message in (
        (("cremad",), ValueError, "root is not given and MAEDFER_DATA is not set"),
        (("cremad", tmp_path / "absent"), NotADirectoryError, "is not a folder"),
        (("cremad", tmp_path), FileNotFoundError, "no video under root"),
        (("dfew", sets["dfew"], tmp_path / "absent"), FileNotFoundError, "does not exist"),
        (("dfew", sets["dfew"] / "Clip"), FileNotFoundError, "no annotation lists of dfew"),
    ):
        with pytest.raises(kind, match=message):
            read_annotations(*asked)


@pytest.mark.parametrize(
    ("levels", "layout", "classes", "people"),
    [
        (("happy sad", "1.mp4 2.mp4"), None, "happy sad", 0),
        (("happy sad", "anna bert cleo", "1.mp4 2.mp4"), None, "happy sad", 3),
        (("Actor_01 Actor_02", "happy sad", "1.mp4 2.mp4"), None, "happy sad", 2),
        (("p1 p2 p3", "calm loud", "1.mp4 2.mp4"), None, "calm loud", 3),
        (("calm loud", "session1 session2", "1.mp4 2.mp4"), None, "calm loud", 0),
        (("set", "happy sad", "id00012 id00013", "a b", "1.mp4"), None, "happy sad", 2),
        (("calm loud", "anna bert", "1.mp4 2.mp4"), "class/person/clip", "calm loud", 2),
        (("calm loud", "anna bert", "1.mp4 2.mp4"), "person/class/clip", "anna bert", 2),
        (("happy sad", "P01_1.mp4 P01_2.mp4 P2_1.mp4"), None, "happy sad", 2),
        (("a b", "1 2 3", "calm loud", "1.mp4"), "person/person/class/clip", "calm loud", 6),
        (("happy sad", "low high", "1.mp4 2.mp4"), None, "happy sad", 0),
        (("male female", "happy sad", "1.mp4 2.mp4"), None, "happy sad", 0),
        (("video_a video_b", "happy sad", "1.mp4 2.mp4"), None, "happy sad", 0),
        (("happy sad", "clip01 clip02", "face.mp4"), None, "happy sad", 0),
        (("pilot main", "happy sad", "p1_1.mp4 p2_1.mp4"), "person/class/clip", "happy sad", 2),
        (("ann_test ann_train bob", "happy sad", "1.mp4"), "person/class/clip", "happy sad", 2),
        (("v1 v2", "happy sad", "ann bob", "1.mp4"), None, "happy sad", 2),
        (("happy/happy sad/sad", "ann bob cy", "1.mp4"), None, "happy sad", 3),
        (("sad/sad_ann happy/ann-happy happy/bob sad/bob", "1.mp4"), None, "happy sad", 2),
        (("happy sad", "006_1_2.mp4 006_1_3.mp4 007_2_1.mp4"), None, "happy sad", 2),
        (("happy sad", "S01 S02", "s7_1.mp4 s7_2.mp4"), None, "happy sad", 2),
        (("carl joy", "happy sad", "1.mp4 2.mp4"), None, "happy sad", 0),
        (("happy sad", "Val_Kilmer Dev_Patel Joy_Bryant", "1.mp4 2.mp4"), None, "happy sad", 3),
        (("happy sad", "anna bert cleo", "001 002", "video.mp4"), None, "happy sad", 3),
        (("anna bert cleo", "20240105 20240206", "happy sad", "1.mp4"), None, "happy sad", 3),
        (("2019 2020", "happy sad", "anna bert cleo", "1.mp4"), None, "happy sad", 3),
        (("train_english test_english", "happy sad", "1.mp4 2.mp4"), None, "happy sad", 0),
        (("trainA trainB testA", "happy sad", "1.mp4"), None, "happy sad", 0),
        (("happy sad", "AF01HAS.mp4 BF01HAS.mp4 AM02HAS.mp4"), None, "happy sad", 2),
        (("happy sad", "1001_dfa_ang_xx.mp4 1002_dfa_ang_xx_224.mp4"), None, "happy sad", 2),
        (
            ("happy sad", "x_01_01_05_01_01_01_01.mp4 01_01_05_01_01_01_02.mp4"),
            None,
            "happy sad",
            2,
        ),
        (("Wut Trauer", "Proband1_1.mp4 Proband1_2.mp4 Proband2_1.mp4"), None, "Trauer Wut", 2),
        (("Anne Bruno Claire", "colère joie peur", "1.mp4"), None, "colère joie peur", 3),
        (("p01 p02 p03", "slow loud", "take1 take2", "1.mp4"), None, "loud slow", 3),
    ],
)
def test_levels_of_folders_are_told_apart(levels, layout, classes, people, tmp_path):
    videos(tmp_path, *places(*levels), "runs/happy/x.mp4", "__MACOSX/happy/._1.mp4", ".h/a/1.mp4",
           "thumbs/1.jpg")  # fmt: skip
    table = read_annotations("folder", tmp_path, layout=layout)
    assert table.classes == tuple(classes.split())
    assert len({clip.subject for clip in table.clips} - {None}) == people
    assert not table.on_both_sides() and 0 < len(table.split(1)[1]) < len(table)
    if layout:
        assert read_annotations(f"folder:{layout}", tmp_path).clips == table.clips


@pytest.mark.parametrize(
    ("levels", "layout", "words"),
    [
        (("slow loud", "anna bert", "1.mp4 2.mp4"), None,
         r"--layout class/person/clip \(2 classes: loud, slow...; 2 people\) or --layout "
         r"person/class/clip \(2 classes: anna"),
        (("slow loud", "1.mp4"), "class/who/clip", "layout='class/who/clip' must name the levels"),
        (("Actor_01 Actor_02", "1.mp4 2.mp4"), None, "are people and no classes"),
        (("train test extra", "happy sad", "1.mp4"), None, "splits, but extra is not"),
        (("train tets", "happy sad", "1.mp4"), None, "train are splits, but tets is not"),
        (("train tets", "happy sad", "1.mp4"), "split/class/clip", "holds 'tets': use"),
        (("happy", "1.mp4"), None, "no two classes"),
        (("P001 P002", "happy sad", "1.jpg"), None, "class folders contain images .happy, sad."),
        (("faces_224 videos", "happy sad", "1.mp4"), None, "videos/sad/1.mp4: the same clip as fa"),
        (("happy sad", "face original", "1.mp4"), None, "sad/original/1.mp4: the same clip as sad"),
        (("happy sad", "1.mp4 1.avi"), None, "sad/1.mp4: the same clip as sad/1.avi"),
        (("pilot main", "happy sad", "p1_1.mp4 p2_1.mp4"), None, r"person/class/clip\) or in"),
        (("happy sad", "ann_test bob_test cy_train", "1.mp4"), None, "may be splits or people"),
        (("F001 F002", "T1.mp4 T2.mp4"), None, "are people and no classes"),
        (("0 1 2", "ann bob cy", "1.mp4"), None, "two readings are possible"),
        (("happy happy_flip", "1.mp4 2.mp4"), None, "'happy_flip' are spellings of one class"),
        (("480p 1080p", "happy sad", "1.mp4"), None, "the same clip as"),
        (("happy sad todo/happy", "1.mp4 2.mp4"), None, "happy: a class, and a folder in 'todo"),
        (("happy sad", "ann bob ann&bob", "1.mp4"), None, "'ann&bob' is several people"),
        (("happy sad", "P01_P02_1.mp4 P02_P03_1.mp4"), None, "'P01_P02' is several people"),
        (("happy sad", "Actor_1_Actor_2.mp4 Actor_2.mp4"), None, "'Actor_1_Actor_2' is several"),
        (("happy sad", "ann bob cy", "1 2", "l.mp4 r.mp4"), None,
         r"class/person/\*/clip \(3 people: ann.*--layout class/\*/person/clip \(2 people: 1"),
        (("english german", "happy sad", "ann bob cy", "1.mp4"), None, "several readings are"),
        (("ann bob cy", "S1 S2", "happy sad", "1.mp4"), None, r"person/\*/class/clip \(3 people: "
         r"ann,.*\*/person/class/clip \(2 people: S1,.*person/person/class/clip \(6 people: ann/S"),
        (("train_ann test_bob", "happy sad", "1.mp4"), None, "may be splits or people"),
        (("HS VIS", "s01 s02 s03", "slow loud", "1.mp4"), None,
         r"class/person/clip \(2 classes: HS.*\*/person/class/clip \(2 classes: loud"),
        (("x/happy/P01_1.mp4 x/sad/P02_1.mp4 y/happy/P03_1.mp4 y/sad/P03_2.mp4",), None,
         r"person/class/clip\) or in names"),
        (("0 1 happy", "1.mp4"), None, "labels are names and numbers"),
        (("ann bob", "low high", "1.mp4"), None, r"person/class/clip \(2 classes: high"),
        (("lab wild", "Actor_1 Actor_2", "01 02", "1.mp4"), None, r"\*/person/class/clip \(2 cla"),
        (("P1/lie P1/true P2/lie P2/true P2", "1.mp4"), None, "P2/1.mp4: is in no class folder"),
        (("happy sad", "ann bob", "x y", "1.mp4 ../2.mp4"), None, "several readings are possible"),
    ],
)  # fmt: skip
def test_folders_of_which_nothing_is_plain_are_refused(levels, layout, words, tmp_path):
    videos(tmp_path, *places(*levels))
    with pytest.raises(ValueError, match=words):
        read_annotations("folder", tmp_path, layout=layout)


@pytest.mark.parametrize(
    ("sides", "tested", "note"),
    [
        ("train test", "test", "the given split is used"),
        ("Training val TESTING", "TESTING", "val is trained on"),
        ("train dev", "dev", "val is the test"),
        ("train validate", "validate", "val is the test"),
        ("train", "train", "everything is given as train, nothing as val or test"),
        ("fold1 fold_2 Fold3", "fold1 fold_2 Fold3", "is tested in turn"),
        ("fold0 fold1", "fold0 fold1", "folds count from 0 here"),
        ("cv_1 cv_2", "cv_1 cv_2", "is tested in turn"),
        ("01_train 02_val 03_test", "03_test", "the given split is used"),
        ("Trainingsdaten Testdaten", "Testdaten", "the given split is used"),
        ("训练集 测试集", "测试集", "the given split is used"),
        ("Train_AFEW_all Val_AFEW_all", "Val_AFEW_all", "val is the test"),
    ],
)
def test_given_splits_are_used(sides, tested, note, tmp_path):
    videos(tmp_path, *[f"{s}/{c}/{s}{i}.mp4" for s in sides.split() for c in ("happy", "sad")
                       for i in range(2)])  # fmt: skip
    table = read_annotations("folder", tmp_path)
    assert table.classes == ("happy", "sad") and note in " ".join(table.notes)
    found = {table.name(clip).split("/")[0]: clip.fold for clip in table.clips if clip.fold}
    assert found == {side: 1 + i for i, side in enumerate(tested.split())}


def test_scenes_are_not_taken_beside_clips_that_may_be_faces(tmp_path):
    make_dfew(tmp_path, "original", 2)
    make_dfew(tmp_path, "jpgs", 2)
    with pytest.raises(ValueError, match=r"original \(whole scenes\).*jpgs"):
        read_annotations("dfew", tmp_path)


def test_a_person_or_a_file_on_both_sides_is_an_error(tmp_path):
    videos(tmp_path, "train/happy/Actor 1/1.mp4", "train/sad/Actor 2/2.mp4",
           "test/happy/actor_01/3.mp4", "test/sad/Actor 4/4.mp4")  # fmt: skip
    table, problems = find_annotations("folder", tmp_path)
    assert [p.kind for p in problems] == ["subject overlap"]
    assert "Actor_01" in str(problems).title() and "spelled in two ways" in " ".join(table.notes)
    with pytest.raises(ValueError, match="on both sides of a fold"):
        table.split(1)
    shutil.rmtree(tmp_path / "test/happy")
    videos(tmp_path, "test/happy/Actor 5/five.mp4")
    shutil.copy(tmp_path / "train/sad/Actor 2/2.mp4", tmp_path / "test/happy/Actor 5/five.mp4")
    assert kinds("folder", tmp_path) == ["identical clips"]
    with pytest.raises(ValueError, match=r"two labels and on both sides: .*five.mp4"):
        read_annotations("folder", tmp_path)


@pytest.mark.parametrize(
    ("lines", "end", "encoding"),
    [
        (["Video Path;Emotion;Speaker;Set;age", "a b/1 x.mp4;sad;x;Train;7",
          "a b/2.mp4;happy;y;test;8", "c/3.mp4;happy;x;train;9"], "\r\n", "utf-8-sig"),
        (["filename\texpression\tactor_id\tpartition\tage", "a b/1 x.mp4\tsad\tx\ttraining\t7",
          "a b/2.mp4\thappy\ty\ttesting\t8", "c/3.mp4\thappy\tx\ttraining\t9"], "\r", "utf-16"),
        (["age,file_name,class,person,usage", "7,a b/1 x.mp4,sad,x,train", "8,a b\\2.mp4,happy,y,"
          "eval", "9,C/3.MP4,happy,x,train"], "\n", "utf-16-le"),
        (["path age class who set", "a b/1 x.mp4 7 sad x train", "  ", "a b/2.mp4 8 happy y test",
          "c/3.mp4 9 happy x train"], "\n", "utf-8"),
        (["Datei;Klasse;Versuchsperson;Menge;age", "a b/1 x.mp4;sad;x;Trainingsmenge;7",
          "a b/2.mp4;happy;y;Testmenge;8", "c/3.mp4;happy;x;Training;9"], "\n", "utf-8"),
        (["文件名,标签,被试,集合,age", "a b/1 x.mp4,sad,x,训练,7", "a b/2.mp4,happy,y,测试集,8",
          "c/3.mp4,happy,x,训练集,9"], "\n", "utf-8"),
        (["path,label,subject,fold,age", "a b/1 x.mp4,sad,x,0,7", "a b/2.mp4,happy,y,fold_1,8",
          "c/3.mp4,happy,x,0,9"], "\n", "utf-8"),
    ],
)  # fmt: skip
def test_tables_of_others_are_understood(lines, end, encoding, tmp_path):
    videos(tmp_path, "a b/1 x.mp4", "a b/2.mp4", "c/3.mp4")
    table = read_annotations("csv", write_lines(tmp_path / "mine.csv", lines, end, encoding))
    assert table.classes == ("happy", "sad") and "not used: age" in " ".join(table.notes)
    found = [(c.label, c.fold, c.subject) for c in table.clips]
    assert found == [(1, 0, "x"), (0, 1, "y"), (0, 0, "x")]


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (["utterance,valence", "a.mp4,1"], "format", "'utterance,valence' names no column of"),
        (["path,label", "a.mp4,happy", "b.mp4,Happy"], "spelling", "spellings of one class"),
        (["path,label", "a.mp4,happy", "b.mp4,h\u0430ppy"], "spelling", "spellings of one class"),
        (["path,label", "a.mp4,0.5", "b.mp4,1.5"], "label range", "has decimals"),
        (["path,label,split", "a.mp4,0,train", "b.mp4,1,left"], "format", "holds 'left'"),
        (["path,label,who,fold", "a.mp4,0,x,1", "b.mp4,1,X,2"], "subject overlap", "'x' is on"),
        (["path,label", "x/a.mp4,0", "b.mp4,1"], "missing clips", "though 'b.mp4' does"),
        (["path,label,label", "a.mp4,0,1", "b.mp4,1,0"], "format", "names 'label' twice"),
        (["path,label", "a.mp4,happy", "b.mp4,1"], "spelling", "labels are names and numbers"),
        (["path,label", "a.mp4,happy", "b.mp4,NaN"], "label range", "label '' of 'b.mp4'"),
        (["path,label,who,fold", "a.mp4,0,1,1", "b.mp4,1,1.0,2"], "subject overlap", "'1' is on"),
        (["path,label,note", 'a.mp4,0,"', "b.mp4,1,"], "format", "quotation mark in or above"),
        (["path,label"], "format", "no row follows"),
        (['[{"path": "a.mp4", "label": 0},', '{"path": "b.mp4"}]'], "format", "is JSON"),
        (["path,label,who", "a.mp4,0,Ann", "b.mp4,1,bob & ann"], "people", "line 3: 'bob & ann'"),
        (["path;label;who", "a.mp4;0;x|y", "b.mp4;1;y|z"], "people", "of whom 'y' is seen"),
        (["path,label,who", "a.mp4,0,P1_P2", "b.mp4,1,P1_P3"], "people", "of whom 'P1' is seen"),
        (["path,label,who", "a.mp4,0,s2", "b.mp4,1,s1xs2"], "people", "of whom 's2' is seen"),
        (["path;label", "a.mp4;sad", "b.mp4;Sad, afraid"], "two labels", "names several"),
        (["path;label", "a.mp4;sad:.9|glad:.1", "b.mp4;sad:.4|glad:.6"], "two labels", "'sad'"),
        (["path,label,who", "a.mp4,0,ann", 'b.mp4,1,"bob', 'ann"'], "people", "'ann' is"),
        (["path,label", "a.mp4,1e0", "b.mp4,2e0"], "label range", "has decimals or a power"),
        (["path,label", "a.mp4,happy", "b.mp4,happy (2)"], "spelling", "spellings of one class"),
        (["path,label,emotion,z", "a.mp4,0,x,1", "b.mp4,1,x,2"], "format", "may both be the label"),
        (["path,label,actor,speaker", "a.mp4,0,x,u", "b.mp4,1,x,v"], "format", "be the subject"),
        (["path,label,split,fold", "a.mp4,0,train,1", "b.mp4,1,test,1"], "format", "be the split"),
        (["path,label,fold", "a.mp4,0,1", "a_flip.mp4,0,2"], "subject overlap", "a_flip.mp4"),
        (["path,label", "a,0", "x/b,1"], "missing clips", "'x/b' does not exist, though 'b'"),
        (['# maedfer annotations {"classes": ["sad", "happy"]}', "path,label", "a.mp4,0",
          "b.mp4,1"], "format", "older version"),
    ],
)  # fmt: skip
def test_tables_that_mislead_are_refused(lines, kind, words, tmp_path):
    videos(tmp_path, "a.mp4", "b.mp4", "a_flip.mp4")
    _, problems = find_annotations("csv", write_lines(tmp_path / "mine.csv", lines))
    assert words in "\n".join(str(p) for p in problems if p.kind == kind), problems


@pytest.mark.parametrize(
    ("labels", "classes", "note"),
    [("1 2 3", "1 2 3", "labels start at 1"), ("-1 10 9", "-1 9 10", "labels are -1 to 10")],
)
def test_any_whole_number_is_a_label(labels, classes, note, tmp_path):
    videos(tmp_path, *(f"{i}.mp4" for i in range(3)))
    rows = [f"{i}.mp4 {label}" for i, label in enumerate(labels.split())]
    write_lines(tmp_path / "train.txt", rows)
    table, _ = find_annotations("csv", tmp_path)
    assert table.classes == tuple(classes.split()) and note in " ".join(table.notes)
    assert [table.classes[clip.label] for clip in table.clips] == labels.split()


@pytest.mark.parametrize(
    ("name", "taken", "left", "clip"),
    [
        ("dfew", "jpg_224", "original", "{:05}"),
        ("dfew", "Clip/clip_224x224", "Clip/clip_224x224_16f", "{:05}"),
        ("dfew", "Clip/jpg_224", "Clip/original", "{:05}"),
        ("dfew", "Clip/clip_224x224_avi", "Clip/original", "{:05}.avi"),
        ("dfew", "Clip/original", "elsewhere", "{}.mp4"),
        ("dfew", "dfew_faces", "dfew_frames", "{:05}"),
        ("mafw", "clips_faces", "clips", "{:05}"),
        ("mafw", "data/faces", "data/clips", "{:05}"),
        ("mafw", "frames_crop_align_224", "frames", "{:05}"),
        ("mafw", "frames/frames_crop_align_224", "clips", "{:05}"),
    ],
)
def test_faces_are_taken_before_scenes(name, taken, left, clip, tmp_path):
    numbers = range(1, 5)
    for folder, form in ((left, "{}.mp4" if name == "dfew" else "{:05}.mp4"), (taken, clip)):
        files = [f"{folder}/{form.format(i)}" for i in numbers if folder != "elsewhere"]
        videos(tmp_path, *(f if "." in f.split("/")[-1] else f"{f}/1.jpg" for f in files))
    for part, of in (("train", (1, 2)), ("test", (3, 4))):
        rows = ["video_name,label", *(f"{i},{i}" for i in of)]
        official = [f"{i:05}.mp4 {('anger', 'fear')[i % 2]}" for i in of]
        write_lines(tmp_path / f"single no_caption {part} set_1.csv",
                    rows if name == "dfew" else official)  # fmt: skip
    table, problems = find_annotations(name, tmp_path)
    assert not problems and len(table) == 4
    assert {str(c.path.parent.relative_to(tmp_path)) for c in table.clips} == {taken}
    assert left == "elsewhere" or f"clips are taken from {Path(taken).name}" in table.notes[0]


def test_a_split_of_people_does_not_hang_on_the_order_of_clips():
    people = [f"p{i % 7}" for i in range(40)]
    labels = [("a", "b", "c")[i % 7 % 3] for i in range(40)]
    kept, held = split_people(people, 0.2, 0, labels)
    again = split_people(people[::-1], 0.2, 0, labels[::-1])[1]
    assert {people[i] for i in held} == {people[::-1][i] for i in again}
    assert {labels[i] for i in held} == {labels[i] for i in kept} == {"a", "b", "c"}
    with pytest.warns(UserWarning, match="no clip of class rare is held out"):
        split_people([*people, "one"], 0.2, 0, [*labels, "rare"])
    with pytest.raises(ValueError, match=r"share=1\.0 must lie between 0 and 1"):
        split_people(people, 1.0, 0)
    with pytest.raises(ValueError, match="belong to 1 person"):
        split_people(["a", "a"], 0.2, 0)


@pytest.mark.parametrize(
    "copy",
    ["{}/{}_flip", "{}/{}_aug2", "{}/{} (1)", "{}/{} - Copy", "{}/{}_rot-15", "{}/flip_{}",
     "{}/Copy of {}", "{}/{}.hflip_2", "{}/{} (edited)", "{}/{}_flip_h", "{}/{}_0.9x",
     "{}/{}_HorizontalFlip", "{}/{}_bright1.2", "{}/aug/{}_aug1", "flipped/{}/{}"],
)  # fmt: skip
def test_altered_copies_stay_with_their_original(copy, tmp_path):
    """Nothing tells the people: a clip and its mirrored copy were put on two sides."""
    top = "original/" * copy.startswith("flipped")
    names = [(f"{top}{c}/{k}.mp4", f"{copy.format(c, k)}.mp4") for c in ("happy", "sad")
             for k in "abcdef"]  # fmt: skip
    table = read_annotations("folder", videos(tmp_path, *chain(*names)))
    folds = {table.name(clip): clip.fold for clip in table.clips if clip.subject}
    assert len(folds) == 24 and all(folds[old] == folds[new] for old, new in names)
    assert "12 clips are altered copies" in " ".join(table.notes)
    assert "in 24 of 24 clips" in table.doubts[0]


def test_numbered_files_and_the_sides_of_a_split_are_no_copies(tmp_path):
    videos(tmp_path / "a", *(f"{c}/{c} ({i}).mp4" for c in ("happy", "sad") for i in range(4)))
    assert len(set(read_annotations("folder", tmp_path / "a").people())) == 8
    names = [f"{s}/{c}/{s[1]}{i}{x}.mp4" for s in ("train", "test") for c in ("happy", "sad")
             for i in "12" for x in ("", "_flip")]  # fmt: skip
    assert len(set(read_annotations("folder", videos(tmp_path / "b", *names)).people())) == 8
    (tmp_path / "b/test/sad/e1_flip.mp4").rename(tmp_path / "b/train/sad/e1_flip.mp4")
    assert kinds("folder", tmp_path / "b") == ["subject overlap"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("S07", "7"), ("Subj 3", "subject_03"), ("Zoë", "ZOE"), ("ann", "ann (2)"),
     ("ann_day1", "ann-day2"), ("\uff11", "1"), ("1E+02", "100"), ("ann", "ann​"),
     ("ann_train", "ann_test"), ("ann", "ann - Copy"), ("sub-1_ses-1", "sub-1_ses-2"),
     ("ann_2024-01-05", "ann 20240206"), ("ann_pre", "ann_post"), ("1,001", "1001"),
     ("ann baseline", "ann follow-up"), ("P01_T0", "P01_T1"),
     ("ANNA", "\u0410NN\u0410")],
)  # fmt: skip
def test_one_person_in_two_spellings_is_one(one, other, tmp_path):
    videos(tmp_path, *(f"{i}.mp4" for i in range(4)))
    rows = [
        f"{i}.mp4	{i % 2}	{who}	{1 + i // 2}" for i, who in enumerate([one, 8, other, 9])
    ]
    write_lines(tmp_path / "mine.csv", ["path	label	who	fold", *rows])
    table, problems = find_annotations("csv", tmp_path / "mine.csv")
    assert [p.kind for p in problems if "8" not in p.what] == ["subject overlap"]
    assert one == other or "spelled in two ways" in " ".join(table.doubts)


@pytest.mark.parametrize(
    ("one", "other"),
    [("P01_left", "P01_right"), ("P01_25y", "P01_26y"), ("P1 (1)", "P1 (2)"), ("ann", "Ann Meyer"),
     ("ann_bob", "bob"), ("O'Brien", "OBrien"), ("Meyer, Ann", "Ann Meyer"), ("Fam1", "1"),
     ("Ann Schmidt", "Ann Schmitd"), ("Müller", "Mueller"), ("P01", "participant 1"),
     ("1-2", "2-3"), ("ann_bob", "bob_cy"), ("Ann M.", "Ann Meyer")],
)  # fmt: skip
def test_two_names_that_may_mean_one_person_are_told(one, other, tmp_path):
    """One pair among others: a file was taken for two people's without a word."""
    videos(tmp_path, *(f"{i}.mp4" for i in range(4)))
    rows = [f"{i}.mp4\t{i % 2}\t{who}" for i, who in enumerate([one, "zoe", other, "karl"])]
    write_lines(tmp_path / "mine.csv", ["path\tlabel\twho", *rows])
    told = " ".join(find_annotations("csv", tmp_path / "mine.csv")[0].doubts)
    assert f"{one!r} and {other!r} count as" in told or f"{other!r} and {one!r} count as" in told


@pytest.mark.parametrize(
    "people", ["P1 P11 C1 M1 F1", "13 17 24 1 5", "ann hann johann", "1_1 1_2 2_1", "1a 1b 2a",
               "Guest1 Guest2 Guest3", "Ann Meyer,Ann Lee,Bob Meyer", "Jun Jul Aug"]
)  # fmt: skip
def test_people_of_other_names_are_no_doubt(people, tmp_path):
    who = people.split("," if "," in people else " ")
    videos(tmp_path, *(f"{i}.mp4" for i in range(2 * len(who))))
    rows = [f"{i}.mp4,{i % 2},{who[i // 2]}" for i in range(2 * len(who))]
    write_lines(tmp_path / "mine.csv", ["path,label,who", *rows])
    assert not read_annotations("csv", tmp_path / "mine.csv").doubts


@pytest.mark.parametrize(
    ("dataset", "levels", "words"),
    [("folder", ("sub-1 sub-2", "ses-1 ses-2", "a.mp4"), "classes are called ses-1, ses-2: are"),
     ("folder", ("2019 2020", "happy sad", "ann.mp4"), "unknown people in 4 of 4 clips"),
     ("folder", ("20s 30s", "happy sad", "1.mp4"), "people are called 20s, 30s: are"),
     ("folder", ("happy sad", "0a 1b", "1.mp4"), "people are called 0a, 1b: are"),
     ("folder", ("happy/P01 happy/P02 sad/P01 sad/batch1", "1.mp4"), "are called batch1: are"),
     ("folder", ("en_lie en_truth de_lie de_truth", "1.mp4"), "'de_lie' and 'en_lie' count as two"),
     ("folder", ("HS VIS", "ann_happy.mp4 bob_sad.mp4"), "seem to tell expressions, which is not"),
     ("folder", ("P01 P02", "happy sad", "fold1_a.mp4 fold2_b.mp4"), "seem to tell a split"),
     ("folder", ("lab wild", "happy sad", "ann.mp4 bob.mp4"), "people are called lab, wild: are"),
     ("folder", ("happy sad", "seen unseen", "1.mp4"), "people are called seen, unseen: are"),
     ("folder", ("1 2 3", "happy sad", "1.mp4"), "people are called 1, 2, 3: are"),
     ("folder", ("S1 S2", "happy sad", "ann_1.mp4"), "people are called S1, S2: are"),
     ("folder", ("happy sad", "s1_ann.mp4 s2_ann.mp4"), "people are called s1, s2: are"),
     ("voxceleb2", ("english german", "ann bob", "1.mp4"), "people are called english, german")],
)  # fmt: skip
def test_folders_that_may_be_no_people_or_classes_are_told(dataset, levels, words, tmp_path):
    assert words in " ".join(read_annotations(dataset, videos(tmp_path, *places(*levels))).doubts)
    if "S1 S2" in levels:  # who says so is believed
        assert not read_annotations(dataset, tmp_path, layout="person/class/clip").doubts


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,label,is_test", "a.mp4,x,0", "b.mp4,y,1"], "column is_test of mine.csv"),
        (["path,label,start,end", "a.mp4,x,-3,1e3", "b.mp4,y,1,2"], "column start of mine.csv"),
        (["path,label,mode", "a.mp4,x,train", "b.mp4,y,dev"], "column mode of mine.csv is not"),
        (["path,label,fold_1,kfold", "a.mp4,x,0,2", "b.mp4,y,1,3"], "column kfold of mine.csv"),
        (["path,label", "a.mp4,happy", "b.mp4,NA"], "'NA' is trained as a class"),
        (["path,label", "a.mp4,0", "b.mp4,-1", "c.mp4,1"], "'-1' is trained as a class"),
        (["path,label", "a.mp4,surprise", "b.mp4,suprise"], "or are spelled alike"),
        (["path,label", "a.mp4,ann_happy", "b.mp4,bob_happy"], "count as two classes, but share"),
        (["path,label", "ann_sad.mp4,happy", "b.mp4,sad"], "1 files are called as another class"),
        (["path,label,who", "a.mp4,x,cy_left", "b.mp4,y,cy_right", "c.mp4,x,di_left",
          "d.mp4,y,di_right"], "'cy_left' and 'cy_right' count as two people"),
        (["path,label", *(f"S00{i}/1.mp4,{i % 2}" for i in range(4))], "each of 4 people"),
        (["path,label", "a.mp4,happy", "b.mp4,unknown"], "'unknown' is trained as a class"),
        (["path,label", "a.mp4,sad", "b.mp4,sda"], "'sad' and 'sda' count as two classes"),
        (["path,label", "a.mp4,happy", "b.mp4,happily surprised"], "count as two classes"),
        (["path,label,who", "a.mp4,x,#REF!", "b.mp4,y,#WERT!"], "unknown people in 2 of 2"),
        (["path,label,who", "a.mp4,x,1.2E+11", "b.mp4,y,7"], "'1.2E+11' is a number that a"),
        (["path,label", "train_1.mp4,x", "test_1.mp4,y"], "seem to tell a split"),
        (["path,label,who", "a.mp4,x,ann_1", "b.mp4,y,ann_2", "c.mp4,x,bob_1", "d.mp4,y,bob_2"],
         "'ann_1' and 'ann_2' count as two people"),
        (["path,label,who", "a.mp4,x,01", "b.mp4,y,01_f", "c.mp4,x,02", "d.mp4,y,02_m"],
         "'01' and '01_f' count as two people"),
        (["path,label,who", "a.mp4,x,m", "b.mp4,y,f"], "are these people"),
        (["path,label,who", "a.mp4,x,Di Gray", "b.mp4,y,Di Fast", "c.mp4,x,Sunday1",
          "d.mp4,y,Sunday2"], "each of 4 people has"),
        (["path,label,who", *(f"{name}.mp4,x,1{name}" for name in "abcd")], "each of 4 people has"),
        (["sep=;", "path;label;who", "a.mp4;x;1", "b.mp4;y;2"], "MANIFEST.csv is not read"),
        (["path,label,user", *(f"{c}.mp4,x,{c in 'ac'}" for c in "abcd")], "column user of"),
        (["path,label,split", "a.mp4,x,train", "b.mp4,y,test"], "no clip of class y is trained on"),
        (["path,label", "a.mp4,happy", "b.mp4,hapy"], "'happy' and 'hapy' count as two classes"),
        (["path,label", "S001/sad.mp4,sad", "sad/1.mp4,happy"], "1 files are called as another"),
        (["path,label,cv", "a.mp4,x,0", "b.mp4,y,1"], "column cv of mine.csv is not used: if"),
        (["path,label,from,to", "a.mp4,x,3,9", "b.mp4,y,1,2"], "column to of mine.csv is not"),
        (["path label frames", "a.mp4 x 3-9", "b.mp4 y 1-2"], "a row means its whole video"),
        (["path,label,use", "a.mp4,x,yes", "b.mp4,y,no"], "which clips to leave out"),
        (["path,label,rater b", "a.mp4,x,y", "b.mp4,y,x"], "it holds what column label does"),
        (["path,label,who,partner", "a.mp4,x,1,2", "b.mp4,y,2,1"], "tells who else is seen"),
        (["path,label,who", "a.mp4,x,NA", "b.mp4,y,NA"], "unknown people in 2 of 2"),
    ],
)  # fmt: skip
def test_what_may_be_wrong_is_told(lines, words, tmp_path):
    names = (
        "a",
        "b",
        "c",
        "d",
        "ann_sad",
        "train_1",
        "test_1",
        "S001/sad",
        "sad/1",
        *(f"S00{i}/1" for i in range(4)),
    )
    videos(tmp_path, *(f"{name}.mp4" for name in names))
    if "sep" in lines[0]:
        write_lines(tmp_path / "MANIFEST.csv", ["file,identity", "a.mp4,x"])
    table = read_annotations("csv", write_lines(tmp_path / "mine.csv", lines))
    assert words in " ".join(table.doubts)


def test_lists_that_count_from_different_numbers_are_told(tmp_path):
    videos(tmp_path, *(f"{i}.mp4" for i in range(8)))
    write_lines(tmp_path / "train.txt", [f"{i}.mp4 {i % 2}" for i in range(4)])
    write_lines(tmp_path / "test.txt", [f"{i}.mp4 {1 + i % 2}" for i in range(4, 8)])
    assert (
        "(1 to 2 in test.txt, 0 to 1 in train.txt)"
        in find_annotations("csv", tmp_path)[0].doubts[0]
    )


def test_a_clip_of_two_people_in_two_lists_is_told(tmp_path):
    videos(tmp_path, *(f"{i}.mp4" for i in range(4)))
    for fold, who in ((1, "ann"), (2, "bob")):
        for part in ("train", "test"):
            rows = [f"{i}.mp4,{i % 2},{who if i == 3 else i}" for i in range(4)
                    if (i // 2 + 1 == fold) == (part == "test")]  # fmt: skip
            write_lines(tmp_path / f"{part}_{fold}.csv", ["path,label,who", *rows])
    (problem,) = find_annotations("csv", tmp_path)[1]
    assert problem.kind == "two labels" and "1 bob" in problem.what and "1 ann" in problem.what


def test_a_linked_folder_goes_by_its_own_name(tmp_path):
    videos(tmp_path, *places("happy sad", "ann bob cy", "1.mp4 2.mp4"))
    for name in ("aa", "zoe"):
        (tmp_path / "happy" / name).symlink_to(tmp_path / "happy/ann", target_is_directory=True)
    table = read_annotations("folder", tmp_path)
    assert {clip.subject for clip in table.clips} == {"ann", "bob", "cy"} and len(table) == 12
    assert "2 folders that are linked a second time" in " ".join(table.doubts)


def test_people_who_share_a_file_are_kept_on_one_side(tmp_path):
    for i, name in enumerate("anna bert cleo dora emil".split()):
        videos(tmp_path, *(f"{c}/{name}/{i}{k}.mp4" for c in ("happy", "sad") for k in range(3)))
    for path in tmp_path.rglob("*.mp4"):  # no other two are alike, for other people than dora
        path.write_bytes(str(path).encode())
    shutil.copy(tmp_path / "sad/anna/02.mp4", tmp_path / "sad/bert/12.mp4")
    shutil.copy(tmp_path / "sad/bert/11.mp4", tmp_path / "sad/cleo/21.mp4")
    table = read_annotations("folder", tmp_path)
    assert {clip.subject for clip in table.clips} == {"anna", "dora", "emil"}
    assert "under several people" in " ".join(table.notes)


def test_what_is_not_read_is_told(tmp_path):
    videos(tmp_path, *places("happy sad", "1.mp4 2.mp4"))
    (tmp_path / "fear").mkdir()
    (tmp_path / "sad/3.gif").touch()
    write_lines(tmp_path / "split.csv", ["path,split", "happy/1.mp4,test"])
    rows = [f"{name},{name[-5]},test" for name in places("happy sad", "1.mp4 2.mp4")]
    write_lines(tmp_path / "MANIFEST.csv", ["file,identity,split", *rows])
    table = read_annotations("folder", tmp_path)
    for words in ("1 folders that are empty", "such as split.csv", "not used: split"):
        assert words in " ".join(table.notes)
    assert "1 files .gif are not read" in " ".join(table.doubts)


def test_who_is_seen_and_what_tells_it_is_said(tmp_path, capsys):
    """No reading of people, labels and sides is silent, in the doctor or before training."""
    names = places("happy sad", "ann bob cy", "1.mp4")
    table = read_annotations("folder", videos(tmp_path, *names))
    assert "people: 3 by their folders" in table.reading
    assert "happy/ann/1.mp4 is happy, ann, trained on" in table.reading
    assert "1.mp4 is happy, cy, tested in fold 1" in table.reading
    table.tell()
    assert table.reading in capsys.readouterr().err
    write_lines(tmp_path / "MANIFEST.csv", ["file,identity", *(f"{n},{n[:3]}" for n in names)])
    assert "2 by column identity of MANIFEST.csv" in read_annotations("folder", tmp_path).reading
    write_lines(tmp_path / "mine.csv", ["path,label", *(f"{n},{n[:3]}" for n in names)])
    (tmp_path / "MANIFEST.csv").unlink()
    reading = read_annotations("csv", tmp_path / "mine.csv").reading
    assert "3 by their folders" in reading and "is hap, ann, " in reading


def test_folds_and_people_may_be_called_in_other_ways(tmp_path):
    videos(tmp_path, *(f"{i}.mp4" for i in range(4)))
    for fold in (0, 1):
        tested = [f"{i}.mp4 {i % 2}" for i in range(4) if i // 2 == fold]
        write_lines(tmp_path / f"test_{fold}.txt", tested)
        write_lines(tmp_path / f"train_{1 - fold}.txt", tested)
    table = read_annotations("csv", tmp_path)
    assert table.folds.tolist() == [1, 1, 2, 2] and "count from 0" in " ".join(table.notes)
    rows = [f"{i}.mp4,{i % 2},{'?' if i else 'Unknown'},{1 + i // 2}" for i in range(4)]
    write_lines(tmp_path / "mine.csv", ["file,label,who,fold", *rows])
    assert {clip.subject for clip in read_annotations("csv", tmp_path / "mine.csv").clips} == {None}
    videos(tmp_path, *(f"p{i % 2}_{i}.mp4" for i in range(4)))  # each shows one class
    rows = [f"p{i % 2}_{i}.mp4,{i % 2},{1 + i // 2}" for i in range(4)]
    write_lines(tmp_path / "mine.csv", ["file,label,fold", *rows])
    assert kinds("csv", tmp_path / "mine.csv") == ["subject overlap"] * 2


def test_letter_case_is_never_guessed(tmp_path):
    videos(tmp_path, "Anna/1.mp4", "bert/2.mp4", "bert/3.mp4", "BERT/3.mp4")
    lines = ["path,label", "anna/1.mp4,a", "BERT/2.MP4,b", "bert/3.mp4,b"]
    file = write_lines(tmp_path / "mine.csv", lines)
    table, problems = find_annotations("csv", file)
    assert not problems and len(table) == 3
    write_lines(file, [*lines, "Bert/3.mp4,b"])
    (problem,) = find_annotations("csv", file)[1]
    assert all(str(tmp_path / name) in str(problem) for name in ("bert/3.mp4", "BERT/3.mp4"))


def test_a_summary_says_what_changed(tmp_path):
    videos(tmp_path, *places("happy sad", "1.mp4 2.mp4 3.mp4"))
    before = read_annotations("folder", tmp_path).summary()
    assert explain_change(before, json.loads(json.dumps(before))) == ()
    (tmp_path / "happy/1.mp4").write_bytes(b"longer than it was")
    (tmp_path / "happy/2.mp4").rename(tmp_path / "sad/4.mp4")
    changes = " ".join(explain_change(before, read_annotations("folder", tmp_path).summary()))
    assert "1 clip new, first: sad/4.mp4" in changes and "1 clip gone" in changes
    assert "another bytes of 1 clip, first: happy/1.mp4 1 -> 18" in changes
    before = read_annotations("folder", tmp_path).summary()
    (tmp_path / "happy/3.mp4").write_bytes(b"new")
    after = read_annotations("folder", tmp_path).summary()
    (change,) = explain_change(before, after)
    assert change.startswith("another content of 1 clip, first: happy/3.mp4")
    assert not explain_change({**before, "each": [row[:5] for row in before["each"]]}, after)


names = st.text(st.sampled_from("abB ü0129,;'\"#-_"), min_size=1, max_size=8).filter(
    lambda text: text.strip() == text and not text.startswith(("#", "."))
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(found=st.dictionaries(names, st.tuples(*[st.integers(0, 3)] * 2), min_size=2, max_size=6))
def test_any_names_and_people_are_read_from_a_csv(found, tmp_path_factory):
    root = tmp_path_factory.mktemp("any")
    with (root / "mine.csv").open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file).writerow
        write(("file", "label", "fold", "who"))
        for i, (name, (label, fold)) in enumerate(found.items()):
            (root / f"{name}.mp4").write_bytes(bytes([i]))
            write((f"{name}.mp4", f"class, {label}", fold, f"ü, {i}"))
    table, problems = find_annotations("csv", root / "mine.csv")
    assert not [problem for problem in problems if problem.kind != "subject overlap"]
    who = {f"{name}.mp4": i for i, name in enumerate(found)}
    for clip in table.clips:
        label, fold = found[clip.path.stem]
        assert (table.classes[clip.label], clip.fold) == (f"class, {label}", fold)
        assert clip.subject == f"ü, {who[clip.path.name]}"
    assert len(table) == len(found)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [(b"path,label\na.mp4,h\0appy", "encoding", "line 2 is not text"),
     (b'path,label\na.mp4,"' + b"x" * 200_000, "label", ""),
     (b" " * 2**21 + b"path,label", "format", "line 1 2,097,162 letters are no row"),
     (b"a,b\n" * (2**21 + 1), "format", "lines are no list")],
)  # fmt: skip
def test_lists_out_of_all_reason_are_told_at_once(content, kind, words, tmp_path):
    """They ended in csv's own error, or in minutes and gigabytes of rows."""
    videos(tmp_path, "a.mp4")
    (tmp_path / "annotations.csv").write_bytes(content)
    problems = find_annotations("csv", tmp_path)[1]
    assert words in str(problems[0]) or kind in {one.kind for one in problems}


def test_what_is_no_file_is_never_read(tmp_path):
    """A pipe was waited for without end, and a device read until memory was full."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zero.json"):
        for read in (files.load, files.read_bytes, files.file_sha256, content_digest):
            with pytest.raises(ValueError, match=f"{name}.* is no file"):
                read(tmp_path / name)
    for text, message in (("[" * 10**5, "RecursionError"), ("[]", "no object"), ("", "JSONDecode")):
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(files.DamagedError, match=rf"odd\.json is damaged .*{message}"):
            files.load(tmp_path / "odd.json")
