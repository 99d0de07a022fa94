"""Viewers without a browser: what they compute, refuse, send and leave behind."""

import io
import json
import re
import threading
import time
from dataclasses import replace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from maedfer_lab.config import ModelConfig, TargetConfig, demo, tiny
from maedfer_lab.config.model import EncoderKind
from maedfer_lab.data.writing import encode_video
from maedfer_lab.method.grid import Grid
from maedfer_lab.method.masking import misplaced_tokens, region_tube_mask
from maedfer_lab.method.models import build_autoencoder, build_classifier, model_mask
from maedfer_lab.method.reconstruction import reconstruct_clip
from maedfer_lab.viewers import AttentionViewer, MaskingViewer, ReconstructionViewer
from maedfer_lab.viewers.export import sweep
from maedfer_lab.viewers.masking import preset_places, published_faults, toggle_tube
from maedfer_lab.viewers.reconstruction import describe_losses

CONFIG = tiny().model
HOSTILE = "</script><script>alert('1')</script>\"\n$\\frac$\u2028.mp4"


def clip_of(config: ModelConfig = CONFIG, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, config.frames, config.size_px, config.size_px, generator=generator)


def autoencoder(encoder: EncoderKind = "lgi", **target):
    return build_autoencoder(tiny(encoder).model, replace(tiny().target, **target))


def viewer_of(*, encoder: EncoderKind = "lgi", clips=None, **options):
    return ReconstructionViewer(autoencoder(encoder), clips or clip_of(), **options)


def ask(viewer, name, value, serial=1):
    """What the browser sends."""
    viewer._receive(viewer, {"name": name, "value": value, "serial": serial}, [])
    viewer.wait()


def status_text(viewer) -> str:
    return str(viewer.status["text"])


def sheet_of(viewer):
    return np.asarray(Image.open(io.BytesIO(viewer.sprite)).convert("RGB"))


# ---------------------------------------------------------------------- reconstruction


def test_the_sprite_holds_seven_pictures_and_the_truth_among_them():
    viewer = viewer_of(ratio=0.75)
    height, width = viewer.scene["tile"]
    sheet = sheet_of(viewer)
    assert sheet.shape == (7 * height, CONFIG.frames * width, 3)
    expected = reconstruct_clip(viewer.models["model"], clip_of(), viewer.mask)
    first = sheet[:, :width].reshape(7, height, width, 3).astype(int)
    is_visible = (expected.masked[0] == expected.original[0]).all(-1)
    for row in (2, 5, 6):  # the model says nothing of visible cubes
        assert (first[row][is_visible] == 245).all()
    assert (first[1][is_visible] == first[0][is_visible]).all()
    hidden = first[1][~is_visible]
    assert set(hidden.ravel()) == {98, 158}, "hatched: the same grey stands for nothing else"
    for frame in (0, CONFIG.frames - 1):
        tile = sheet[:, frame * width :][:height, :width]
        assert np.abs(tile - (expected.original[frame] * 255).round()).max() <= 1
    assert [row["label"] for row in viewer.scene["rows"]] == [
        "original", "masked input", "reconstruction", "with visible cubes",
        "motion target", "predicted motion", "error per cube",
    ]  # fmt: skip
    assert np.array_equal(np.frombuffer(viewer.table, "<f4"), viewer.result.error.ravel())


def test_a_reconstruction_that_was_computed_is_shown_and_not_computed_again(monkeypatch):
    model, asked = autoencoder(), ReconstructionViewer(autoencoder(), clip_of(), ratio=0.75, seed=3)
    monkeypatch.setattr("maedfer_lab.viewers.reconstruction.reconstruct_clip", None)
    given = ReconstructionViewer(model, clip_of(), ratio=0.75, seed=3, result=asked.result)
    assert given.sprite == asked.sprite and given.scene == asked.scene


@pytest.mark.parametrize("encoder", ["lgi", "vit"])
def test_a_click_hides_and_shows_a_tube(encoder):
    viewer = viewer_of(encoder=encoder, ratio=0.75)
    place = int(viewer.mask[:16].nonzero()[0])
    before, windows = int((~viewer.mask).sum()), 2 if encoder == "lgi" else 1
    ask(viewer, "tube", place)
    assert not viewer.mask.view(4, 16)[:, place].any(), "shown at all times"
    assert int((~viewer.mask).sum()) == before + 4 * windows == viewer.scene["visible"]
    ask(viewer, "tube", place, 2)
    assert viewer.mask.view(4, 16)[:, place].all()
    assert int((~viewer.mask).sum()) == before and viewer.status["serial"] == 2


def test_a_stroke_paints_and_is_undone_at_once():
    viewer = viewer_of(ratio=0.5)
    before = viewer.mask.clone()
    row = [{"place": place, "hide": True, "stroke": 7} for place in range(4)]
    for serial, cube in enumerate([*row, row[0]], start=1):
        ask(viewer, "paint", cube, serial)
        assert not viewer.status.get("error"), viewer.status
    assert viewer.mask.view(4, 16)[:, :4].all()
    ask(viewer, "history", "undo", 9)
    assert torch.equal(viewer.mask, before)
    ask(viewer, "history", "undo", 10)
    assert viewer.status["error"] and "undone" in status_text(viewer)
    ask(viewer, "seed", 4, 11)
    ask(viewer, "history", "reset", 12)
    assert torch.equal(viewer.mask, before) and viewer.settings.seed == 0


@pytest.mark.parametrize("encoder", ["lgi", "vit"])
def test_presets_hide_eyes_mouth_and_shares(encoder):
    config = demo().model
    grid, region = Grid(8, 10, 10), config.region if encoder == "lgi" else None
    eyes = preset_places("eyes", grid, region).view(10, 10)
    assert eyes[4, 2:8].all() and not eyes[[0, 1, 2, 3, 5, 6, 7, 8]].any()
    assert int(eyes.sum()) == (12 if region else 6), "the same places in the other region"
    mouth = preset_places("mouth", grid, region).view(10, 10)
    assert mouth[6:8, 3:7].all()
    viewer = viewer_of(encoder=encoder)
    for value, hidden in (("0.5", 0.5), ("0.75", 0.75), ("eyes", None), ("mouth", None)):
        ask(viewer, "preset", value)
        assert not viewer.status.get("error"), viewer.status
        assert hidden is None or float(viewer.mask.float().mean()) == hidden
    windows = viewer.mask.view(4, 2, 2, 2, 2).sum((2, 4))
    assert (windows == windows[0, 0, 0]).all() or encoder == "vit"


def test_two_masks_and_two_checkpoints_stand_side_by_side():
    models = {"one": autoencoder(), "two": autoencoder("vit")}
    viewer = ReconstructionViewer(models, clip_of(), ratio=0.75)
    ask(viewer, "beside", "two")
    labels = [row["label"] for row in viewer.scene["rows"]]
    assert labels == ["original", *(f"{x}: {name}" for x in "AB" for name in
                      ("masked input", "with visible cubes", "error per cube"))]  # fmt: skip
    assert "maedfer_lab, one, two, small model" in viewer.scene["footer"]
    assert [v["label"] for v in viewer.scene["values"]] == ["A: error", "B: error"]
    assert len(viewer.table) == 2 * 4 * 64
    assert viewer.scene["readout"]["table"][0][1:] == [
        "A: appearance", "A: motion", "B: appearance", "B: motion"]  # fmt: skip
    kept = next(c for c in viewer.controls if c["name"] == "beside")["options"][1]["value"]
    ask(viewer, "beside", kept)
    first = viewer.scene["hidden"]
    ask(viewer, "seed", 8)
    rows = {row["label"][0]: row["hidden"] for row in viewer.scene["rows"][1:]}
    assert rows["B"] == first != rows["A"] == viewer.scene["hidden"]
    large = build_autoencoder(replace(CONFIG, size_px=64), tiny().target)
    other = ReconstructionViewer({"one": models["one"], "large": large}, clip_of())
    ask(other, "beside", "large")
    assert other.status["error"] and len(other.scene["rows"]) == 7


@pytest.mark.parametrize("region", [None, (2, 2, 4), (4, 2, 2), (1, 4, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_clicks_keep_regions_equal(region, seed):
    """Any walk of clicks leaves equally many visible in each window, or says why not."""
    grid, generator = Grid(4, 4, 4), torch.Generator().manual_seed(seed)
    rh, rw = (4, 4) if region is None else region[1:]
    hidden = region_tube_mask(grid, (1, rh, rw), 0.5, generator=generator)[0, :16]
    for place in torch.randint(0, 16, (40,), generator=generator).tolist():
        was = bool(hidden[place])
        try:
            after, said = toggle_tube(hidden, place, grid, region)
        except ValueError as error:
            assert "must stay" in str(error)
            continue
        assert bool(after[place]) is not was and said.startswith("Shown" if was else "Hidden")
        windows = after.view(4 // rh, rh, 4 // rw, rw).sum((1, 3))
        assert (windows == windows[0, 0]).all() and 0 < int(windows[0, 0]) < rh * rw
        hidden = after


def test_ratios_are_moved_to_ones_that_can_be_equal():
    viewer = viewer_of(ratio=0.8)
    assert viewer.settings.ratio == 0.75 and "0.75 is the nearest" in status_text(viewer)
    steps = next(c for c in viewer.controls if c["name"] == "ratio")
    assert [option["value"] for option in steps["options"]] == [k / 8 for k in range(1, 8)]
    for option in steps["options"]:
        ask(viewer, "ratio", option["value"])
        assert "error" not in viewer.status


@pytest.mark.parametrize("ratio", [0, 1, -0.5, float("nan"), "0.9", True])
def test_ratios_that_hide_all_or_nothing_are_refused(ratio):
    with pytest.raises(ValueError, match=r"ratio=.* must lie between 0 and 1 .*try 0\.9"):
        viewer_of(ratio=ratio)


def test_of_many_changes_the_last_one_is_shown_and_none_is_lost(monkeypatch):
    viewer = viewer_of(ratio=0.75)
    begun, go_on, looks = threading.Event(), threading.Event(), []
    look = viewer._look

    def slow(wanted):
        looks.append(wanted)
        begun.set()
        assert go_on.wait(20)
        return look(wanted)

    monkeypatch.setattr(viewer, "_look", slow)
    old = viewer.sprite
    send = lambda name, value, serial: viewer._receive(  # noqa: E731
        viewer, {"name": name, "value": value, "serial": serial}, []
    )
    send("seed", 1, 1)
    assert begun.wait(20)
    send("ratio", 0.5, 2)
    for serial in range(3, 30):
        send("seed", serial, serial)
    assert viewer.status["state"] == "working" and viewer.sprite == old, "the old picture stays"
    go_on.set()
    viewer.wait()
    assert len(looks) == 2, "what came between is not computed"
    assert (viewer.settings.seed, viewer.settings.ratio) == (29, 0.5), "the ratio was not lost"
    assert viewer.status == {"state": "idle", "serial": 29, "text": ""}


def test_what_goes_wrong_is_said_in_the_widget_and_the_picture_stays():
    small = autoencoder()
    large = build_autoencoder(replace(CONFIG, size_px=64), tiny().target)
    viewer = ReconstructionViewer({"small": small, "large": large}, clip_of())
    old, controls = viewer.sprite, viewer.controls
    for serial, (name, value, said) in enumerate(
        [
            ("model", "large", "does not fit this model"),
            ("model", HOSTILE, "is not known"),
            ("seed", -1, "whole number"),
            ("seed", None, "whole number"),
            ("tube", 99, "place of the frame"),
            ("ratio", 1, "between 0 and 1"),
            ("nonsense", 1, "nothing that can be set"),
        ],
        start=1,
    ):
        ask(viewer, name, value, serial)
        assert said in status_text(viewer) and viewer.status["error"], name
        assert viewer.status["serial"] == serial and viewer.status["state"] == "idle"
    assert viewer.sprite == old and viewer.controls == controls
    ask(viewer, "seed", 5, 20)
    assert viewer.settings.seed == 5 and viewer.settings.model == "small"
    for message in (None, "x", {}, {"name": "seed"}, {"name": 1, "value": 2, "x": 3}):
        viewer._receive(viewer, message, [])
    assert viewer.settings.seed == 5


@pytest.mark.parametrize(
    ("clip", "told"),
    [
        (clip_of(replace(CONFIG, size_px=64)), "does not fit this model"),
        (clip_of(replace(CONFIG, frames=4)), "does not fit this model"),
        (clip_of(replace(CONFIG, frames=1)), "does not fit this model"),
        (clip_of().fill_(float("nan")), "finite"),
        (clip_of() * 255, r"\[0, 1\]"),
        ([], "clips is empty"),
        ({"face": np.zeros(3)}, "not a tensor"),
    ],
)
def test_clips_that_do_not_fit_are_refused(clip, told):
    with pytest.raises(ValueError, match=told):
        ReconstructionViewer(autoencoder(), clip)


@pytest.mark.parametrize("models", [build_classifier(CONFIG, 7), {}, {"a": None}])
def test_a_model_without_decoder_is_refused(models):
    with pytest.raises(ValueError, match=r"no decoder.*MaskedAutoencoder|models is empty"):
        ReconstructionViewer(models, clip_of())


def test_a_clip_of_one_frame_has_no_motion():
    config = replace(CONFIG, frames=1, tubelet=(1, 8, 8), region=(1, 2, 4))
    model = build_autoencoder(config, TargetConfig("imagenet", motion=False))
    viewer = ReconstructionViewer(model, clip_of(config))
    assert viewer.scene["frames"] == 1 and len(viewer.scene["rows"]) == 5
    assert "motion is no target" in " ".join(viewer.view.sentences)


def test_two_hundred_clips_are_a_list_to_choose_from():
    viewer = viewer_of(clips={f"{i} {HOSTILE}": clip_of(seed=i % 3) for i in range(200)})
    picker = next(c for c in viewer.controls if c["name"] == "clip")
    assert len(picker["options"]) == 200
    ask(viewer, "clip", f"150 {HOSTILE}")
    assert viewer.scene["title"].startswith("Reconstruction of 150 </script>")
    assert not any("\n" in option["label"] for option in picker["options"])


def test_statistics_and_token_order_are_said_and_off_where_they_mean_nothing():
    raw = {c["name"]: c for c in viewer_of().controls}
    assert raw["statistics"]["disabled"] and "none" in raw["statistics"]["note"]
    assert {c["name"]: c for c in viewer_of(encoder="vit").controls}["token_order"]["disabled"]
    cube = ReconstructionViewer(autoencoder(units="cube"), clip_of(), ratio=0.75)
    assert "Statistics: visible only" in " ".join(cube.view.sentences)
    cube.set(statistics="true", token_order="published")
    said = " ".join(cube.view.sentences)
    assert "Statistics: true" in said and "Published token order" in said
    assert cube.result.statistics == "true"


def test_the_readout_says_whether_the_model_beats_the_baselines():
    guesses = dict.fromkeys(("interpolation", "nearest", "mean", "zero"), 1.0)

    def said(model):
        losses = {k: {"appearance": v, "motion": v} for k, v in {**guesses, "model": model}.items()}
        return describe_losses(losses, True)[0]

    assert "beats all baselines; 50% lower" in said(0.5)
    assert "no better than" in said(1.0) and "100% higher loss than" in said(2.0)


def test_a_sweep_shows_more_and_more_hidden_and_its_footer():
    model, clip = autoencoder(), clip_of()
    shares = (0.25, 0.75)
    masks = [model_mask(model, share, 1, torch.Generator().manual_seed(0))[0] for share in shares]
    results = [reconstruct_clip(model, clip, mask) for mask in masks]
    with Image.open(io.BytesIO(sweep(results, shares, "not for judging people"))) as moving:
        assert getattr(moving, "n_frames", 1) == 8
        grey = []
        for frame in (0, 7):
            moving.seek(frame)
            given = np.asarray(moving.convert("RGB")).astype(int)[40:220, 20:240]
            grey.append(float((abs(given - 128).max(2) < 6).mean()))
    assert grey[0] < 0.5 < grey[1]


# ---------------------------------------------------------------------- masks


def test_masks_are_shown_with_what_the_published_code_would_do():
    viewer = MaskingViewer(clip_of(demo().model), demo().model)
    grid, region = viewer.grid, viewer.region
    assert list(viewer.masks) == ["random", "tube", "region-equal tube"]
    assert {int(mask.sum()) for mask in viewer.masks.values()} == {720}
    tubes = viewer.masks["tube"].view(8, -1)
    assert (tubes == tubes[0]).all()
    few, many, region_faults, position = published_faults(
        viewer.masks["region-equal tube"], grid, region
    )
    assert few == many == 10 and region_faults == 0
    assert position == misplaced_tokens(grid, region) == 40
    narrow = region_tube_mask(grid, (2, 5, 5), 0.92)[0]
    assert published_faults(narrow, grid, (2, 5, 5))[2] > 0, "regions of part of the width (B2)"
    viewer.set(ratio=0.8, seed=3)
    assert {int(mask.sum()) for mask in viewer.masks.values()} == {640}
    with pytest.raises(ValueError, match="does not divide the token grid"):
        MaskingViewer(clip_of(), CONFIG, region=(3, 3, 3))


# ---------------------------------------------------------------------- attention


@pytest.mark.parametrize("stage", ["local", "inter", "interact", "composed", "rollout"])
def test_attention_sends_every_querys_weights(stage):
    """A row of bytes per query; zeros where the query does not look."""
    models = {"LGI": autoencoder(), "ViT": autoencoder("vit")}
    viewer = AttentionViewer(models, clip_of(), stage=stage)
    grid = viewer.scene["grid"]
    assert grid == [4, 4, 4] and viewer.scene["click"] == "query"
    lgi, vit = viewer.scene["overlays"]
    assert len(viewer.table) == 64 * (len(lgi["tops"]) + len(vit["tops"]))
    assert vit["offset"] == 64 * len(lgi["tops"]) and vit["reps"] == []
    table = np.frombuffer(viewer.table, np.uint8).reshape(-1, 64)
    assert (table.max(1) == 255).all(), "relative to the strongest weight of the query"
    for overlay in (lgi, vit):
        rows = [row for row in overlay["tokens"] + overlay["reps"] if row >= 0]
        assert sorted(rows) == list(range(len(overlay["tops"])))
    if stage == "rollout":  # what a cube keeps of itself is told in words
        return
    joint = table[len(lgi["tops"]) :][vit["tokens"]] / 255 * np.array(vit["tops"])[:, None]
    assert joint.sum(1) == pytest.approx(np.ones(64), abs=0.15), "weights of a query sum to one"


def test_attention_wants_equal_grids_and_known_places():
    other = build_autoencoder(replace(CONFIG, tubelet=(2, 16, 16), region=(2, 1, 2)), tiny().target)
    with pytest.raises(ValueError, match="equal grids"):
        AttentionViewer({"a": autoencoder(), "b": other}, clip_of())
    choices: tuple[dict[str, Any], ...] = (
        {"layer": 2},
        {"head": 5},
        {"query": (9, 0, 0)},
        {"stage": "x"},
    )
    for options in choices:
        with pytest.raises(ValueError, match=next(iter(options))):
            AttentionViewer(autoencoder(), clip_of(), **options)


# ---------------------------------------------------------------------- what is left behind

MAKERS = {
    "reconstruction": lambda: viewer_of(clips={HOSTILE: clip_of()}),
    "masking": lambda: MaskingViewer({HOSTILE: clip_of()}, CONFIG),
    "attention": lambda: AttentionViewer({HOSTILE: autoencoder()}, {HOSTILE: clip_of()}),
}


@pytest.fixture(scope="module", params=MAKERS)
def any_viewer(request):
    return MAKERS[request.param]()


def test_a_page_holds_all_and_takes_names_as_words(any_viewer, tmp_path):
    path = tmp_path / 'it\'s <b> "new"\nline.html'
    text = any_viewer.save_html(path).read_text()
    assert text.count("<script") == text.count("</script") == 2, "no name ends or starts a script"
    assert "alert('1')" not in re.sub(r'<script type="application/json".*?</script>', "", text)
    assert not re.search(r"(?:src|href)=|https?://|@import|url\(", text), "nothing to fetch"
    assert "default-src 'none'" in text
    content = re.search(r'<script type="application/json" id="content">(.*?)</script>', text)
    assert content
    scene = json.loads(content[1])["scene"]
    assert scene == json.loads(json.dumps(any_viewer.scene))
    assert "\n" not in scene["title"] and "</script>" in scene["title"]


def test_a_page_of_the_papers_size_is_small(tmp_path):
    """16 frames of 160 px with noise in every pixel, which nothing compresses, are the worst."""
    config = replace(CONFIG, frames=16, size_px=160, tubelet=(2, 16, 16), region=(2, 5, 10))
    wave = torch.linspace(0, 9, 160)
    still = (wave.sin()[:, None] * wave.cos() + 1) / 2
    clip = torch.stack([still.roll(3 * i, 1) for i in range(16)]).repeat(3, 1, 1, 1)
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    viewer = ReconstructionViewer(
        build_autoencoder(config, tiny().target), (clip + 0.01 * noise).clamp(0, 1)
    )
    assert len(viewer.scene["rows"]) == 7
    assert viewer.save_html(tmp_path / "x.html").stat().st_size < 6e6


def test_figures_and_videos(any_viewer, tmp_path):
    figure = any_viewer.static()
    assert len(figure.axes) == 5 * len(any_viewer.view.rows)
    assert figure._repr_png_()[0][:4] == b"\x89PNG", "names with $ are no mathematics"
    picture = Image.open(any_viewer.save_png(tmp_path / "a.png", frame=1))
    gif: Image.Image = Image.open(any_viewer.save_gif(tmp_path / "a.gif"))
    assert getattr(gif, "n_frames", 1) >= 2 and gif.size == picture.size
    with av.open(str(any_viewer.save_mp4(tmp_path / "a.mp4"))) as video:
        frames = list(video.decode(video=0))
    assert len(frames) >= CONFIG.frames and frames[0].width == picture.width
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.mp4", "a.png"]


def test_the_browser_gets_what_is_saved_and_all_of_it_says_what_it_is_not_for(any_viewer, tmp_path):
    sent = []
    any_viewer.send = lambda content, buffers: sent.append((content["file"], bytes(buffers[0])))
    for kind, start in (("html", b"<!doctype"), ("png", b"\x89PNG"), ("gif", b"GIF8")):
        any_viewer._receive(any_viewer, {"name": "save", "value": kind, "serial": 1}, [])
        deadline = time.monotonic() + 60
        while any_viewer.status["state"] != "idle" and time.monotonic() < deadline:
            time.sleep(0.02)
        name, content = sent.pop()
        assert name.endswith(f".{kind}") and "/" not in name and content.startswith(start)
        if kind == "html":
            assert b"not for judging people" in content
    ask(any_viewer, "save", "exe")
    assert any_viewer.status["error"] and not sent
    footer = any_viewer.view.footer
    assert footer.startswith("maedfer_lab, ") and footer.endswith("not for judging people")


def test_seconds_are_those_of_the_clip_where_they_are_known(tmp_path):
    viewer = viewer_of(fps=6.25)
    assert (viewer.scene["fps"], viewer.scene["timed"]) == (6.25, True)
    assert not viewer_of().scene["timed"]
    gif: Image.Image = Image.open(viewer.save_gif(tmp_path / "a.gif"))
    assert gif.info["duration"] == 160


def test_exports_refuse_what_they_cannot_write(any_viewer, tmp_path):
    for save, good in (("html", ".html"), ("gif", ".gif"), ("mp4", ".mp4"), ("png", ".png")):
        with pytest.raises(ValueError, match=rf"must end in \{good}"):
            getattr(any_viewer, f"save_{save}")(tmp_path / "a.xyz")
    with pytest.raises(ValueError, match=r"frame=99 must lie in 0 \.\.\. 7"):
        any_viewer.save_png(tmp_path / "a.png", frame=99)
    for frames in ([], [8], [-1]):
        with pytest.raises(ValueError, match="must name some of the 8 frames"):
            any_viewer.static(frames)
    assert list(tmp_path.iterdir()) == []


def test_videos_need_even_sides():
    with pytest.raises(ValueError, match="even sides"):
        encode_video(np.zeros((2, 5, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="at least one"):
        encode_video(np.zeros((0, 4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no such file: '/media/ann/faces/x.mp4'", "No such file: 'x.mp4'."),
        ("ratio=3/4 of http://127.0.0.1/a is odd", "Ratio=3/4 of http://127.0.0.1/a is odd."),
    ],
)
def test_errors_name_no_folder_of_this_machine(text: str, shown: str) -> None:
    from maedfer_lab.viewers.scene import as_sentence

    assert as_sentence(OSError(text)) == shown
