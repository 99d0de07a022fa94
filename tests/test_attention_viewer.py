"""AttentionViewer: what the browser gets is what the maps say."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from dataclasses import replace

import numpy as np
import pytest
import torch

from maedfer_lab.attention.maps import capture_attention
from maedfer_lab.attention.tracing import all_queries, look_through, rollout
from maedfer_lab.config import tiny
from maedfer_lab.method.models import build_autoencoder
from maedfer_lab.viewers import AttentionViewer

LGI = build_autoencoder(tiny().model, tiny().target)
VIT = build_autoencoder(tiny("vit").model, tiny("vit").target)
CLIP = torch.rand(3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


def sent(viewer, model, query):
    """The weights over the token grid that player.js would paint for a query."""
    overlay = viewer.scene["overlays"][model]
    row = overlay["reps"][query["rep"]] if "rep" in query else overlay["tokens"][query["token"]]
    if row < 0:
        return None
    t, h, w = viewer.scene["grid"]
    n = t * h * w
    at = overlay["offset"] + row * n
    values = np.frombuffer(viewer.table[at : at + n], np.uint8).astype(float) / 255
    return (values * overlay["tops"][row]).reshape(t, h, w)


@pytest.mark.parametrize("head", [None, 1])
@pytest.mark.parametrize("stage", ["local", "inter", "interact"])
def test_the_browser_gets_the_maps_own_weights(stage, head):
    viewer = AttentionViewer({"LGI": LGI, "ViT": VIT}, CLIP, stage=stage, layer=1, head=head)
    maps, vit = capture_attention(LGI, CLIP), capture_attention(VIT, CLIP)
    for query, number in (({"token": 37}, 37), ({"rep": 2}, 64 + 2)):
        found, want = sent(viewer, 0, query), maps.over_tokens(stage, 1, head, number)
        if np.isnan(want.tokens).all() and np.isnan(want.rep).all():
            assert found is None
            continue
        tokens = want.tokens if stage == "local" else maps.paint_regions(want.rep)
        tokens = np.nan_to_num(tokens)
        np.testing.assert_allclose(found, tokens, atol=tokens.max() / 200)
    joint = vit.over_tokens("joint", 1, head, 37).tokens
    np.testing.assert_allclose(sent(viewer, 1, {"token": 37}), joint, atol=joint.max() / 200)


def test_composed_and_rolled_out_attention_are_those_of_the_maps():
    viewer = AttentionViewer(LGI, CLIP, stage="composed", layer=0)
    maps = capture_attention(LGI, CLIP)
    want = np.nan_to_num(look_through(maps, 0, 5).tokens)
    np.testing.assert_allclose(sent(viewer, 0, {"token": 5}), want, atol=want.max() / 200)
    viewer.set(stage="rollout")
    want = rollout(maps).over_tokens(5).tokens.copy()
    assert (
        f"{want.flat[5]:.0%} from itself"
        in viewer.scene["overlays"][0]["rest"][viewer.scene["overlays"][0]["tokens"][5]]
    )
    want.flat[5] = 0
    np.testing.assert_allclose(sent(viewer, 0, {"token": 5}), want, atol=want.max() / 200)


@pytest.mark.parametrize("change", [{}, {"local": "cross"}, {"interact": "self"}, {"inter": False}])
def test_rows_of_all_queries_sum_to_one(change):
    model = build_autoencoder(replace(tiny().model, **change), tiny().target)
    maps = capture_attention(model, CLIP)
    for stage in (*maps.stages, "composed", "rollout"):
        matrix, attends = all_queries(maps, stage, 1, None)
        sums = matrix.sum(1)
        torch.testing.assert_close(sums[attends], torch.ones(int(attends.sum())), atol=1e-4, rtol=0)
        assert not sums[~attends].any()
    assert AttentionViewer(model, CLIP).static() is not None


def test_changes_from_the_browser_are_followed_or_refused_in_words():
    viewer = AttentionViewer(LGI, {"a": CLIP, "b": 1 - CLIP})
    before = viewer.table
    for name, value in (("stage", "interact"), ("layer", "0"), ("head", "1"), ("clip", "b")):
        viewer._receive(None, {"name": name, "value": value, "serial": 1}, [])
        viewer.wait()
        assert not viewer.status.get("error") and viewer.table != before
        before = viewer.table
    shown = {c["name"]: c.get("shown") for c in viewer.controls}
    assert (shown["layer"], shown["head"], shown["clip"]) == ("1 of 2", "2", "b")
    viewer._receive(None, {"name": "head", "value": "9", "serial": 2}, [])
    viewer.wait()
    assert viewer.status["error"] and "head=9" in viewer.status["text"].lower()
    assert viewer.table == before


@pytest.mark.parametrize("stage", ["local", "interact"])
def test_the_overview_shows_every_layer_and_head_of_one_query(stage):
    viewer = AttentionViewer({"LGI": LGI, "ViT": VIT}, CLIP, stage=stage)
    query = {"token": 37}
    viewer._receive(None, {"name": "overview", "value": {"value": "all", "query": query},
                           "serial": 1}, [])  # fmt: skip
    viewer.wait()
    depth, heads = LGI.config.depth, LGI.config.num_heads
    assert len(viewer.scene["rows"]) == depth * heads and viewer.scene["columns"] == heads
    assert viewer.scene["strips"] == 1, "one clip is sent, not one for each picture"
    maps = capture_attention(LGI, CLIP)
    for k, overlay in enumerate(viewer.scene["overlays"]):
        want = maps.over_tokens(stage, k // heads, k % heads, 37)
        tokens = want.tokens if stage == "local" else maps.paint_regions(want.rep)
        table = np.frombuffer(viewer.table[overlay["offset"] :][:64], np.uint8) / 255
        found = (table * overlay["tops"][0]).reshape(4, 4, 4)
        np.testing.assert_allclose(found, np.nan_to_num(tokens), atol=overlay["tops"][0] / 200)
    viewer._receive(None, {"name": "open", "value": heads, "serial": 2}, [])
    viewer.wait()
    assert (viewer.settings.layer, viewer.settings.head) == (1, 0)
    assert viewer.scene["click"] == "query" and viewer.settings.query == (2, 1, 1)


@pytest.mark.parametrize(
    ("models", "clips", "more", "message"),
    [
        ({}, CLIP, {}, "models is empty"),
        ("model", CLIP, {}, "a str has no encoder"),
        (LGI, CLIP[:, :1], {}, "clip 'clip'"),
        (LGI, CLIP * float("nan"), {}, "finite"),
        (LGI, CLIP, {"stage": "joint"}, "stage='joint'"),
        (LGI, CLIP, {"layer": 2}, "layer=2 must lie in 0 ... 1"),
        (LGI, CLIP, {"query": 4}, "query=4 must lie in 0 ... 3"),
        (VIT, CLIP, {"query": 0}, "no representative tokens"),
        (LGI, CLIP, {"query": (0, 0, 9)}, "inside the grid"),
    ],
)
def test_bad_input_is_named(models, clips, more, message):
    with pytest.raises(ValueError, match=message):
        AttentionViewer(models, clips, **more)


def test_a_saved_page_escapes_names(tmp_path):
    name = "<script>alert('x')</script>"
    viewer = AttentionViewer({name: LGI}, {name: CLIP}, query=1)
    page = viewer.save_html(tmp_path / "a.html").read_text()
    assert name not in page and viewer.scene["query"] == {"rep": 1}
    assert viewer.save_png(tmp_path / "a.png").stat().st_size > 1000
