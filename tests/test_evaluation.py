"""Test views against the published protocol read literally; evaluation; its files."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making_videos import moving_frames, write_video
from PIL import Image
from safetensors.torch import load_file, save_file
from test_loop import TORCHRUN, in_child

from maedfer_lab import cli
from maedfer_lab.checkpoints.saving import save_official
from maedfer_lab.config import FinetuneConfig, OptimConfig, finetune_recipe, tiny
from maedfer_lab.data.labels import match_classes
from maedfer_lab.data.table import read_annotations
from maedfer_lab.data.transforms import Box
from maedfer_lab.data.video import VideoReader
from maedfer_lab.method.models import build_classifier
from maedfer_lab.paper.ledger import read_results
from maedfer_lab.paper.tables import paper
from maedfer_lab.runs import Run
from maedfer_lab.training import evaluation as views_module
from maedfer_lab.training.evaluation import (
    Evaluation,
    Views,
    combine,
    evaluate,
    is_published,
    read_evaluation,
    save_evaluation,
)
from maedfer_lab.training.finetune import FinetuneTask, finetune, load_finetuned
from maedfer_lab.training.pretrain import pretrain
from maedfer_lab.training.stream import labelled_data

SIZE = 32


class Shown(VideoReader):
    """An array as a video that remembers which frames were asked for."""

    backend, fps, path = "array", None, Path("array")

    def __init__(self, frames):
        self.frames, self._length, self.asked = frames, len(frames), []
        self.height, self.width = frames.shape[1:3]

    def _read(self, indices):
        self.asked += indices
        return self.frames[indices]


def published_views(frames, num_frames, stride, segments, crops, size_px):
    """Every view as the official test set makes it: slowly, one after the other."""
    chosen = list(range(0, len(frames), stride))
    while len(chosen) < num_frames:
        chosen.append(chosen[-1])
    sized = [Image.fromarray(frames[i]).resize((size_px, size_px), Image.BILINEAR) for i in chosen]  # type: ignore
    whole = np.stack([np.asarray(picture) for picture in sized])
    starts = [int(k * (len(whole) - num_frames) / (segments - 1)) for k in range(segments)]
    return np.stack([whole[s : s + num_frames] for s in starts for _ in range(crops)])


@given(
    num=st.integers(1, 90),
    stride=st.integers(1, 4),
    segments=st.integers(2, 4),
    crops=st.integers(2, 3),
)
def test_the_weighted_views_are_the_published_ones(num, stride, segments, crops):
    frames = np.random.default_rng(num).integers(0, 256, (num, 10, 12, 3), dtype=np.uint8)
    views = Views(8, 8, stride, segments, crops)
    ours, weights, _ = views.read(Shown(frames))
    theirs = published_views(frames, 8, stride, segments, crops, 8)
    count = {view.tobytes(): 0 for view in ours}
    for view in theirs:
        count[view.tobytes()] += 1  # a view of theirs that is not ours raises
    for view, weight in zip(ours, weights, strict=True):
        if len(count) == len(ours):
            assert weight == pytest.approx(count[view.tobytes()] / len(theirs))
    assert weights.sum() == pytest.approx(1) and len(ours) <= segments
    mean = np.tensordot(weights, ours.astype(float), 1)
    assert np.allclose(mean, theirs.astype(float).mean(0))


def test_a_video_is_read_once_and_only_what_is_shown():
    reader = Shown(moving_frames(200, 16, 16))
    views, weights, _ = Views(16, 16, stride=4).read(reader)
    assert len(views) == 2 and weights.tolist() == [0.5, 0.5], "two crops are one picture"
    assert len(reader.asked) == len(set(reader.asked)) == 32, "not the 18 frames between"
    short, weights, _ = Views(16, 16, stride=4).read(Shown(moving_frames(40, 16, 16)))
    assert len(short) == 1 and weights.tolist() == [1.0], "two windows are one as well"
    middle = Views(16, 16, stride=1, segments=1, crops=1)  # B9: the official code divides by zero
    assert dict(middle.windows(26)) == {5: 1}
    assert middle.read(Shown(moving_frames(26, 20, 20)))[0].shape == (1, 16, 16, 16, 3)
    with pytest.raises(ValueError, match="segments"):
        Views(16, 16, segments=0)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A folder per class, three people each with two videos, of many lengths."""
    root = tmp_path_factory.mktemp("labelled")
    for label, name in enumerate(("calm", "wild")):
        (root / name).mkdir()
        for i in range(6):
            frames = moving_frames(3 + 9 * i, 36, 40, seed=10 * label + i)
            write_video(root / name / f"person{i // 2}_take {i}.mp4", frames)
    return root


def opinionated():
    found = build_classifier(tiny().model, 2)
    with torch.no_grad():
        found.head.weight.mul_(3000)  # opinions: a fresh head has none
    return found


@pytest.fixture(scope="module")
def model():
    return opinionated()


OPTIONS: dict[str, Any] = {"stride": 2, "segments": 3}


@pytest.fixture(scope="module")
def found(labelled, model):
    annotations = read_annotations("folder", labelled)
    return evaluate(model, annotations, annotations.clips, **OPTIONS)


def test_probabilities_are_the_mean_over_the_published_views(found, labelled, model):
    annotations = read_annotations("folder", labelled)
    for clip, ours in zip(annotations.clips, found.probabilities, strict=True):
        reader = annotations.open(clip)
        frames = reader.read(range(len(reader)))
        views = published_views(frames, 8, 2, 3, 2, SIZE)
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(views).permute(0, 4, 1, 2, 3) / 255)
        assert np.abs(logits.softmax(1).mean(0).numpy() - ours).max() < 2e-6
    assert np.ptp(found.probabilities[:, 0]) > 0.01
    assert found.labels.tolist() == [clip.label for clip in annotations.clips]


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5, "workers": 1}])
def test_batches_and_workers_do_not_matter(found, labelled, model, options):
    annotations = read_annotations("folder", labelled)
    again = evaluate(model, annotations, annotations.clips, **OPTIONS, **options)
    assert np.abs(again.probabilities - found.probabilities).max() <= 2e-6
    assert np.array_equal(again.guesses, found.guesses) and again.paths == found.paths


def test_faces_are_looked_for_once(labelled, model, monkeypatch, tmp_path):
    """Also over the epochs of a fine-tuning, and the answers stay the same."""
    looked = []

    def find(reader):
        looked.append(reader.path)
        return Box(2, 4, 30, 28)

    monkeypatch.setattr(views_module, "face_square", find)
    annotations = read_annotations("folder", labelled)
    clips, boxes = annotations.clips, {}
    first = evaluate(model, annotations, clips[:7], **OPTIONS, framing="face", boxes=boxes)
    assert len(looked) == 7 and boxes == dict.fromkeys(clips[:7], Box(2, 4, 30, 28))
    again = evaluate(model, annotations, clips, **OPTIONS, framing="face", boxes=boxes)
    assert len(looked) == len(boxes) == 12
    assert np.abs(again.probabilities[:7] - first.probabilities).max() <= 2e-6

    looked.clear()
    config = FinetuneConfig(model=tiny().model, dataset="folder", data=labelled, framing="face",
                            holdout=0.3)  # fmt: skip
    task = FinetuneTask(config, model, labelled_data(config), Run(tmp_path))
    scores = [task.validate() for _ in range(3)]
    assert len(looked) == len(set(looked)) == np.sum(task.last)
    assert scores[0] == scores[1] == scores[2]


TWO = """
from accelerate import PartialState
from test_evaluation import OPTIONS, evaluate, opinionated, read_annotations, save_evaluation
state = PartialState(cpu=True)
assert state.num_processes == 2, state
table = read_annotations("folder", Path(sys.argv[2]))
found = evaluate(opinionated(), table, table.clips, **OPTIONS, batch_size=5)
save_evaluation(found, Path(sys.argv[1]) / str(state.process_index), {}, method="own", name="two")
"""


def test_two_processes_give_the_same_files(labelled, model, tmp_path):
    child = in_child(TWO, tmp_path, labelled, launcher=TORCHRUN)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors[-3000:]
    annotations = read_annotations("folder", labelled)
    one = evaluate(model, annotations, annotations.clips, **OPTIONS, batch_size=5)
    save_evaluation(one, tmp_path, {}, method="own", name="two")
    for suffix in (".csv", ".json"):
        texts = {(tmp_path / place / f"two{suffix}").read_text() for place in (".", "0", "1")}
        assert len(texts) == 1


def test_broken_clips_are_named_and_left_out_only_if_told(labelled, model, tmp_path):
    root = tmp_path / "spoiled"
    shutil.copytree(labelled, root)
    (root / "calm" / "person0_take 0.mp4").write_bytes(b"")
    (root / "wild" / "person1_take 2.mp4").write_bytes(b"not a video")
    annotations = read_annotations("folder", root)
    with pytest.raises(ValueError, match=r"2 of 12 clips.*person0_take 0\.mp4.*person1_take 2"):
        evaluate(model, annotations, annotations.clips, **OPTIONS)
    rest = evaluate(model, annotations, annotations.clips, **OPTIONS, skip_broken=True)
    assert len(rest.labels) == 10 and len(rest.skipped) == 2
    assert "skipped: 2 " in str(rest) and "calm/person0_take 0.mp4" in str(rest)
    with pytest.raises(ValueError, match="7 classes, folder has 2"):
        evaluate(build_classifier(tiny().model, 7), annotations, annotations.clips)


def test_files_hold_everything_and_read_back(found, tmp_path):
    paths = save_evaluation(found, tmp_path, {"commit": "abc"}, method="own", epoch="last")
    table = paths[0].read_text().splitlines()
    assert table[0] == "path,label,guess,fold,subject,p calm,p wild" and len(table) == 13
    odd = replace(found, paths=("a\rb.mp4", *found.paths[1:]), run=("other", "run"))
    kept = save_evaluation(odd, tmp_path / "odd", {}, method="own")
    assert read_evaluation(kept[1]).paths == odd.paths  # once unquoted, so two rows
    kept[1].write_text(kept[1].read_text().replace('["calm", "wild"]', "[]"))
    with pytest.raises(ValueError, match=r"folder_foldall\.json is damaged"):
        read_evaluation(kept[1])
    again = read_evaluation(paths[1])
    for name in ("dataset", "fold", "classes", "paths", "folds", "subjects", "skipped"):
        assert getattr(again, name) == getattr(found, name)
    assert np.array_equal(again.probabilities, found.probabilities)
    content = json.loads(paths[1].read_text())
    assert content["uar"] == found.scores["uar"] and content["epoch"] == "last"
    assert content["provenance"] == {"commit": "abc"}
    save = partial(save_evaluation, replace(found, run=("a", "1")), tmp_path / "b", method="own")
    first, same, other = (save({"data": folder})[0] for folder in ("Lab", "Lab", "Wild"))
    assert first == same != other, "clips of one name in another folder"


def dfew(fold: str, clips: int | None = None) -> Evaluation:
    """A made-up test of a fold of DFEW, every third clip wrong."""
    own = paper().splits("DFEW")[fold]
    labels = np.repeat(np.arange(7), own)[:clips]
    guesses = np.where(np.arange(len(labels)) % 3, labels, (labels + int(fold)) % 7)
    chances = np.eye(7)[guesses]
    n = len(labels)
    paths = tuple(f"{fold}/{i}" for i in range(n))
    return Evaluation("dfew", fold, tuple(paper().labels["DFEW"]), paths, labels, chances,
                      (int(fold),) * n, (None,) * n)  # fmt: skip


def test_claims_read_the_whole_test_of_a_fold_and_nothing_less(tmp_path):
    whole, part, second = dfew("1"), dfew("2", clips=30), dfew("2")
    mean, pooled = combine([whole, second])
    assert mean["uar"] == pytest.approx((whole.scores["uar"] + second.scores["uar"]) / 2)
    assert np.array_equal(pooled.confusion, whole.confusion + second.confusion)
    assert pooled.fold == "pooled" and set(pooled.folds) == {1, 2}
    with pytest.raises(ValueError, match="different"):
        combine([whole, whole])
    for one in (whole, part, pooled):
        save_evaluation(one, tmp_path, {"commit": "abc"}, method="MAE-DFER")
    (result,) = read_results(tmp_path, paper())
    assert (result.dataset, result.fold, result.n) == ("DFEW", "1", 2341)
    assert result.scores["uar"] == pytest.approx(whole.scores["uar"])


@pytest.fixture(scope="module")
def run(labelled, tmp_path_factory):
    """A short fine-tuning on the folder whose best epoch is not the last."""
    optim = OptimConfig(steps=6, batch_size=4, lr=0.064, warmup_steps=1)
    config = FinetuneConfig(name="own", model=tiny().model, optim=optim, data=labelled,
                            eval_every=2, framing="whole")  # fmt: skip
    return finetune(config, output=tmp_path_factory.mktemp("finetuned"))


def verb(out: Path, *args: object) -> int:
    """`maedfer evaluate` of one window, into a folder."""
    return cli.main(["evaluate", *map(str, args), "--out", str(out), "--segments", "1"])


def saved_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "folder_foldall.json").read_text())


def test_the_verb_tests_a_run_and_files_the_answers(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    assert verb(tmp_path, folder) == 0
    printed = capsys.readouterr().out
    assert "UAR" in printed and "calm" in printed and "written" in printed
    assert "best epoch" in printed and "test fold" in printed
    saved = saved_in(tmp_path)
    assert saved["kind"] == "evaluation" and saved["method"] == "own recipe"
    assert saved["views"]["segments"] == 1 and saved["views"]["stride"] == run.config.stride
    # One window and the whole picture are what the run itself was judged by.
    assert saved["confusion"] == run.result["confusion"]
    (folder / "best.safetensors").unlink()
    with pytest.raises(ValueError, match=r"best\.safetensors is damaged.*No such file"):
        load_finetuned(folder, "best")


def test_a_checkpoint_needs_a_data_set_and_a_head(labelled, tmp_path, capsys, model):
    save_official(model, tmp_path / "model.pth")
    path, known = tmp_path / "model.pth", ("--dataset", "folder", "--root", labelled)
    for args, status, message in (
        ((path,), 2, "dataset is missing"),
        ((path, *known), 0, "tells no names; its 2 classes are taken in the order of folder: calm"),
        ((tmp_path / "folder_foldall.json", path, *known), 2, "different"),
        ((path, *known, "--labels", "wild", "glad"), 2, "name other classes"),
    ):
        assert verb(tmp_path, *args) == status
        shown = capsys.readouterr()
        assert message in shown.out + shown.err
    assert saved_in(tmp_path)["method"] == "own recipe"


def changed(run, folder: Path, **result: Any) -> Path:
    """A copy of a run that tells other things of itself, without checksums."""
    shutil.copytree(run.folder, folder)
    kept = json.loads((folder / "result.json").read_text())
    del kept["sha256"]
    (folder / "result.json").write_text(json.dumps(kept | result))
    return folder


def test_classes_in_another_order_are_mapped_by_name(run, tmp_path, capsys):
    folder = changed(run, tmp_path / "turned", classes=["wild", "calm"])
    weights = load_file(folder / "model.safetensors")
    turned = {k: x.flip(0) if k.startswith("head.") else x for k, x in weights.items()}
    save_file(turned, folder / "model.safetensors")
    assert verb(tmp_path, folder) == 0
    assert "the model's order is wild, calm" in capsys.readouterr().out
    saved = saved_in(tmp_path)
    assert saved["confusion"] == run.result["confusion"] and saved["classes"] == ["calm", "wild"]


def test_other_names_are_refused_or_mapped_by_a_file(run, tmp_path, capsys):
    folder = changed(run, tmp_path / "other", classes=["relaxed", "angry"])
    assert verb(tmp_path, run.folder, "--fold", "2") == 2
    assert "fold=2 is not in this table" in capsys.readouterr().err
    assert verb(tmp_path, folder) == 2
    printed = capsys.readouterr().err
    assert all(name in printed for name in ("relaxed", "angry", "calm", "wild", "--map"))
    for name, text, status, message in (
        ("m.csv", "relaxed,calm\n", 2, "has no line for 'angry'"),
        ("m.csv", "relaxed,calm\nangry,cross\n", 2, "maps to the unknown 'cross'"),
        ("m.csv", "relaxed,calm\nangry,wild\nglad,\n", 2, "maps the unknown 'glad'"),
        ("m.csv", "relaxed,calm\nangry,wild\n", 0, "relaxed -> calm; angry -> wild"),
        ("m.json", '{"relaxed": "calm", "angry": null}', 0, "all clips of folder's wild"),
        ("m.csv", "relaxed,\nangry,\n", 2, "leaves every class out"),
        ("m.json", '["relaxed"]', 2, "must hold one object"),
    ):
        (tmp_path / name).write_text(text)
        assert verb(tmp_path, folder, "--map", tmp_path / name) == status
        shown = capsys.readouterr()
        assert message in shown.out + shown.err
    assert saved_in(tmp_path)["confusion"] == run.result["confusion"]


def test_several_classes_become_one_and_the_rest_shares_what_is_left_out(tmp_path):
    file = tmp_path / "map.csv"
    file.write_text("joy,good\nlove,good\nrage,bad\ncontempt,\n")
    names = ["joy", "rage", "love", "contempt"]
    found = match_classes(4, names, ("bad", "good", "odd"), "mine", file)
    assert (found.classes, found.labels) == (("bad", "good"), (0, 1, -1))
    assert np.allclose(found.gather(np.array([[0.1, 0.2, 0.2, 0.5]])), [[0.4, 0.6]])


def test_a_run_does_not_overwrite_anothers_scores(run, tmp_path):
    other = changed(run, tmp_path / "other-run")
    weights = load_file(other / "model.safetensors")
    save_file(weights | {"head.bias": weights["head.bias"] + 5}, other / "model.safetensors")
    for folder in (run.folder, other, run.folder, other):
        assert verb(tmp_path, folder) == 0
    names = sorted(path.name for path in tmp_path.glob("*.json"))
    assert names == ["folder_foldall.json", "folder_foldall_other-run.json"]
    assert read_evaluation(tmp_path / names[0]).run[0] == run.folder.name


def test_ordinary_mistakes_are_one_sentence(run, tmp_path, capsys):
    start = pretrain(tiny(), output=tmp_path)
    capsys.readouterr()
    assert verb(tmp_path, start.folder) == 2
    printed = capsys.readouterr().err
    assert "is a pre-training run" in printed and printed.count("\n") == 1
    folder = changed(run, tmp_path / "other-fold")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"fold": 2}))
    assert verb(tmp_path, folder) == 2
    assert "was trained on clips of this fold" in capsys.readouterr().err


def test_what_changed_since_the_training_is_said(run, labelled, tmp_path, capsys):
    table = read_annotations("folder", labelled)
    kept = table.summary()
    tested = next(clip for clip in table.clips if clip.fold == 1)
    for row in kept["each"]:
        row[2] = 0 if row[0] == table.name(tested) else row[2]
    kept["digest"] = "another"
    folder = changed(run, tmp_path / "before")
    (folder / "data.json").write_text(json.dumps(kept))
    assert verb(tmp_path, folder) == 0
    printed = capsys.readouterr().out
    assert "since the training: another fold of" in printed
    assert "1 of the tested people were trained on" in printed
    rows = [f"{table.name(c)},{table.classes[c.label]},{int(c.fold != 1)}" for c in table.clips]
    (labelled / "mine.csv").write_text("\n".join(["path,label,fold", *rows]))
    assert verb(tmp_path, run.folder, "--dataset", "csv", "--root", labelled / "mine.csv") == 0
    (labelled / "mine.csv").unlink()
    assert "of the tested clips were trained on" in capsys.readouterr().out


def test_only_the_published_recipe_is_the_papers_method():
    config = replace(finetune_recipe("dfew", 9356), checkpoint=Path("pretrained.pth"), seed=3)
    assert is_published(config, "dfew")
    assert is_published(replace(config, dataset="shards", name="mine"), "dfew")
    for other in (
        replace(config, checkpoint=None),
        replace(config, layer_decay=0.9),
        replace(config, optim=replace(config.optim, lr=5e-4)),
        finetune_recipe("dfew", 9356, epochs=10),
    ):
        assert not is_published(other, "dfew")
