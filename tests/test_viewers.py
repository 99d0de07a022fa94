"""Viewers without a browser: what they compute, refuse, send and leave behind."""

import io
import json
import re
import tempfile
import threading
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from maedfer_lab.attention.maps import capture_attention, look_through, rollout
from maedfer_lab.config import ModelConfig, TargetConfig, demo, tiny
from maedfer_lab.config.model import EncoderKind
from maedfer_lab.method.grid import Grid
from maedfer_lab.method.masking import misplaced_tokens, region_tube_mask
from maedfer_lab.method.models import build_autoencoder, build_classifier, model_mask
from maedfer_lab.method.reconstruction import reconstruct_clip
from maedfer_lab.viewers import AttentionViewer, MaskingViewer, ReconstructionViewer
from maedfer_lab.viewers.export import sweep
from maedfer_lab.viewers.masking import preset_places, published_faults, toggle_tube
from maedfer_lab.viewers.reconstruction import describe_losses
from maedfer_lab.viewers.scene import as_sentence

CONFIG = tiny().model
HOSTILE = "</script><script>alert('1')</script>\"\n$\\frac$\u2028.mp4"


def clip_of(config: ModelConfig = CONFIG, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, config.frames, config.size_px, config.size_px, generator=generator)


def autoencoder(encoder: EncoderKind = "lgi", **target):
    return build_autoencoder(tiny(encoder).model, replace(tiny().target, **target))


def viewer_of(*, encoder: EncoderKind = "lgi", clips=None, **options):
    return ReconstructionViewer(autoencoder(encoder), clips or clip_of(), **options)


def send(viewer, name, value, serial=1):
    """What the browser sends."""
    viewer._receive(viewer, {"name": name, "value": value, "serial": serial}, [])


def ask(viewer, name, value, serial=1, refused=""):
    send(viewer, name, value, serial)
    viewer.wait()
    text = str(viewer.status["text"])
    assert refused in text and bool(viewer.status.get("error")) == bool(refused), text
    assert (viewer.status["serial"], viewer.status["state"]) == (serial, "idle")


def control_of(viewer, name):
    return next(control for control in viewer.controls if control["name"] == name)


# ---------------------------------------------------------------------- reconstruction


def test_the_sprite_holds_seven_pictures_and_the_truth_among_them(monkeypatch):
    viewer = viewer_of(ratio=0.75)
    height, width = viewer.scene["tile"]
    sheet = np.asarray(Image.open(io.BytesIO(viewer.sprite)).convert("RGB"))
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
    assert np.array_equal(np.frombuffer(viewer.table, "<f4"), viewer.result.error.ravel())
    monkeypatch.setattr("maedfer_lab.viewers.reconstruction.reconstruct_clip", None)
    given = viewer_of(ratio=0.75, result=viewer.result)
    assert given.sprite == viewer.sprite, "what was computed is shown and not computed again"


@pytest.mark.parametrize("encoder", ["lgi", "vit"])
def test_clicks_strokes_and_presets_hide_and_show_tubes(encoder):
    viewer = viewer_of(encoder=encoder, ratio=0.75)
    place = int(viewer.mask[:16].nonzero()[0])
    before, windows = int((~viewer.mask).sum()), 2 if encoder == "lgi" else 1
    ask(viewer, "tube", place)
    assert not viewer.mask.view(4, 16)[:, place].any(), "shown at all times"
    assert int((~viewer.mask).sum()) == before + 4 * windows == viewer.scene["visible"]
    ask(viewer, "tube", place, 2)
    assert viewer.mask.view(4, 16)[:, place].all() and int((~viewer.mask).sum()) == before

    viewer = viewer_of(encoder=encoder, ratio=0.5)
    before = viewer.mask.clone()
    for place in (0, 1, 2, 3, 0):
        ask(viewer, "paint", {"place": place, "hide": True, "stroke": 7})
    assert viewer.mask.view(4, 16)[:, :4].all()
    ask(viewer, "history", "undo")
    assert torch.equal(viewer.mask, before), "a stroke at once"
    ask(viewer, "history", "undo", refused="undone")
    ask(viewer, "seed", 4)
    ask(viewer, "history", "reset")
    assert torch.equal(viewer.mask, before) and viewer.settings.seed == 0

    grid, region = Grid(8, 10, 10), demo().model.region if encoder == "lgi" else None
    eyes = preset_places("eyes", grid, region).view(10, 10)
    assert eyes[4, 2:8].all() and not eyes[[0, 1, 2, 3, 5, 6, 7, 8]].any()
    assert int(eyes.sum()) == (12 if region else 6), "the same places in the other region"
    assert preset_places("mouth", grid, region).view(10, 10)[6:8, 3:7].all()
    viewer = viewer_of(encoder=encoder, ratio=0.8)
    if region:
        assert viewer.settings.ratio == 0.75 and "rounded to 0.75" in str(viewer.status["text"])
        ratios = [option["value"] for option in control_of(viewer, "ratio")["options"]]
        assert ratios == [k / 8 for k in range(1, 8)]
    for value in ("0.5", "0.75", "eyes", "mouth"):
        ask(viewer, "preset", value)
        assert value in ("eyes", "mouth") or float(viewer.mask.float().mean()) == float(value)
    windows = viewer.mask.view(4, 2, 2, 2, 2).sum((2, 4))
    assert (windows == windows[0, 0, 0]).all() or encoder == "vit"


def test_two_masks_and_two_checkpoints_stand_side_by_side():
    large = build_autoencoder(replace(CONFIG, size_px=64), tiny().target)
    models = {"one": autoencoder(), "two": autoencoder("vit"), "large": large}
    viewer = ReconstructionViewer(models, clip_of(), ratio=0.75)
    ask(viewer, "beside", "two")
    assert [row["label"][0] for row in viewer.scene["rows"][1:]] == [*"AAABBB"]
    assert "maedfer_lab, one, two, small model" in viewer.scene["footer"]
    assert len(viewer.table) == 2 * 4 * 64
    assert viewer.scene["readout"]["table"][0][1:] == [
        "A: appearance", "A: motion", "B: appearance", "B: motion"]  # fmt: skip
    ask(viewer, "beside", control_of(viewer, "beside")["options"][1]["value"])
    first = viewer.scene["hidden"]
    ask(viewer, "seed", 8)
    rows = {row["label"][0]: row["hidden"] for row in viewer.scene["rows"][1:]}
    assert rows["B"] == first != rows["A"] == viewer.scene["hidden"]
    ask(viewer, "beside", "large", refused="does not fit")
    models["two"] = autoencoder(motion=False)
    for name, kinds in (("one", ["A: motion", "B: appearance"]), ("two", ["B: appearance"])):
        viewer = ReconstructionViewer(models, clip_of())
        viewer.set(model=name, beside="two" if name == "one" else "one")
        head, *rows = viewer.scene["readout"]["table"]
        assert [*head[2:]][: len(kinds)] == kinds and {len(row) for row in rows} == {4}


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
    send(viewer, "seed", 1, 1)
    assert begun.wait(20)
    send(viewer, "ratio", 0.5, 2)
    for serial in range(3, 30):
        send(viewer, "seed", serial, serial)
    assert viewer.status["state"] == "working" and viewer.sprite == old, "the old picture stays"
    with pytest.raises(TimeoutError, match=r"timeout_s=0\.01"):
        viewer.wait(0.01)
    go_on.set()
    viewer.wait()
    assert len(looks) == 2, "what came between is not computed"
    assert (viewer.settings.seed, viewer.settings.ratio) == (29, 0.5), "the ratio was not lost"
    assert viewer.status == {"state": "idle", "serial": 29, "text": ""}


def test_what_goes_wrong_is_said_in_the_widget_and_the_picture_stays():
    large = build_autoencoder(replace(CONFIG, size_px=64), tiny().target)
    viewer = ReconstructionViewer({"small": autoencoder(), "large": large}, clip_of())
    old, controls = viewer.sprite, viewer.controls
    for serial, (name, value, words) in enumerate(
        [
            ("model", "large", "does not fit this model"),
            ("model", HOSTILE, "is not known"),
            ("seed", -1, "whole number"),
            ("seed", None, "whole number"),
            ("tube", 99, "whole number from 0 to 15"),
            ("ratio", 1, "between 0 and 1"),
            ("nonsense", 1, "is not known"),
            ("save", "exe", "is not known"),
        ],
    ):
        ask(viewer, name, value, serial, refused=words)
    assert viewer.sprite == old and viewer.controls == controls
    ask(viewer, "seed", 5, 20)
    for message in (None, "x", {}, {"name": "seed"}, {"name": 1, "value": 2, "x": 3}):
        viewer._receive(viewer, message, [])
    assert viewer.settings.seed == 5 and viewer.settings.model == "small"


def test_the_readout_tells_motion_statistics_order_and_baselines():
    config = replace(CONFIG, frames=1, tubelet=(1, 8, 8), region=(1, 2, 4))
    model = build_autoencoder(config, TargetConfig("imagenet", motion=False))
    viewer = ReconstructionViewer(model, clip_of(config))
    assert viewer.scene["frames"] == 1 and len(viewer.scene["rows"]) == 5
    assert "separate target" in " ".join(viewer.view.sentences)
    raw = control_of(viewer_of(), "statistics")
    assert raw["disabled"] and "none" in raw["note"]
    assert control_of(viewer_of(encoder="vit"), "token_order")["disabled"]
    cube = ReconstructionViewer(autoencoder(units="cube"), clip_of(), ratio=0.75)
    assert "Statistics: visible only" in " ".join(cube.view.sentences)
    cube.set(statistics="true", token_order="published")
    said = " ".join(cube.view.sentences)
    assert "Statistics: true" in said and "Published token order" in said
    guesses = dict.fromkeys(("interpolation", "nearest", "mean", "zero"), 1.0)
    for model, words in ((0.5, "beats all baselines; 50% lower"), (1.0, "no better than"),
                        (2.0, "100% higher loss than")):  # fmt: skip
        losses = {k: {"appearance": v, "motion": v} for k, v in {**guesses, "model": model}.items()}
        assert words in describe_losses(losses, True)[0]


def test_a_sweep_shows_more_and_more_hidden():
    model, clip, shares = autoencoder(), clip_of(), (0.25, 0.75)
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
    config = demo().model
    viewer = MaskingViewer(clip_of(config), config)
    grid, region = viewer.grid, config.region
    assert list(viewer.masks) == ["random", "tube", "region-equal tube"]
    assert {int(mask.sum()) for mask in viewer.masks.values()} == {720}
    tubes = viewer.masks["tube"].view(8, -1)
    assert (tubes == tubes[0]).all()
    few, many, wrong, position = published_faults(viewer.masks["region-equal tube"], grid, region)
    assert few == many == 10 and wrong == 0 and position == misplaced_tokens(grid, region) == 40
    seed = torch.Generator().manual_seed(0)
    narrow = region_tube_mask(grid, (2, 5, 5), 0.92, generator=seed)[0]
    assert published_faults(narrow, grid, (2, 5, 5))[2] > 0, "regions of part of the width (B2)"
    viewer.set(ratio=0.8, seed=3)
    assert {int(mask.sum()) for mask in viewer.masks.values()} == {640}


# ---------------------------------------------------------------------- attention


LGI, VIT = autoencoder(), autoencoder("vit")


def sent(viewer, model, **query):
    """The weights over the token grid that player.js would paint for a query."""
    overlay = viewer.scene["overlays"][model]
    row = overlay["reps"][query["rep"]] if "rep" in query else overlay["tokens"][query["token"]]
    at = overlay["offset"] + row * 64
    values = np.frombuffer(viewer.table[at : at + 64], np.uint8) / 255
    return None if row < 0 else (values * overlay["tops"][row]).reshape(4, 4, 4)


def assert_alike(found, want):
    want = np.nan_to_num(want)
    np.testing.assert_allclose(found, want, atol=want.max() / 200)


@pytest.mark.parametrize("head", [None, 1])
@pytest.mark.parametrize("stage", ["local", "inter", "interact"])
def test_the_browser_gets_the_maps_own_weights(stage, head):
    viewer = AttentionViewer({"LGI": LGI, "ViT": VIT}, clip_of(), stage=stage, layer=1, head=head)
    maps, vit = capture_attention(LGI, clip_of()), capture_attention(VIT, clip_of())
    for query, number in (({"token": 37}, 37), ({"rep": 2}, 64 + 2)):
        found, want = sent(viewer, 0, **query), maps.over_tokens(stage, 1, head, number)
        if np.isnan(want.tokens).all() and np.isnan(want.rep).all():
            assert found is None
        else:
            assert_alike(found, want.tokens if stage == "local" else maps.paint_regions(want.rep))
    assert_alike(sent(viewer, 1, token=37), vit.over_tokens("joint", 1, head, 37).tokens)


@pytest.mark.parametrize("change", [{}, {"local": "cross"}, {"interact": "self"}, {"inter": False}])
def test_composed_and_rolled_out_attention_are_those_of_the_maps(change):
    model = build_autoencoder(replace(CONFIG, **change), tiny().target)
    viewer = AttentionViewer(model, clip_of(), stage="composed", layer=0)
    maps = capture_attention(model, clip_of())
    assert_alike(sent(viewer, 0, token=5), look_through(maps, 0, 5).tokens)
    viewer.set(stage="rollout")
    want = rollout(maps).over_tokens(5).tokens.copy()
    (overlay,) = viewer.scene["overlays"]
    assert f"{want.flat[5]:.0%} from itself" in overlay["rest"][overlay["tokens"][5]]
    want.flat[5] = 0
    assert_alike(sent(viewer, 0, token=5), want)


def test_changes_from_the_browser_are_followed_or_refused_in_words():
    viewer = AttentionViewer(LGI, {"a": clip_of(), "b": 1 - clip_of()})
    before = viewer.table
    for name, value in (("stage", "interact"), ("layer", "0"), ("head", "1"), ("clip", "b")):
        ask(viewer, name, value)
        assert viewer.table != before
        before = viewer.table
    shown = {c["name"]: c.get("shown") for c in viewer.controls}
    assert (shown["layer"], shown["head"], shown["clip"]) == ("1 of 2", "2", "b")
    ask(viewer, "head", "9", 2, refused="Head=9")
    assert viewer.table == before


@pytest.mark.parametrize("stage", ["local", "interact"])
def test_the_overview_shows_every_layer_and_head_of_one_query(stage):
    viewer = AttentionViewer({"LGI": LGI, "ViT": VIT}, clip_of(), stage=stage)
    ask(viewer, "overview", {"value": "all", "query": {"token": 37}})
    heads = CONFIG.num_heads
    assert len(viewer.scene["rows"]) == CONFIG.depth * heads and viewer.scene["columns"] == heads
    assert viewer.scene["strips"] == 1, "one clip is sent, not one for each picture"
    maps = capture_attention(LGI, clip_of())
    for k, overlay in enumerate(viewer.scene["overlays"]):
        want = maps.over_tokens(stage, k // heads, k % heads, 37)
        found = np.frombuffer(viewer.table[overlay["offset"] :][:64], np.uint8) / 255
        found = (found * overlay["tops"][0]).reshape(4, 4, 4)
        assert_alike(found, want.tokens if stage == "local" else maps.paint_regions(want.rep))
    ask(viewer, "open", heads, 2)
    assert (viewer.settings.layer, viewer.settings.head) == (1, 0)
    assert viewer.scene["click"] == "query" and viewer.settings.query == 37


@pytest.mark.parametrize(
    ("viewer", "models", "clips", "options", "message"),
    [
        *((ReconstructionViewer, LGI, clip, {}, message) for clip, message in (
            (clip_of(replace(CONFIG, size_px=64)), "does not fit this model"),
            (clip_of(replace(CONFIG, frames=1)), "does not fit this model"),
            (clip_of().fill_(float("nan")), "finite"),
            (clip_of() * 255, r"\[0, 1\]"),
            ([], "clips is empty"),
            ({"face": np.zeros(3)}, "clip 'face'.*not a tensor"),
        )),
        (ReconstructionViewer, build_classifier(CONFIG, 7), clip_of(), {},
         "no decoder.*MaskedAutoencoder"),
        (ReconstructionViewer, {"a": None}, clip_of(), {}, "no decoder"),
        (ReconstructionViewer, {}, clip_of(), {}, "models is empty"),
        *((ReconstructionViewer, LGI, clip_of(), {"ratio": r}, r"ratio=.* between 0 and 1 .*try 0")
          for r in (0, 1, -0.5, float("nan"), "0.9", True)),
        (AttentionViewer, {}, clip_of(), {}, "models is empty"),
        (AttentionViewer, "model", clip_of(), {}, "a str has no encoder"),
        (AttentionViewer, {"a": LGI, "b": build_autoencoder(replace(CONFIG, size_px=64))},
         clip_of(), {}, "equal"),
        (AttentionViewer, LGI, clip_of()[:, :1], {}, "clip 'clip'"),
        (AttentionViewer, LGI, clip_of() * float("nan"), {}, "finite"),
        (AttentionViewer, LGI, clip_of(), {"stage": "joint"}, "stage='joint'"),
        (AttentionViewer, LGI, clip_of(), {"layer": 2},
         "layer=2 must be a whole number from 0 to 1"),
        (AttentionViewer, LGI, clip_of(), {"head": 5}, "head=5"),
        (AttentionViewer, LGI, clip_of(), {"query": 4},
         "query=4 must be a whole number from 0 to 3"),
        (AttentionViewer, VIT, clip_of(), {"query": 0}, r"a ViT has none.*try \(0, 0, 0\)"),
        (AttentionViewer, LGI, clip_of(), {"query": (0, 0, 9)}, "inside the grid"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(viewer, models, clips, options, message):
    with pytest.raises(ValueError, match=message):
        viewer(models, clips, **options)


# ---------------------------------------------------------------------- what is left behind

MAKERS = {
    "reconstruction": lambda: viewer_of(clips={HOSTILE: clip_of()}, fps=6.25),
    "masking": lambda: MaskingViewer({HOSTILE: clip_of()}, CONFIG, fps=6.25),
    "attention": lambda: AttentionViewer({HOSTILE: LGI}, {HOSTILE: clip_of()}, query=1, fps=6.25),
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
    (option,) = control_of(any_viewer, "clip")["options"]
    assert option["value"] == HOSTILE and "\n" not in option["label"]


def test_pictures_and_videos_keep_the_clips_pace(any_viewer, tmp_path):
    assert (any_viewer.scene["fps"], any_viewer.scene["timed"]) == (6.25, True)
    picture = Image.open(any_viewer.save_png(tmp_path / "a.png", frame=1))
    gif: Image.Image = Image.open(any_viewer.save_gif(tmp_path / "a.gif"))
    assert getattr(gif, "n_frames", 1) >= 2 and gif.size == picture.size
    assert gif.info["duration"] == 160
    with av.open(str(any_viewer.save_mp4(tmp_path / "a.mp4"))) as video:
        frames = list(video.decode(video=0))
    assert len(frames) >= CONFIG.frames and frames[0].width == picture.width
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.mp4", "a.png"]


def test_the_browser_gets_what_is_saved_or_is_refused(any_viewer, tmp_path):
    sent = []
    any_viewer.send = lambda content, buffers: sent.append((content["file"], bytes(buffers[0])))
    for kind, start in (("html", b"<!doctype"), ("png", b"\x89PNG"), ("gif", b"GIF8")):
        ask(any_viewer, "save", kind)
        name, content = sent.pop()
        assert name.endswith(f".{kind}") and "/" not in name and content.startswith(start)
        assert kind != "html" or b"not for judging people" in content
    footer = any_viewer.view.footer
    assert footer.startswith("maedfer_lab, ") and footer.endswith("not for judging people")
    for kind in ("html", "gif", "mp4", "png"):
        with pytest.raises(ValueError, match=rf"must end in \.{kind}"):
            getattr(any_viewer, f"save_{kind}")(tmp_path / "a.xyz")
    with pytest.raises(ValueError, match="frame=99 must be a whole number from 0 to 7"):
        any_viewer.save_png(tmp_path / "a.png", frame=99)
    assert list(tmp_path.iterdir()) == []


def test_errors_name_no_folder_of_this_machine():
    for text, shown in (
        ("no such file: '/media/ann/faces/x.mp4'", "No such file: 'x.mp4'."),
        (f"{tempfile.gettempdir()}/jane doe/my faces/x.mp4: is broken", "X.mp4: is broken."),
        ("ratio=3/4 of http://127.0.0.1/a is odd", "Ratio=3/4 of http://127.0.0.1/a is odd."),
    ):
        assert as_sentence(OSError(text)) == shown
