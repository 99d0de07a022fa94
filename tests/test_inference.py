"""Any video in: crops, predictions, embeddings, reconstructions; and what is said of bad input."""

# pyright: reportArgumentType=false, reportCallIssue=false

import json
import re
import shutil
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from making_videos import cut, moving_frames, write_images, write_sound, write_video
from PIL import Image, ImageDraw

from maedfer_lab.checkpoints.official import to_official
from maedfer_lab.checkpoints.saving import save_pretrained
from maedfer_lab.cli import main
from maedfer_lab.config import FinetuneConfig, OptimConfig, tiny
from maedfer_lab.data import writing
from maedfer_lab.data.faces import FaceBox, NoFaceError
from maedfer_lab.data.folder import sample_clip
from maedfer_lab.data.prepare import prepare
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.stills import Stills
from maedfer_lab.data.table import read_annotations, split_people
from maedfer_lab.figures import draw_rows
from maedfer_lab.files import file_sha256
from maedfer_lab.inference import reconstruct as reconstructing
from maedfer_lab.inference.embed import embed, encode
from maedfer_lab.inference.faces import open_faces
from maedfer_lab.inference.judge import judge
from maedfer_lab.inference.known_model import known_model
from maedfer_lab.inference.predict import predict, save_prediction
from maedfer_lab.inference.reconstruct import reconstruct
from maedfer_lab.method.models import build_autoencoder, build_classifier
from maedfer_lab.runs import Run
from maedfer_lab.training.finetune import finetune
from maedfer_lab.training.held_out import content_of
from maedfer_lab.training.pretrain import PretrainTask, pretrain


def everywhere(frame):
    """A detector that takes the middle of any picture for a face."""
    height, width = frame.shape[:2]
    return [FaceBox(width / 4, height / 4, width / 2, height / 2, 1.0)]


def slow_frames(num):
    """Frames that change, but not like a cut of the scene."""
    return moving_frames(1).repeat(num, 0) // 2 + moving_frames(num) // 4


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    model = build_autoencoder(tiny().model, tiny().target)
    return save_pretrained(model, tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = save_pretrained(
        build_classifier(tiny().model, 3), tmp_path_factory.mktemp("classifier")
    )
    card = {"name": "little", "stride": 2, "classes": ["glad", "cross", "calm"],
            "synthetic": False, "training": "made up for a test"}  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "my face.mp4", slow_frames(60))


@pytest.mark.parametrize("num", [1, 5, 16, 17, 60])
def test_windows_cover_every_frame_of_a_stretch(num, tmp_path):
    path = write_images(tmp_path / "frames", np.full((num, 48, 64, 3), 90, np.uint8))
    faces = open_faces(path, 32, detect=everywhere, progress=False)
    windows = faces.windows(tiny().model, stride=2)
    assert all(len(w.frames) == 8 and w.frames.max() < num for w in windows)
    assert windows[0].start_s == 0 and windows[-1].end_s == pytest.approx(num / 25)
    ends = [0.0, *(w.end_s for w in windows)]
    assert all(w.start_s <= end for w, end in zip(windows, ends, strict=False)), "no gap"
    assert faces.clip(windows[-1]).shape == (3, 8, 32, 32)


@pytest.mark.parametrize(("stride", "hop"), [(2, None), (3, 1), (2, 40), (1, 5)])
def test_overlapping_windows_read_every_frame_once_from_front_to_back(
    stride, hop, video, monkeypatch
):
    """Going back means decoding again: 14 times over in a film with few key frames."""
    faces = open_faces(video, 32, detect=everywhere, progress=False)
    windows = faces.windows(tiny().model, stride, hop)
    expected = torch.stack([faces.clip(window) for window in windows])
    asked, crops = [], type(faces.videos[0])
    read = crops.read
    monkeypatch.setattr(crops, "read", lambda self, n: (asked.extend(n), read(self, n))[1])
    parts = list(faces.clips(windows[::-1], batch=3))
    assert [window for part, _ in parts for window in part] == windows
    torch.testing.assert_close(torch.cat([clips for _, clips in parts]), expected, rtol=0, atol=0)
    assert asked == sorted(set(asked))


def test_what_a_file_does_not_tell_of_its_model_is_said(tmp_path):
    model = build_classifier(replace(tiny("vit").model, size_px=16, num_heads=1), 3)
    torch.save({"model": to_official(model), "args": {"input_size": 16}}, tmp_path / "a.pth")
    said = str(known_model(tmp_path / "a.pth"))
    assert "frames: as published; num_heads: as models" in said and "size_px" not in said


def test_what_limits_a_reading_is_said_with_it(autoencoder, tmp_path):
    """Two people, a small, tilted or single picture, a clip too short, one without colours."""
    interlaced = {"x264-params": "tff=1"}
    short = write_video(tmp_path / "short.mp4", slow_frames(5), options=interlaced)
    (still,) = Path(write_images(tmp_path / "one", moving_frames(1)[:, :24, :24])).iterdir()

    def two(frame):
        return [box for left in (0, 30) for box in [FaceBox(left, 10.0, 20.0, 25.0, 1.0, 35.0)]]

    said = embed([short], autoencoder, levels=("clip",), detect=two, progress=False).remarks
    for words in (
        "2 faces",
        "tilted by about 35 degrees",
        "repeat its last",
        "a video with interlaced",
    ):
        assert any(words in one for one in said), said
    out = reconstruct(still, tmp_path / "a.png", checkpoint=autoencoder, detect=everywhere,
                      progress=False)  # fmt: skip
    assert all(words in out.remark for words in ("enlarged to 32", "a single picture"))
    assert "grey" not in out.remark and "25 frames a second assumed" in str(out)
    path = write_images(tmp_path / "grey", moving_frames(20)[..., :1].repeat(3, -1))
    assert "grey" in reconstruct(path, checkpoint=autoencoder, detect=everywhere).remark
    assert "They are dark (mean 9 of 255)" in str(NoFaceError("a", [0], [np.full((4, 4, 3), 9)]))


@pytest.mark.parametrize("hop", [1, 7, None, 40])
def test_a_prediction_is_the_models_and_of_a_frame_the_mean_of_its_windows(hop, classifier, video):
    """Asked for at every frame of a film, so not by going through all windows."""
    found = predict(video, classifier, hop=hop, detect=everywhere, progress=False)
    clips = torch.stack([found.faces.clip(w) for w in found.windows])
    expected = known_model(classifier).model(clips).softmax(1).detach().numpy()
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    for frame in range(60):
        second = found.faces.tracks.second(frame)
        inside = [i for i, w in enumerate(found.windows) if w.start_s <= second < w.end_s]
        said = found.at(frame)
        assert (said is None) == (not inside)
        if said is not None:
            np.testing.assert_array_equal(said, found.probabilities[inside].mean(0))
    text = f"{found.known}\n{found}"
    assert all(part in text for part in ("glad", "little", "made up for a test", "100%"))


def test_times_are_those_of_the_file_where_the_frame_rate_varies(classifier, tmp_path):
    times = np.concatenate([np.arange(20) / 25, 0.8 + np.arange(20) / 5])
    path = tmp_path / "#1, uneven.mp4"
    writing.write_video(path, slow_frames(40), 25.0, times)
    result = save_prediction(
        predict(path, classifier, detect=everywhere, progress=False), tmp_path, "out"
    )
    table = pd.read_csv(result.files[0], comment="#")
    first = [w.frames[0] for w in result.windows]
    np.testing.assert_allclose(table.start_s, times[first], atol=2e-3)
    assert table.end_s.iloc[-1] == pytest.approx(4.8, abs=2e-3)
    assert set(table.video) == {path.name} and len(result.timeline()["crops"]) == 8
    np.testing.assert_allclose(open_video(result.files[2], "pyav").times, times, atol=2e-3)


def test_embeddings_have_every_level_in_the_order_of_frames_rows_and_columns(
    autoencoder, classifier, video
):
    """Regions are encoded one after the other; what is handed out is not."""
    for folder in (autoencoder, classifier):
        known = known_model(folder)
        found = embed([video, video], folder, levels=("clip", "rep", "regions", "token"),
                      detect=everywhere, progress=False)  # fmt: skip
        num, half = len(found.video), len(found.video) // 2
        assert {name: x.shape for name, x in found.arrays.items()} == {
            "clip": (num, 32), "rep": (num, 4, 32), "regions": (num, 128), "token": (num, 64, 32)
        }  # fmt: skip
        np.testing.assert_array_equal(found.arrays["clip"][:half], found.arrays["clip"][half:])
        assert ("maedfer probe" in str(found)) == (folder == autoencoder)
        faces = open_faces(video, 32, detect=everywhere, progress=False)
        clip = faces.clip(faces.windows(known.model.config, known.stride)[0])[None]
        with torch.no_grad():
            encoded = known.model.encoder(clip)
        tokens, rep = found.arrays["token"][0], found.arrays["rep"][0]
        np.testing.assert_allclose(tokens[encoded.index[0]], encoded.tokens[0], atol=1e-5)
        np.testing.assert_allclose(rep, encoded.rep_tokens[0], atol=1e-5)
    with pytest.raises(ValueError, match="no representative tokens"):
        encode(build_autoencoder(replace(tiny().model, encoder="vit")), clip, ["rep"])


@pytest.mark.parametrize("suffix", [".png", ".html", ".gif", ".mp4", "$b_{x}$ \\frac.png"])
def test_a_reconstruction_is_written_in_every_format(
    autoencoder, video, tmp_path, monkeypatch, suffix
):
    drawn = []
    monkeypatch.setattr(
        reconstructing, "draw_rows", lambda *given: drawn.append((given[1], draw_rows(*given)))
    )
    out = tmp_path / f"out{suffix}"
    video = str(shutil.copy(video, out.with_suffix(".in")))
    for ratio in (0.75, None):  # a first look hides half, and shows the paper's ratio too
        done = reconstruct(video, str(out), checkpoint=autoencoder, mask_ratio=ratio,
                           detect=everywhere, progress=False)  # fmt: skip
        assert abs(float((done.result.error > 0).mean()) - (ratio or 0.55)) < 0.1
        assert out.stat().st_size > 500 and str(out) in str(done) and "appearance loss" in str(done)
        for labels, figure in drawn[-1:]:
            assert done.known.footer in " ".join(figure.get_supxlabel().split())
            frames = [f"frame {i}" for i in (1, 3, 5, 7)]  # as the viewers count them
            assert labels == frames if ratio else all("hidden" in x for x in labels)


def test_the_commands_write_their_files(classifier, autoencoder, tmp_path, capsys):
    clip = str(sample_clip())
    out = tmp_path / "said"
    assert main(["predict", clip, clip, "--checkpoint", str(classifier), "--out", str(out)]) == 0
    assert "made up for a test" in capsys.readouterr().out
    names = sorted(path.name for path in out.iterdir())
    stem = Path(clip).stem
    assert names == sorted(f"{s}.{e}" for s in (stem, f"{stem}-2") for e in ("csv", "png", "mp4"))
    table = pd.read_csv(out / f"{stem}.csv", comment="#")
    assert table[["glad", "cross", "calm"]].to_numpy().sum(1) == pytest.approx(1, abs=1e-5)
    written, read = open_video(out / f"{stem}.mp4"), open_video(clip)
    assert len(written) == 120
    corners = [video.read([0])[0][-12:, :120].astype(int) for video in (written, read)]
    assert np.abs(corners[0] - corners[1]).mean() > 30  # what it is not for stands there
    path = tmp_path / "e.npz"
    assert main(["embed", clip, "--checkpoint", str(autoencoder), "--out", str(path)]) == 0
    with np.load(path) as stored:
        assert stored["clip"].shape[1] == 32 and "model" in json.loads(str(stored["about"]))


def grey(path: Path) -> Path:
    return write_video(path, np.full((30, 64, 64, 3), 120, np.uint8))


def drawing(path: Path) -> Path:
    picture = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(picture).ellipse((30, 30, 170, 170), outline="black")
    picture.save(path)
    return path


def text(path: Path) -> Path:
    path.write_text("this is no video")
    return path


BAD = {
    "sound.mp4": (write_sound, "sound"),
    "text.txt": (text, "text file|not a video"),
    "folder": (lambda p: (p.mkdir(), p)[1], "empty folder"),
    "folders": (lambda p: ((p / "a").mkdir(parents=True), p)[1], "no jpg or png.*give a video"),
    "grey.mp4": (grey, "no face was found"),
    "drawing.png": (drawing, "no face was found"),
    "broken.jpg": (text, "broken"),
    "cut.mp4": (lambda p: cut(p, write_video(p, moving_frames(40)), 0.6), "cut off|ends early"),
}


@pytest.mark.parametrize("verb", ["reconstruct", "predict", "embed"])
@pytest.mark.parametrize("name", BAD)
def test_unsuitable_input_ends_in_a_sentence(verb, name, autoencoder, classifier, tmp_path, capsys):
    make, message = BAD[name]
    path = make(tmp_path / name)
    folder = classifier if verb == "predict" else autoencoder
    out = {"reconstruct": "o/r.png", "predict": "o", "embed": "o/e.npz"}[verb]
    status = main([verb, str(path), "--checkpoint", str(folder), "--out", str(tmp_path / out)])
    said = capsys.readouterr().err.splitlines()[-1]
    assert status == 2 and re.search(message, said) and "Traceback" not in said, said
    if "no face" in message:
        assert "_no_face.png" in said and list((tmp_path / "o").glob("*_no_face.png"))


@pytest.mark.parametrize("verb", ["predict", "embed"])
def test_videos_that_fail_do_not_hide_the_others(verb, classifier, tmp_path, capsys):
    clip, out = sample_clip(), tmp_path / "out"
    where, written = (out, f"{clip.stem}.csv") if verb == "predict" else (out / "e.npz", "e.npz")
    (tmp_path / "folder").mkdir()
    videos = (grey(tmp_path / "a.mp4"), tmp_path / "b.mp4", clip, tmp_path / "folder")
    status = main([verb, *map(str, videos), "--checkpoint", str(classifier), "--out", str(where)])
    refused = [x for x in capsys.readouterr().err.splitlines() if x.startswith(f"maedfer {verb}: ")]
    words = ("a_no_face.png", "b.mp4: there is no such file", "folder: it is an empty folder")
    assert status == 2 and all(part in x for part, x in zip(words, refused, strict=True)), refused
    assert (out / "a_no_face.png").exists() and (out / written).exists()


def test_a_model_of_drawn_faces_is_used_on_demand_alone(video, tmp_path, capsys):
    """It says "fear 71 %" of anybody: 11.8 % right on real people, chance 14.3."""
    assert main(["predict", str(video), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "demo-expressions" in said and "--drawn-model" in said
    done = predict(video, detect=everywhere, drawn_model=True, progress=False)
    assert "not for real use" in str(done.known)


def test_a_calibrated_model_says_how_often_it_is_right_or_that_it_is_not_sure(
    classifier, video, tmp_path
):
    plain = predict(video, classifier, detect=everywhere, progress=False)
    assert "times in 10" not in str(plain), "0.71 is no share of right answers"
    folder = shutil.copytree(classifier, tmp_path / "calibrated")
    calibration = {"of": "posed faces", "temperature": 2.0, "sure": 0.0}

    def calibrated(**changes):
        card = json.loads((classifier / "card.json").read_text())
        card["calibration"] = calibration | changes
        (folder / "card.json").write_text(json.dumps(card | {"framing": "official"}))
        return predict(video, folder, detect=everywhere, framing="wide", progress=False)

    for changes in ({"temperature": 0}, {"sure": "x"}, {"colour": 1}):
        with pytest.raises(ValueError, match=r"card\.json is damaged"):
            calibrated(**changes)
    done = calibrated()
    flatter = plain.probabilities**0.5
    np.testing.assert_allclose(
        done.probabilities, flatter / flatter.sum(1, keepdims=True), rtol=1e-4
    )
    assert "times in 10)" in str(done) and "posed faces" in str(done.known)
    assert {row["guess"] for row in calibrated(sure=0.999).rows()} == {"not sure"}
    closer = predict(video, folder, detect=everywhere, progress=False)
    assert closer.faces.videos[0].squares[0][2] < done.faces.videos[0].squares[0][2]


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_a_runs_own_class_names_are_told(name, tmp_path):
    optim = OptimConfig(steps=2, batch_size=4, lr=0.01, warmup_steps=1)
    config = FinetuneConfig(model=tiny().model, optim=optim, num_clips=14, num_test=7)
    run = finetune(config, output=tmp_path)
    known = known_model(run.folder / name)
    assert known.classes == tuple(run.result["classes"]) and known.synthetic
    (run.folder / "result.json").unlink()  # as if it were still training
    state = {"model": run.model.state_dict(), "step": 1, "log": []}
    Run(run.folder).save_state(state)
    begun = known_model(run.folder / (name and "checkpoint.pt"))
    assert begun.classes == known.classes and begun.synthetic and "not finished" in str(begun)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, c, v: predict(v, a, detect=everywhere), "cannot predict.*fine-tuned"),
        (lambda a, c, v: reconstruct(v, checkpoint=c, detect=everywhere), "without decoder"),
        (lambda a, c, v: reconstruct(v, v / "x.png", checkpoint=a), r"cannot write .*--out"),
        (lambda a, c, v: reconstruct(v, checkpoint=a, detect=lambda _: []), "no face was found"),
        (lambda a, c, v: predict(v, c, labels="dfew", detect=everywhere), "7 classes, the model 3"),
        (lambda a, c, v: predict(v, c, framing="tight", detect=everywhere), "framing='tight'"),
        (lambda a, c, v: predict(v, c, face=3, detect=everywhere), r"face=3 must lie in \[0, 1\)"),
        (lambda a, c, v: reconstruct(v, Path("x.bmp"), checkpoint=a), "must end in .png"),
        (lambda a, c, v: embed([], a), "at least one"),
        (lambda a, c, v: predict(v, c, stride=0, detect=everywhere), "stride=0"),
        (lambda a, c, v: reconstruct(v, checkpoint=a, stride=0, detect=everywhere), "stride=0"),
        (lambda a, c, v: reconstruct(v, checkpoint=a, at_s=9, detect=everywhere), "at_s=9.*2.40"),
    ],
)
def test_wrong_requests_say_what_would_work(call, message, autoencoder, classifier, video):
    with pytest.raises((ValueError, OSError), match=message):
        call(autoencoder, classifier, video)


def test_an_uploaded_video_is_kept_for_the_session_only(tmp_path, monkeypatch):
    from maedfer_lab.viewers import upload as module

    default = tmp_path / "default.mp4"
    upload = module.VideoUpload(default)

    def send(name, content, size=None, offset=0):
        piece = {"name": name, "size": size or len(content), "offset": offset}
        upload._receive(upload, piece, [memoryview(content)])
        return upload.path

    for _ in range(2):  # begun anew: what was never ended goes
        assert send("../../my face.mp4", b"abc", size=5) == default, "not yet whole"
    assert len([*Path(upload._folder.name).glob("*/*")]) == 1
    path = send("../../my face.mp4", b"de", size=5, offset=3)
    assert (path.name, path.read_bytes()) == ("my face.mp4", b"abcde")
    assert Path(upload._folder.name).stat().st_mode & 0o777 == 0o700
    assert send("a/..", b"x").name == "video" and not path.exists(), "the one before is gone"
    kept = send("\u9854" * 200 + ".mp4", b"x")
    assert kept.is_file()  # a name of 600 bytes is too long for a file
    for words, bad in (("wrong order", {"offset": 2, "size": 4}), ("at most", {"size": 2**30})):
        assert send("b.mp4", b"xy", **bad) == kept and words in str(upload.progress["text"])
    upload._receive(upload, {"path": " ~/other.mp4 "}, [])
    assert upload.path == Path.home() / "other.mp4"
    upload._folder.cleanup()
    assert not kept.exists()
    monkeypatch.setenv("VOILA_REQUEST_URL", "http://127.0.0.1:8866/")
    visitor = module.VideoUpload(default)
    visitor._receive(visitor, {"path": "/etc/passwd"}, [])
    assert not visitor.typable and visitor.path == default, "a visitor of the app types no path"


def test_a_folder_is_judged_by_masks_that_depend_on_a_clips_content_alone(
    video_folder, autoencoder, tmp_path
):
    """One mask a clip, by its place in the folder, gave 35 or 53 for the same six clips."""
    (tmp_path / "one").mkdir()
    shutil.copy(video_folder / "clip 3.mp4", tmp_path / "one" / "other name.mp4")
    alone, done = (judge(folder, autoencoder, mask_ratios=(0.875, 0.77), stride=2,
                         picture=tmp_path / "judged.png")
                   for folder in (tmp_path / "one", video_folder))  # fmt: skip
    for kind in ("appearance", "motion"):
        (ours,) = alone.by_person[0.875]["model"][kind]
        assert ours == pytest.approx(done.by_person[0.875]["model"][kind][3], rel=1e-4)
    assert "no face was found in 5 of these videos" in str(done)
    assert done.losses.keys() == {0.875, 0.75} and (tmp_path / "judged.png").exists()
    assert "Mask ratio 0.77" in str(done) and "6 of 8 places" in str(done)
    assert main(["judge", str(video_folder), "--checkpoint", str(autoencoder), "--held-out", ".4",
                 "--mask-ratios", "0.75"]) == 0  # fmt: skip


def test_videos_in_which_nothing_moves_are_judged_without_a_number_for_motion(
    autoencoder, tmp_path
):
    """They gave "nan% below zero [nan, nan]"."""
    for i, name in enumerate("ab"):
        write_images(tmp_path / "still" / name, np.repeat(moving_frames(20)[9 * i, None], 20, 0))
    said = str(judge(tmp_path / "still", autoencoder, stride=2))
    assert "motion" in said and "zero is exact" in said and "nan" not in said


def test_a_prepared_set_is_judged_and_says_that_training_clips_are_not_told_apart(
    video_folder, autoencoder, tmp_path
):
    table = read_annotations("voxceleb2", video_folder)
    prepare(table, tmp_path / "out", size_px=32, framing="whole", workers=0, progress=False)
    done = judge(tmp_path / "out", autoencoder, stride=2)
    assert len(done.videos) == 5 and "of a prepared set" in str(done)


def test_every_person_counts_once_and_those_trained_on_are_left_out(
    video_folder, autoencoder, tmp_path
):
    each = judge(video_folder, autoencoder, stride=2).by_person[0.875]["model"]["appearance"]
    folder, model = tmp_path / "people", tmp_path / "model"
    shutil.copytree(video_folder, folder)
    people = "".join(f"clip {i}.mp4,{'ann' if i < 3 else f'b{i}'}\n" for i in range(5))
    (folder / "MANIFEST.csv").write_text("file,identity\n" + people)
    done = judge(folder, autoencoder, stride=2)
    ours = done.by_person[0.875]["model"]["appearance"]
    assert ours == pytest.approx([each[:3].mean(), each[3], each[4]], rel=1e-5)
    value, low, high = done.below(0.875, "motion")
    assert low <= value <= high and "5 videos of 3 people" in str(done)

    shutil.copytree(autoencoder, model)
    digest = content_of(folder / "clip 4.mp4").hex()[:16]
    (model / "card.json").write_text(json.dumps({"trained_files": [digest]}))
    left = judge(folder, model, stride=2)
    assert [path.name for path in left.left_out] == ["clip 4.mp4"] and len(left.videos) == 4
    assert "1 videos, e.g. clip 4.mp4" in str(left)

    run = pretrain(tiny(), output=tmp_path).folder
    config = json.loads((run / "config.json").read_text()) | {"data": str(folder), "held_out": 0.4}
    (run / "config.json").write_text(json.dumps(config))
    result = json.loads((run / "result.json").read_text())
    result["sha256"]["config.json"] = file_sha256(run / "config.json")  # as if it had been so
    (run / "result.json").write_text(json.dumps(result))
    table = read_annotations("voxceleb2", folder)
    (run / "data.json").write_text(json.dumps(table.summary()))
    held = split_people(table.people(), 0.4, config["seed"])[1]
    names = {table.clips[i].path.name for i in held}
    assert {path.name for path in judge(folder, run).videos} == names

    going_on = replace(tiny(), data=folder, held_out=0.4, init=run)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "clip|people")
        PretrainTask(going_on)
    with pytest.warns(UserWarning, match="was trained on .* held-out videos"):
        PretrainTask(replace(going_on, seed=1))


def test_held_out_portraits_are_judged_as_their_training_split_them(autoencoder, tmp_path):
    rng, rows = np.random.default_rng(0), []
    with zipfile.ZipFile(tmp_path / "people.zip", "w") as archive:
        for i in range(12):
            picture = rng.integers(0, 255, (20, 20, 3), np.uint8)
            archive.writestr(f"{i}.png", cv2.imencode(".png", picture)[1].tobytes())
            rows.append(f"{i}.png,{f'p{i // 2}' if i < 10 else ''}\n")
    (tmp_path / "people.csv").write_text("file,identity\n" + "".join(rows))
    stills = (tmp_path / "people.zip",)
    table = Stills(stills)
    done, again = (judge(None, autoencoder, held_out=0.5, stills=stills) for _ in range(2))
    people = table.people()
    held = {people[i] for i in split_people(people, 0.5, 0)[1]}
    assert set(done.people) == held & {f"p{i}" for i in range(5)} and "50% of all" in str(done)
    assert len(set(done.people)) == len(done.videos), "one picture of each person"
    assert done.losses == again.losses
    with pytest.raises(ValueError, match="give a folder of videos, or zips of portraits"):
        judge(tmp_path, autoencoder, stills=stills)
    (tmp_path / "people.csv").write_text("file\n" + "".join(f"{i}.png\n" for i in range(12)))
    with pytest.raises(ValueError, match="no list has a column `identity`"):
        judge(None, autoencoder, stills=stills)
