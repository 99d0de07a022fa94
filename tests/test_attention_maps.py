from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from maedfer_lab.attention.maps import (
    AttentionMaps,
    attention_bytes,
    capture_attention,
    look_through,
    rollout,
    trace_back,
)
from maedfer_lab.attention.statistics import (
    attention_statistics,
    region_names,
    rollout_statistics,
)
from maedfer_lab.config import tiny
from maedfer_lab.method.grid import Grid, region_index
from maedfer_lab.method.masking import region_tube_mask
from maedfer_lab.method.models import Encoder, build_autoencoder

VARIANTS = {
    "lgi": {},
    "one region": {"region": (4, 4, 4)},
    "1-token regions": {"region": (1, 1, 1)},
    "cross": {"local": "cross"},
    "no inter": {"inter": False},
    "no interact": {"interact": "none"},
    "self interact": {"interact": "self"},
    "stage 1 alone": {"inter": False, "interact": "none"},
    "cross, self, shared": {"local": "cross", "interact": "self", "shared": "all"},
    "legacy order": {"legacy_visible_order": True},
    "vit": {"encoder": "vit"},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def sharpen(model, seed=0):
    """Weights large enough that attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.25
    return model.eval()


def tiny_model(**options):
    return sharpen(build_autoencoder(replace(tiny().model, **options)))


def random_clip(config, seed=0):
    shape = (3, config.frames, config.size_px, config.size_px)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def nbytes(maps):
    return sum(kept.nbytes for stages in maps.layers.values() for kept in stages.values())


def visible_of(model):
    mask = region_tube_mask(model.grid, (2, 2, 4), 0.5, generator=torch.Generator().manual_seed(1))
    return model.split(mask).visible[0]


def full_matrices(encoder: Encoder, clip, index, residual):
    """Every stage of every layer as a full matrix over tokens then representative tokens."""
    config, v, r = encoder.config, len(index), encoder.num_regions
    kept = {layer: {} for layer in range(config.depth)}
    encoder(clip[None], index[None], weights=kept)
    size = v // r if r else 0
    for layer in range(config.depth):
        for stage, raw in kept[layer].items():
            w = raw.detach().mean(1).double()
            full = torch.eye(v + r, dtype=torch.double)
            if stage == "joint":
                full = w[0]
            elif stage == "inter":
                full[v:, v:] = w[0]
            elif stage == "interact" and config.interact == "cross":
                full[:v] = 0
                full[:v, v:] = w[0]
            else:
                for i in range(r):
                    z = [v + i, *range(i * size, (i + 1) * size)]
                    rows, columns = (z, z) if w.shape[1] > 1 else (z[:1], z[1:])
                    for a, row in enumerate(rows):
                        full[row] = 0
                        for b, column in enumerate(columns):
                            full[row, column] = w[i, a, b]
            yield (1 - residual) * full + residual * torch.eye(v + r, dtype=torch.double)


@every_variant
def test_rollout_equals_the_product_of_full_matrices(options):
    """Of all tokens, and of the visible ones where the mask is balanced for these regions."""
    model = tiny_model(**options)
    clip = random_clip(model.config)
    for index in (
        model.encoder.all_tokens,
        *([] if options.get("region") else [visible_of(model)]),
    ):
        want = torch.eye(len(index) + model.encoder.num_regions, dtype=torch.double)
        for matrix in full_matrices(model.encoder, clip, index, 0.5):
            want = matrix @ want
        maps = capture_attention(model, clip, index=index, dtype=torch.float32)
        got = rollout(maps).matrix
        assert (got - want).abs().max() < 1e-6
        halves = trace_back(maps, trace_back(maps, torch.eye(len(got)), layers=[1]), layers=[0])
        assert torch.allclose(halves, got, atol=1e-6), "tracing through some layers joins up"
        assert (got.sum(1) - 1).abs().max() < 1e-5
    half = rollout(capture_attention(model, clip, index=index, heads="mean")).matrix
    assert (half - want).abs().max() < 1e-3
    assert (half.sum(1) - 1).abs().max() < 1e-5


@every_variant
def test_looking_changes_no_output(options):
    """Every layer written out, or one of them, against all layers fused: within 1e-5."""
    encoder = tiny_model(**options).encoder
    clip = random_clip(encoder.config)[None]
    with torch.no_grad():
        plain = encoder(clip)
        for layers in ([0, 1], [1]):
            kept = {layer: {} for layer in layers}
            looked = encoder(clip, weights=kept)
            assert all(kept.values())
            for a, b in ((looked.tokens, plain.tokens), (looked.rep_tokens, plain.rep_tokens)):
                if b is not None:
                    assert (a - b).abs().max() <= 1e-5 * b.abs().max().clamp(min=1)


@every_variant
def test_size_is_known_before_it_runs_and_bounded(options):
    model = tiny_model(**options)
    clip = random_clip(model.config)
    choices: list[dict[str, Any]] = [{}, {"heads": "mean"}, {"dtype": torch.float32}]
    for chosen in choices:
        size = attention_bytes(model.config, **chosen)
        assert nbytes(capture_attention(model, clip, max_bytes=size, **chosen)) == size
        with pytest.raises(ValueError, match=r"more than max_bytes=.*heads='mean' keeps"):
            capture_attention(model, clip, max_bytes=size - 1, **chosen)
    if not options.get("region"):
        index = visible_of(model)
        size = attention_bytes(model.config, num_visible=len(index))
        assert nbytes(capture_attention(model, clip, index=index)) == size
    for row in attention_statistics(capture_attention(model, clip)):
        assert 0 <= row.relative_entropy <= 1 + 1e-6 and np.isfinite(row.uniform.pixels)
        assert row.stage != "local" or row.reach.frames <= (model.config.region[0] - 1) * 2


def test_their_mean_is_that_of_the_heads():
    model = tiny_model()
    clip = random_clip(model.config)
    maps, mean = (capture_attention(model, clip, heads=heads) for heads in (None, "mean"))
    for stage in maps.stages:
        assert maps.layers[1][stage].dtype == torch.float16
        both = (maps.weights(stage, 1, 0) + maps.weights(stage, 1, 1)) / 2
        for found in (maps, mean):
            assert (found.weights(stage, 1) - both).abs().max() < 1e-3
    refused: tuple[tuple[Any, str], ...] = (
        (("local", 2), "layer=2 was not kept"),
        (("local", 1, 0), "head=0 was not kept"),
        (("joint", 1), r"stage='joint'.*local, inter, interact"),
    )
    for asked, message in refused:
        with pytest.raises(ValueError, match=message):
            mean.weights(*asked)


@pytest.mark.parametrize("hidden", [False, True])
def test_each_query_is_shown_at_its_place(hidden):
    model = tiny_model()
    index = visible_of(model) if hidden else None
    maps = capture_attention(model, random_clip(model.config), index=index)
    regions, size = region_index(model.grid, model.config.region), maps.num_visible // 4
    for region, rank in ((0, 3), (2, 5)):
        token, rep = int(maps.index[region * size + rank]), maps.rep_token(region)
        place = token // 16, token // 4 % 4, token % 4
        assert token == maps.token(*place) and token in regions[region]
        assert maps.places[region * size + rank].tolist() == [region, *place]
        assert maps.region_of(token) == region == maps.region_of(rep)
        seen = set(maps.index.tolist()) & set(regions[region].tolist())
        raw = maps.layers[0]["local"][region, 1].float()
        for query, row in ((token, raw[rank + 1]), (rep, raw[0])):
            shown = maps.over_tokens("local", 0, 1, query)
            assert set(np.flatnonzero(~np.isnan(shown.tokens))) == seen
            own = shown.tokens.reshape(-1)[maps.index[region * size : (region + 1) * size]]
            assert np.allclose(own, row[1:], atol=1e-3)
            assert shown.rep[region] == pytest.approx(float(row[0]), abs=1e-3)
            assert np.isnan(np.delete(shown.rep, region)).all()
        assert np.isnan(maps.over_tokens("inter", 0, None, token).tokens).all()
        assert np.isnan(maps.over_tokens("interact", 1, None, rep).rep).all()
        shown = maps.over_tokens("interact", 1, None, token)
        assert np.isnan(shown.tokens).all() and shown.rep.sum() == pytest.approx(1, abs=1e-6)
        painted = maps.paint_regions(shown.rep)
        assert painted[place] == shown.rep[region]
        assert set(np.flatnonzero(~np.isnan(painted))) == set(maps.index.tolist())


def test_a_token_looks_through_the_three_stages():
    maps = capture_attention(tiny_model(), random_clip(tiny().model), dtype=torch.float32)
    local, inter, interact = (maps.weights(stage, 1) for stage in maps.stages)
    read = interact @ inter  # v r
    want = read.unsqueeze(2) * local[:, 0]  # v r 1+s
    shown = look_through(maps, 1, int(maps.index[9]))
    assert np.allclose(shown.rep, want[9, :, 0], atol=1e-6)
    assert np.allclose(shown.tokens.reshape(-1)[maps.index], want[9, :, 1:].flatten(), atol=1e-6)


def test_where_rollout_is_zero_nothing_can_come_from():
    """Stage 1 alone keeps regions apart; so do the model's outputs."""
    model = tiny_model(inter=False, interact="none")
    maps = capture_attention(model, random_clip(model.config))
    rolled = rollout(maps)
    region = model.config.region
    assert rollout_statistics(rolled, region).outside == 0
    found = rollout_statistics(rolled, (1, 1, 1))
    assert found.outside > 0.1 and found.uniform_outside == pytest.approx(63 / 64)
    whole = rollout(capture_attention(tiny_model(), random_clip(model.config)))
    assert rollout_statistics(whole, region).outside > 0.1
    clip = random_clip(model.config).requires_grad_()
    encoded = model.encoder(clip[None])
    encoded.tokens[0, 0].square().sum().backward()  # the first token, of region 0
    assert clip.grad is not None
    reached = clip.grad.abs().sum(0)[::2, ::8, ::8] > 0
    assert (reached.numpy() == (rolled.over_tokens(int(maps.index[0])).tokens > 0)).all()


def test_regions_are_named_by_their_frames_and_pixels():
    names = [(name.step, name.window, name.label) for name in region_names(tiny().model)]
    assert names == [(0, 0, "frames 1-4, y 0-15"), (0, 1, "frames 1-4, y 16-31"),
                     (1, 0, "frames 5-8, y 0-15"), (1, 1, "frames 5-8, y 16-31")]  # fmt: skip
    (whole,) = region_names(replace(tiny().model, region=(4, 4, 4)))
    assert whole.label == "frames 1-8"
    assert region_names(replace(tiny().model, region=(4, 2, 2)))[1].label.endswith("x 16-31")


def joint_maps(weights):
    model = replace(tiny("vit").model, depth=1, num_heads=1)
    return AttentionMaps(
        model, Grid(4, 4, 4), torch.arange(64), {0: {"joint": weights[None]}}, (0,)
    )


def test_entropy_and_reach_of_known_attention():
    (even,) = attention_statistics(joint_maps(torch.full((64, 64), 1 / 64)))
    assert even.relative_entropy == pytest.approx(1, abs=1e-6)
    assert even.entropy == pytest.approx(np.log(64), abs=1e-5)
    assert even.reach == even.uniform
    (own,) = attention_statistics(joint_maps(torch.eye(64)))
    assert own.entropy == 0 and own.reach.frames == own.reach.pixels == 0
    # Every token at the one a time step later (cyclic): distances 1, 1, 1, 3 of 2 frames each.
    (later,) = attention_statistics(joint_maps(torch.eye(64).roll(16, 1)))
    assert later.reach.frames == pytest.approx(2 * 6 / 4) and later.reach.pixels == 0
    (right,) = attention_statistics(joint_maps(torch.eye(64).roll(1, 1)))  # next in x, or next row
    assert right.reach.pixels > 8 and right.reach.frames > 0
    still = rollout_statistics(rollout(joint_maps(torch.eye(64))), (2, 2, 4))
    assert still.reach.frames == still.outside == 0
    assert still.uniform_outside == 0.75 and still.uniform_reach == even.uniform


def test_model_is_left_as_it_was():
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps = capture_attention(model.bfloat16(), random_clip(model.config))
    assert model.training and model.encoder.training
    assert (maps.weights("local", 0).sum(-1) - 1).abs().max() < 1e-5
    assert all(torch.equal(before[k].bfloat16(), v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": "max"}, "'mean'"),
        ({"clip": torch.rand(1, 3, 8, 32, 32)}, r"clip\[0\]"),
        ({"clip": torch.rand(3, 8, 16, 16)}, "does not fit this model"),
        ({"clip": torch.full((3, 8, 32, 32), torch.nan)}, "clip"),
        ({"clip": np.zeros((3, 8, 32, 32))}, "not a tensor"),
        ({"index": torch.tensor([1, 2, 3])}, "equally many"),
        ({"index": torch.tensor([1, 2, 3, 3])}, "different token numbers"),
        ({"index": torch.tensor([1, 2, 3, 64])}, "different token numbers"),
        ({"index": torch.ones(64, dtype=torch.bool)}, "list different token numbers"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"clip": random_clip(tiny().model)} | change
    with pytest.raises(ValueError, match=message):
        capture_attention(tiny_model(), **arguments)


def test_bad_questions_are_refused():
    model = tiny_model()
    maps = capture_attention(model, random_clip(model.config), index=visible_of(model))
    hidden = next(i for i in range(64) if i not in maps.index.tolist())
    for asked, message in (
        *((lambda query=query: maps.rank(query), "hidden by the mask, or no token") for query in
          (hidden, 68, -1)),
        (lambda: maps.token(4, 0, 0), "outside the grid"),
        (lambda: maps.rep_token(4), "one of the 4"),
        (lambda: rollout(maps, residual=1), "residual=1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            asked()
