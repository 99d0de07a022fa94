"""The stream of clips: as recorded before, broken clips, pairs that are mixed, and a run's data."""

import hashlib
import json
import shutil
import warnings
import zipfile
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from making_datasets import make_class_folders
from making_videos import moving_frames, write_images
from test_loop import Toy, toy_config, train

from maedfer_lab.config import Augment, FinetuneConfig, OptimConfig, finetune_recipe, tiny
from maedfer_lab.data.folder import FramesReader
from maedfer_lab.data.prepare import prepare
from maedfer_lab.data.shards import open_shards
from maedfer_lab.data.stills import StillClip, Stills
from maedfer_lab.data.table import Annotations, Clip, read_annotations
from maedfer_lab.data.transforms import Box, crop_and_resize
from maedfer_lab.data.video import VideoError
from maedfer_lab.method.models import build_classifier
from maedfer_lab.runs import Run
from maedfer_lab.training.finetune import FinetuneTask, finetune, load_finetuned
from maedfer_lab.training.loop import own_share
from maedfer_lab.training.pretrain import PretrainTask, load_run, pretrain
from maedfer_lab.training.stream import labelled_data, pretraining_data, pretraining_table

SHORT = replace(tiny(), optim=OptimConfig(6, 4, warmup_steps=0), eval_every=3, save_every=2)
LABELLED = FinetuneConfig(
    model=tiny().model, optim=OptimConfig(6, 8, warmup_steps=1), num_clips=28, num_test=14
)


def write_clip(place, seed, damaged=False):
    """A folder of frames; damaged ones end in the middle."""
    write_images(place, moving_frames(40, seed=seed))
    for image in place.glob("*.png") if damaged else ():
        image.write_bytes(image.read_bytes()[:40])


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A list of ten folders of frames, two of each person."""
    root = tmp_path_factory.mktemp("listed")
    for number, person in product((1, 2), (12, 15, 16, 17, 18)):
        write_clip(root / f"id000{person}" / "2DLq_Kkc1r8" / f"0000{number}", 100 * number + person)
    places = sorted(root.glob("*/*/*"))
    (root / "list.txt").write_text("".join(f"{place} 0\n" for place in places))
    return root / "list.txt"


def digest(items):
    each = [hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16] for x in items]
    return hashlib.sha256("".join(each).encode()).hexdigest()[:16]


def test_items_are_those_of_the_sources_that_the_stream_replaced(listed):
    """Recorded at 88f4630, before there was one stream."""
    bent = replace(tiny(), tilt=6.0, warp=0.04, mirror=True, seed=3)
    streams = {
        "drawn": pretraining_data(tiny()).stream,
        "bent": pretraining_data(bent).stream,
        "list": pretraining_data(replace(tiny(), data=listed, held_out=0.3)).stream,
    }
    assert {k: digest(stream[i] for i in range(40)) for k, stream in streams.items()} == {
        "drawn": "296f7cb792f4d4f2",
        "bent": "f7d2d97a0648f6cf",
        "list": "e92db34bbd52dd06",  # since the boxes are the official ones
    }
    stream = labelled_data(LABELLED).stream
    assert digest(stream[i][0] for i in range(40)) == "c4ded774dc8505ec"


def test_the_order_of_an_epoch_and_what_is_done_to_an_item_are_fixed(listed):
    config = replace(tiny(), data=listed)
    first, again = (pretraining_data(config).stream for _ in range(2))
    order = [first.name(i) for i in range(3 * len(first))]
    backwards = {i: again[i] for i in (20, 3, 11)}
    assert all(torch.equal(first[i], item) for i, item in backwards.items())
    epochs = [order[e * len(first) : (e + 1) * len(first)] for e in range(3)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_frames_of_published_lists_come_in_the_official_order_others_in_the_natural_one(tmp_path):
    frames = moving_frames(12)
    folder = write_images(tmp_path / "clip", frames)
    for i, image in enumerate(sorted(folder.glob("*.png"), key=lambda path: int(path.stem))):
        image.rename(folder / f"f{i}.png")
    clip = Clip(folder, 0, 1)
    as_text = sorted(range(12), key=str)
    for dataset, order in (("dfew", as_text), ("folder", list(range(12)))):
        table = Annotations(dataset, ("calm",), (clip,), tmp_path)
        np.testing.assert_array_equal(table.open(clip).read(range(12)), frames[order])
        cut = prepare(table, tmp_path / dataset, size_px=64, framing="whole", workers=0).out
        shard = open_shards(cut)
        shown = crop_and_resize(frames, Box(0, 0, *frames.shape[1:3]), 64, 64)[order].astype(int)
        found = shard.open(shard.clips[0]).read(range(12))
        assert np.abs(found - shown).mean() < 3 < np.abs(shown - shown[::-1]).mean()


def portraits(folder, number=6):
    """A zip of grey squares, each of another brightness, and its list: three to a person."""
    archive = folder / "people.zip"
    rows = ["file,identity,split"]
    with zipfile.ZipFile(archive, "w") as opened:
        for i in range(number):
            picture = np.full((24, 20, 3), 20 + 30 * i, np.uint8)
            opened.writestr(f"{i}.png", cv2.imencode(".png", picture)[1].tobytes())
            rows.append(f"{i}.png,person {i // 3},{'Train' if i < number - 1 else 'test'}")
    archive.with_suffix(".csv").write_text("\n".join(rows))
    return archive


def test_a_torn_picture_in_a_zip_is_no_grey_one(tmp_path):
    archive = tmp_path / "people.zip"
    picture = cv2.imencode(".jpg", moving_frames(1)[0])[1].tobytes()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.jpg", picture)
        opened.writestr("b.jpg", picture[: len(picture) // 2])
    archive.with_suffix(".csv").write_text("file\na.jpg\nb.jpg\n")
    table = Stills([archive])
    whole, torn = table.clips
    assert table.open(whole).read([0]).shape == (1, 48, 64, 3)
    with pytest.raises(VideoError, match=r"b\.jpg: cannot be read from its zip"):
        table.open(torn)


def test_portraits_become_clips_and_nobody_held_out_is_among_them(video_folder, tmp_path):
    config = replace(SHORT, data=video_folder, synthetic=0.3, stills=(portraits(tmp_path),),
                     stills_share=0.5)  # fmt: skip
    with pytest.raises(ValueError, match=r"nothing\.zip.* must be a zip"):
        pretraining_data(replace(config, stills=(tmp_path / "nothing.zip",)))
    odd = shutil.copytree(tmp_path, tmp_path / "odd") / "people.zip"
    beside = odd.with_suffix(".csv")
    beside.write_text(beside.read_text().replace("test", "later"))
    with pytest.raises(ValueError, match="column split holds 'later': use train, val and test"):
        pretraining_data(replace(config, stills=(odd,)))
    first, again = (pretraining_data(config).stream for _ in range(2))
    names = [first.name(i) for i in range(60)]
    stills = [i for i, name in enumerate(names) if "people.zip" in name]
    assert 15 < len(stills) < 45
    shown = {Path(names[i]).name for i in stills}
    assert shown in ({"0.png", "1.png", "2.png"}, {"3.png", "4.png"})  # a person; none of the test
    for i in stills[:5]:
        assert torch.equal(first[i], again[i]) and first[i].shape == first[0].shape
    alone, helped = (pretrain(config, output=tmp_path / str(n), workers=n) for n in (0, 1))
    assert alone.log == helped.log
    assert all(word in alone.result["data"] for word in ("moved portraits", "held out"))
    config.stills[0].with_suffix(".csv").write_text("file,identity\n0.png,a\n1.png,b\n")
    with pytest.raises(ValueError, match="the files of stills differ"):
        pretrain(config, output=tmp_path / "0")


def test_the_camera_before_a_portrait_is_as_fast_in_short_clips_as_in_long_ones():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), np.uint8)
    picture, clip = FramesReader(Path("a.png"), pixels), Clip(Path("a.png"), 0, 0)
    short, long = (
        StillClip(frames, 32, tilt=8.0)(picture, clip, np.random.default_rng(4), ())
        for frames in (4, 16)
    )
    np.testing.assert_allclose(short.int(), long[6:10].int(), atol=1)
    assert (short[0].int() - short[-1].int()).abs().float().mean() > 3


def test_people_named_in_a_list_are_known(tmp_path):
    write_clip(tmp_path / "M003_angry_1", 0)
    (tmp_path / "list.txt").write_text("".join(f"{who}_angry_1 0\n" for who in ("M003", "W009")))
    table = pretraining_table(replace(tiny(), data=tmp_path / "list.txt"))
    assert table.people() == ["M003", "W009"]


def test_what_makes_a_split_doubtful_is_told_before_training_and_one_class_is_refused(tmp_path):
    root = make_class_folders(tmp_path / "set", ("calm", "loud"), num=3)
    rows = [f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.rglob("*.mp4"))]
    (root / "mine.csv").write_text("\n".join(["path,label,is_test", *(f"{r},0" for r in rows)]))
    table = read_annotations("csv", root / "mine.csv")
    prepare(table, tmp_path / "out", size_px=16, framing="whole", workers=0)
    opened = open_shards(tmp_path / "out")
    assert opened.doubts == table.doubts and len(table.doubts) == 2
    for data, dataset in ((root / "mine.csv", "csv"), (tmp_path / "out", "shards")):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            labelled_data(replace(LABELLED, data=data, dataset=dataset))
        words = " ".join(str(warning.message) for warning in warned)
        assert "in 6 of 6 clips" in words and "column is_test of mine.csv is not used" in words
    with pytest.warns(UserWarning, match="unknown people in 6 of 6"):
        pretraining_data(replace(SHORT, data=root))
    manifest = tmp_path / "out/MANIFEST.csv"
    names = [table.name(clip) for clip in table.clips]
    text = manifest.read_text()
    for name, who in zip(names, "Ann ann bob cy di ed".split(), strict=True):
        text = text.replace(f",{name},{name},", f",{who},{name},")
    manifest.write_text(text)
    doubts = " ".join(open_shards(tmp_path / "out", verify=True).doubts)
    assert "'Ann' and 'ann' of MANIFEST.csv may show one" in doubts and "unknown" not in doubts
    (root / "mine.csv").write_text("\n".join(["path,label", *rows[:3]]))
    with pytest.raises(ValueError, match=r"has one class \(calm\)"):
        labelled_data(replace(LABELLED, data=root / "mine.csv", dataset="csv"))


# --- broken clips ---


def broken_list(listed, tmp_path, number):
    """A copy of the list in which `number` training clips are damaged."""
    text, place = listed.read_text(), tmp_path / "list.txt"
    config = replace(SHORT, data=place)
    place.write_text(text)
    for i, clip in enumerate(pretraining_data(config).stream.clips[:number]):
        bad = tmp_path / "id" / clip.path.parts[-3] / f"{i}"
        write_clip(bad, i, damaged=True)
        text = text.replace(f"{clip.path} ", f"{bad} ")
    place.write_text(text)
    return config


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_clip_is_replaced_by_rule_and_listed(listed, tmp_path, workers, monkeypatch):
    config = broken_list(listed, tmp_path, 1)
    run = pretrain(config, output=tmp_path / "a", workers=workers)
    ((name, why),) = run.result["broken"]
    assert "id/" in name and "frame 0" in why
    assert "1 broken clips" in str(run)
    if workers:
        return
    one, other = (pretraining_data(config).stream for _ in range(2))
    backwards = [other[i] for i in reversed(range(16))]
    assert all(map(torch.equal, [one[i] for i in range(16)], reversed(backwards)))
    assert one.replaced and set(one.replaced) == set(other.replaced)
    finish = PretrainTask.finish
    with monkeypatch.context() as patch:

        def break_off(self, batch, step, places):
            if step == 5:
                raise RuntimeError("power cut")
            return finish(self, batch, step, places)

        patch.setattr(PretrainTask, "finish", break_off)
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(config, output=tmp_path / "b")
    again = pretrain(config, output=tmp_path / "b")
    assert again.log == run.log and again.result["broken"] == run.result["broken"]
    assert pretrain(config, output=tmp_path / "a").result == run.result


def test_a_run_ends_at_the_first_broken_clip_if_asked_to_or_at_too_many(listed, tmp_path):
    config = broken_list(listed, tmp_path, 5)
    with pytest.raises(ValueError, match=r"of about \d+ clips cannot be read.*maedfer doctor"):
        pretrain(config, output=tmp_path)
    with pytest.raises(ValueError, match=r"training clip .* cannot be read.*on_broken='skip'"):
        pretrain(replace(config, on_broken="stop"), output=tmp_path)


# --- mixing in groups ---


def test_groups_mix_the_same_clips_whatever_the_number_of_processes(tmp_path):
    config = replace(LABELLED, augment=Augment(rand_augment="", erase=0.0), mix_group=4)
    data, steps = labelled_data(config), 3
    model = build_classifier(config.model, 7).eval()
    task = FinetuneTask(config, model, data, Run(tmp_path))
    items = [data.stream[i] for i in range(8 * steps)]
    clips, labels = torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])

    def loss(step, places):
        own = [8 * step + place for place in places]
        batch = task.finish((clips[own].clone(), labels[own]), step, places)
        return task.loss(model, batch)["loss"]

    with torch.no_grad():
        for step in range(steps):
            whole = loss(step, range(8))
            for parts in (2, 4):
                shares = [own_share(8, parts, i, group=4) for i in range(parts)]
                mean = torch.stack([loss(step, share) for share in shares]).mean()
                torch.testing.assert_close(mean, whole, rtol=0, atol=1e-5)


def test_published_recipes_mix_as_many_clips_as_the_official_processes_held():
    groups = {name: finetune_recipe(name, 500).mix_group for name in ("dfew", "mafw", "ferv39k")}
    assert groups == {"dfew": 32, "mafw": 32, "ferv39k": 40}
    with pytest.raises(ValueError, match="mix_group=3 must be even"):
        replace(LABELLED, mix_group=3)


# --- a run belongs to its data ---


def test_a_run_is_refused_where_its_clips_or_labels_changed(tmp_path):
    root = make_class_folders(tmp_path / "own")
    config = FinetuneConfig(name="own", model=tiny().model, data=root, framing="whole",
                            optim=OptimConfig(2, 2, warmup_steps=0))  # fmt: skip
    run = finetune(config, output=tmp_path)
    again = finetune(config, output=tmp_path)
    assert again.result == run.result and str(again).startswith("finished run of 20")
    video = next(path for path in sorted(root.rglob("*")) if path.is_file())
    other = next(p for p in sorted(root.iterdir()) if p.is_dir() and p not in video.parents)
    moved = other / f"moved {video.name}"
    video.rename(moved)
    with pytest.raises(ValueError, match=r"the data changed since .*moved.*--out.*--name"):
        finetune(config, output=tmp_path)
    moved.rename(video)
    assert finetune(config, output=tmp_path).result == run.result
    whole = video.read_bytes()
    video.write_bytes(whole[::-1])
    with pytest.raises(ValueError, match=r"the data changed since .*another content of 1 clip"):
        finetune(config, output=tmp_path)
    video.write_bytes(whole)
    root.rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="no longer exists"):
        assert finetune(config, output=tmp_path).result == run.result


def test_runs_of_earlier_versions_load_when_finished_and_are_refused_when_begun(tmp_path):
    run = pretrain(SHORT, output=tmp_path)
    (run.folder / "data.json").unlink()
    result = {k: v for k, v in run.result.items() if k not in ("sha256", "broken")}
    (run.folder / "result.json").write_text(json.dumps(result))
    assert pretrain(SHORT, output=tmp_path).result == result
    (run.folder / "result.json").rename(run.folder / "checkpoint.pt")
    with pytest.raises(ValueError, match="begun by an earlier version"):
        pretrain(SHORT, output=tmp_path)


def test_a_damaged_file_of_a_finished_run_is_named(tmp_path):
    config = replace(LABELLED, eval_every=2, optim=OptimConfig(4, 8, lr=1.0, warmup_steps=0))
    runs = pretrain(SHORT, output=tmp_path), finetune(config, output=tmp_path)
    for run, load in zip(runs, (load_run, partial(load_finetuned, epoch="best")), strict=True):
        for name in ("model.safetensors", "config.json", "result.json", "best.safetensors"):
            path = run.folder / name
            if not path.exists() or (name == "model.safetensors" and load is not load_run):
                continue
            whole = path.read_bytes()
            content = bytearray(whole[:-20] if name == "result.json" else whole)
            if name != "result.json":  # still to be read, but not what it was
                content[content.index(b"0.0") + 2 if name == "config.json" else -9] ^= 1
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"{name} is damaged or was changed"):
                load(run.folder)
            path.write_bytes(whole)
    begun = FinetuneTask(config, runs[1].model, labelled_data(config), Run(runs[1].folder))
    begun.best = {**runs[1].result["best"], "sha256": "of the file that was written"}
    with pytest.raises(ValueError, match=r"best\.safetensors is damaged"):  # once taken at the end
        begun.test_scores()


def test_a_state_of_another_run_is_not_trained_on(tmp_path):
    with pytest.raises(FloatingPointError):
        train(Toy(toy_config(), spoil=17), Run(tmp_path))
    shutil.copytree(tmp_path, tmp_path / "other")
    with pytest.raises(ValueError, match=f"checkpoint.pt .*it is of the run {tmp_path.name}"):
        Run(tmp_path / "other").load_state()
    other = Toy(toy_config(steps=12))
    with pytest.warns(UserWarning, match=r"step=15 must lie in \[1, 12\]"):
        train(other, Run(tmp_path))
