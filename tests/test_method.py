"""The method in parts: grid, masks, targets, blocks, models and reconstruction.

Whole models are compared with the official equations in test_parity.py.
"""

# pyright: reportArgumentType=false, reportCallIssue=false

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maedfer_lab.config import ModelConfig, TargetConfig, tiny
from maedfer_lab.method import masking, targets
from maedfer_lab.method.attention import Attention, LGIBlock, ViTBlock
from maedfer_lab.method.formulas import lgi_block_by_loops
from maedfer_lab.method.grid import (
    Grid,
    check_clip,
    check_region,
    grid_of,
    grid_positions,
    patchify,
    region_index,
    region_shapes,
    sincos_positions,
    take,
    unpatchify,
)
from maedfer_lab.method.models import build_autoencoder, build_classifier, check_batch, model_mask
from maedfer_lab.method.reconstruction import hide, reconstruct_clip, reconstruction_rows
from maedfer_lab.training.held_out import HeldOut

CONFIG, TUBELET, PAPER = tiny().model, (2, 8, 8), Grid(8, 10, 10)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(num: int = 2) -> torch.Tensor:
    return torch.rand((num, 3, 8, 32, 32), generator=seeded())


def masks(model, num: int = 2) -> torch.Tensor:
    return model_mask(model, 0.75, num, seeded())


# --- the grid ---------------------------------------------------------------------------------

grids = st.builds(Grid, st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))


@st.composite
def regions(draw):
    grid = draw(grids)
    return grid, draw(st.sampled_from(region_shapes(grid)))


@given(regions())
def test_every_region_shape_partitions_the_grid_like_the_slow_loop(case):
    grid, shape = case
    starts = product(*(range(0, side, step) for side, step in zip(grid.shape, shape, strict=True)))
    slow = [
        [
            (t * grid.h + h) * grid.w + w
            for t, h, w in product(*(range(a, a + k) for a, k in zip(start, shape, strict=True)))
        ]
        for start in starts
    ]
    index = region_index(grid, shape)
    assert index.tolist() == slow and sorted(index.flatten().tolist()) == list(range(grid.n))


@given(grids, st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)))
def test_unpatchify_inverts_patchify(grid, tubelet):
    size = [g * p for g, p in zip(grid.shape, tubelet, strict=True)]
    clip = torch.rand(2, 3, *size, generator=seeded())
    cubes = patchify(clip, tubelet)
    assert torch.equal(unpatchify(cubes, grid, tubelet), clip)
    first = clip[:, :, 0, : tubelet[1], : tubelet[2]].permute(0, 2, 3, 1).flatten(1)
    assert torch.equal(cubes[:, 0, : first.shape[1]], first), "a cube's first frame comes first"


def test_positions_tell_tokens_and_axes_apart():
    table = sincos_positions(Grid(3, 5, 7).n, 16)
    assert table.shape == (105, 16) and torch.cdist(table, table).fill_diagonal_(1).min() > 0.1
    assert table[0].tolist() == [0.0, 1.0] * 8
    table = grid_positions(Grid(2, 3, 4), 12).view(2, 3, 4, 12)
    assert torch.equal(table[0, :, :, 4:], table[1, :, :, 4:])  # another time: other first third
    assert torch.equal(table[:, 0, :, 8:], table[:, 2, :, 8:])
    assert (table[:, :, 0, 8:] != table[:, :, 1, 8:]).any()


# --- masks ------------------------------------------------------------------------------------


@given(regions(), st.integers(0, 2**31), st.data())
def test_region_masks_are_equal_in_every_region_and_split_and_merged_by_region(case, seed, data):
    grid, region = case
    ratios = masking.mask_ratios(grid, region)
    assume(ratios)
    ratio = data.draw(st.sampled_from(ratios))
    mask = masking.region_tube_mask(grid, region, ratio, 3, generator=seeded(seed))
    visible = (~mask)[:, region_index(grid, region)].sum(-1)
    assert (visible == visible[0, 0]).all() and visible[0, 0] > 0
    frames = mask.view(3, grid.t, -1)
    assert (frames == frames[:, :1]).all(), "constant in time"
    split = masking.split_tokens(mask, grid, region)
    region_of = torch.empty(grid.n, dtype=torch.long)
    for i, tokens in enumerate(region_index(grid, region)):
        region_of[tokens] = i
    assert (region_of[split.visible].diff() >= 0).all()
    assert not mask.gather(1, split.visible).any() and mask.gather(1, split.masked).all()
    values = torch.arange(grid.n).float()[:, None]
    merged = masking.merge_tokens(values[split.visible], values[split.masked], split)
    assert torch.equal(merged, values.expand(3, -1, -1))


@pytest.mark.parametrize(
    ("asked", "places", "found"),
    [(0.9, 50, 0.9), (0.75, 50, 0.76), (0.55, 50, 0.56), (0.1, 4, 0.25)],
)
def test_the_nearest_ratio_is_one_for_viewers_and_verbs(asked, places, found):
    """Viewers hid 54 % and 74 % of what `maedfer reconstruct` hid 56 % and 76 %."""
    ratio, remark = masking.nearest_ratio(asked, [k / places for k in range(1, places)])
    assert ratio == found and bool(remark) == (ratio != asked)


def test_known_numbers_of_misplaced_tokens():
    known = {(2, 5, 10): 40, (4, 5, 10): 60, (8, 5, 10): 70, (2, 2, 10): 64, (1, 5, 10): 0,
             (1, 10, 10): 0, (2, 10, 10): 0, (8, 10, 10): 0}  # fmt: skip
    assert {shape: masking.misplaced_tokens(PAPER, shape) for shape in known} == known
    draw = [
        masking.region_tube_mask(PAPER, (2, 5, 10), 0.9, 2, generator=seeded(s)) for s in (3, 3, 4)
    ]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    assert (~draw[0]).sum(1).tolist() == [80, 80]
    top, bottom = draw[0][0].view(8, 2, 50)[0]
    assert not torch.equal(top, bottom), "each region's places are drawn for it alone"
    assert not torch.equal(*draw[0]), "and each clip's"


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.arange(800)[None] >= 80, "region_tube_mask"),
        (torch.zeros(1, 800).bool(), "at least 1 and not all"),
        (torch.ones(1, 800).bool(), "at least 1 and not all"),
        (torch.zeros(1, 700).bool(), "800"),
        (torch.zeros(1, 800), r"mask has dtype.*mask\.bool\(\)"),
    ],
)
def test_masks_that_are_unequal_or_of_numbers_are_refused(mask, message):
    # beneath the shape checks of the tests, which would speak first
    split = getattr(masking.split_tokens, "__wrapped__", masking.split_tokens)
    with pytest.raises(ValueError, match=message):
        split(mask, PAPER, (2, 5, 10))


# --- targets ----------------------------------------------------------------------------------


@given(
    st.sampled_from(["cube", "pixel", "imagenet"]),
    st.booleans(),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([1.0, 4.0]),
)
def test_inverse_gives_the_clip_back(units, motion, group, scale):
    config, clip = TargetConfig(units, motion, group, motion_scale=scale), clips()
    statistics = targets.cube_statistics(patchify(clip, TUBELET)) if units == "cube" else None
    target = targets.make_target(clip, TUBELET, config)
    back = targets.invert_target(target, grid_of(clip, TUBELET), TUBELET, config, statistics)
    assert (back - clip).abs().max() < 1e-6


def test_targets_are_the_papers_even_frames_and_differences_in_official_units():
    """Cubes are normalised by both frames together, then differenced."""
    clip = clips()
    appearance, motion = targets.make_target(clip, TUBELET, TargetConfig("pixel")).chunk(2, -1)
    even, odd = clip[:, :, ::2], clip[:, :, 1::2]
    assert torch.equal(appearance, patchify(even, (1, 8, 8)))
    assert torch.allclose(motion, patchify(odd - even, (1, 8, 8)))
    cube = clip[0, 1, :2, :8, :8]
    normed = (cube - cube.mean()) / (cube.std(unbiased=True) + 1e-6)
    target = targets.make_target(clip, TUBELET, TargetConfig())[0, 0].view(2, 8, 8, 3)[..., 1]
    assert torch.allclose(target[0], normed[0], atol=1e-6)
    assert torch.allclose(target[1], normed[1] - normed[0], atol=1e-6)


@given(st.floats(0, 1))
def test_loss_weighs_appearance_and_motion(weight):
    """A half: the plain mean."""
    clip, config = clips(), TargetConfig("pixel", motion_weight=weight)
    masked = torch.arange(4, 20).expand(2, -1)
    target = take(targets.make_target(clip, TUBELET, config), masked)
    loss = targets.reconstruction_loss(
        torch.zeros_like(target), target, masked, grid_of(clip, TUBELET), TUBELET, config
    )
    appearance, motion = (part.mean() for part in target.square().chunk(2, -1))
    assert torch.allclose(loss.appearance, appearance) and torch.allclose(loss.motion, motion)
    assert torch.allclose(loss.total, (1 - weight) * appearance + weight * motion)


# --- blocks and models ------------------------------------------------------------------------

stages = st.fixed_dictionaries(
    {
        "local": st.sampled_from(["self", "cross"]),
        "inter": st.booleans(),
        "interact": st.sampled_from(["cross", "self", "none"]),
        "shared": st.sampled_from(["none", "local_interact", "all"]),
        "qkv_bias": st.booleans(),
    }
)


@given(stages)
@settings(max_examples=40, deadline=None)
def test_block_equals_the_formulas_written_as_loops(options):
    """So do its representative tokens alone, and it is the same with the weights kept."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = LGIBlock(24, 3, **options)
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        rep, tokens = torch.randn(2, 4, 24), torch.randn(2, 4, 5, 24)
    got_rep, got_tokens = block.forward_separate(rep, tokens)
    for i in range(len(rep)):
        want_rep, want_tokens = lgi_block_by_loops(block, rep[i], tokens[i])
        assert (got_rep[i] - want_rep).abs().max() < 1e-5 * want_rep.abs().max().clamp(min=1)
        assert (got_tokens[i] - want_tokens).abs().max() < 1e-5 * want_tokens.abs().max().clamp(1)
    alone, _ = block.forward_separate(rep, tokens, rep_only=True)
    assert torch.allclose(alone, got_rep, atol=1e-5)
    weights: dict[str, torch.Tensor] = {}
    kept = block.forward_separate(rep, tokens, weights=weights)
    for a, b in zip(kept, (got_rep, got_tokens), strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)
    stages = {"local": True, "inter": options["inter"], "interact": options["interact"] != "none"}
    assert set(weights) == {stage for stage, is_there in stages.items() if is_there}
    assert all(torch.allclose(w.sum(-1), torch.ones(()), atol=1e-5) for w in weights.values())


def test_attention_without_key_bias_and_with_context():
    attn = Attention(16, 2)
    assert {name for name, _ in attn.named_parameters()} == {
        "qkv.weight", "q_bias", "v_bias", "proj.weight", "proj.bias"
    }  # fmt: skip
    x, context = torch.randn(2, 3, 16), torch.randn(2, 7, 16)
    assert torch.allclose(attn(x, x), attn(x), atol=1e-6)
    assert torch.allclose(attn(x, context), attn.with_weights(x, context)[0], atol=1e-6)
    half = attn.bfloat16()(x.bfloat16(), context.bfloat16())
    assert half.dtype == torch.bfloat16 and half.isfinite().all()
    block = ViTBlock(16, 2)
    assert torch.allclose(block(context, last=4), block(context)[:, -4:], atol=1e-6)


def test_blocks_of_the_encoder_grow_their_drop_path_from_zero():
    blocks = build_autoencoder(replace(CONFIG, depth=3, drop_path=0.1)).encoder.blocks
    assert [round(block.drop_path.rate, 3) for block in blocks] == [0.0, 0.05, 0.1]  # type: ignore


# Those that can keep a quarter.
REGIONS = [r for r in region_shapes(Grid(4, 4, 4)) if r[1] * r[2] % 4 == 0]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("region", REGIONS)
def test_every_visible_token_meets_its_own_position_in_the_decoder(region, legacy):
    """With cubes that say nothing and blocks that do nothing, a token is its position (B1)."""
    config = replace(CONFIG, region=region, decoder_width=32, legacy_visible_order=legacy)
    model = build_autoencoder(config)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.zeros_(parameter)
    split = model.split(masks(model))
    tokens = model.encoder(clips(), split.visible).tokens
    own = sincos_positions(model.grid.n, 32)
    is_right = torch.isclose(tokens, own[split.decoder_positions], atol=1e-5).all(-1)
    assert torch.allclose(tokens, own[split.visible], atol=1e-5)
    right_order = region[0] == 1 or region[1:] == (4, 4)
    assert bool(is_right.all()) is (not legacy or right_order)


@pytest.mark.parametrize("encoder", ["lgi", "vit"])
def test_thirty_steps_on_one_clip_beat_predicting_zero(encoder):
    preset = tiny(encoder)
    model = build_autoencoder(preset.model, preset.target)
    clip, mask = clips(1), masks(model, 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    zero = model(clip, mask).target.square().mean()
    for _ in range(30):
        loss = model(clip, mask).loss
        loss.total.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss.appearance + loss.motion < 2 * zero
    videomae = build_autoencoder(preset.model, TargetConfig(motion=False))
    loss = videomae(clip, mask).loss
    assert loss.motion == 0 and loss.total == loss.appearance


def test_the_same_seed_builds_the_same_model_and_leaves_the_global_state():
    before = torch.get_rng_state()
    a, b, c = (build_autoencoder(CONFIG, seed=s).decoder.head.weight for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, b) and not torch.equal(a, c)
    logits = build_classifier(CONFIG, 7).eval()(clips())
    assert logits.shape == (2, 7) and (logits.abs() < 0.1).all(), "they start near zero"


# --- reconstruction ---------------------------------------------------------------------------


def clip_and_mask(model):
    return clips(1)[0], masks(model, 1)[0]


@pytest.mark.parametrize("units", ["cube", "pixel", "imagenet"])
def test_a_perfect_prediction_gives_the_clip_back(units, monkeypatch):
    model = build_autoencoder(CONFIG, TargetConfig(units, motion_scale=4.0))
    clip, mask = clip_and_mask(model)
    truth = targets.make_target(clip[None], CONFIG.tubelet, model.target)
    monkeypatch.setattr(model, "predict", lambda _, split: take(truth, split.masked))
    result = reconstruct_clip(model, clip, mask, statistics="true")
    assert np.abs(result.reconstruction - result.original).max() < 1e-5
    assert np.abs(result.predicted_motion - result.motion).max() < 1e-5
    assert result.losses["model"] == {"appearance": 0.0, "motion": 0.0}
    assert result.losses["zero"]["appearance"] > 0 and result.error.max() == 0


@pytest.mark.parametrize(("units", "encoder"), [("cube", "lgi"), ("imagenet", "vit")])
def test_nothing_is_borrowed_from_hidden_pixels(units, encoder):
    model = build_autoencoder(tiny(encoder).model, TargetConfig(units))
    clip, mask = clip_and_mask(model)
    emptied = hide(clip, mask, CONFIG.tubelet)
    full, empty = (reconstruct_clip(model, c, mask, statistics="visible") for c in (clip, emptied))
    assert np.array_equal(full.reconstruction, empty.reconstruction)
    assert np.array_equal(full.interpolation, empty.interpolation)
    flat = reconstruct_clip(model, torch.full_like(clip, 0.3), mask)
    np.testing.assert_allclose(flat.interpolation, 0.3, atol=1e-6)
    assert full.statistics == ("visible" if units == "cube" else "none")
    if units == "cube":  # the usual trick does borrow
        other = [reconstruct_clip(model, c, mask, statistics="true") for c in (clip, emptied)]
        assert not np.allclose(other[0].reconstruction, other[1].reconstruction)


def test_visible_cubes_stay_as_they_are_and_losses_are_those_of_the_held_out_measure():
    model = build_autoencoder(CONFIG, tiny().target)
    clip, mask = clip_and_mask(model)
    result = reconstruct_clip(model, clip, mask)
    hidden = hide(torch.zeros_like(clip), mask, CONFIG.tubelet).permute(1, 2, 3, 0).numpy() > 0
    for name in ("masked", "reconstruction", "interpolation"):
        assert np.array_equal(getattr(result, name)[~hidden], result.original[~hidden])
    assert (result.masked[hidden] == 0.5).all()
    assert ((result.error > 0) == mask.view(model.grid.shape).numpy()).all()
    held_out = HeldOut(model, clip[None], 0.75)
    held_out.parts = [(clip[None], model.split(mask[None]))]
    for name, losses in {"model": held_out.losses(), **held_out.baselines()}.items():
        assert result.losses[name] == pytest.approx(losses, rel=1e-4)


def test_token_order_can_be_switched():
    model = build_autoencoder(CONFIG, tiny().target)
    clip, mask = clip_and_mask(model)
    own, right, published = (
        reconstruct_clip(model, clip, mask, token_order=order)
        for order in ("model", "right", "published")
    )
    assert own.losses == right.losses != published.losses
    with pytest.raises(ValueError, match="frame=3 must be even"):
        reconstruction_rows([(own, 3)])
    legacy = build_autoencoder(replace(CONFIG, legacy_visible_order=True), tiny().target)
    assert reconstruct_clip(legacy, clip, mask).losses == published.losses


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c[0], "batch axis"),
        (lambda c: c[:, :, :4], "does not fit"),
        (lambda c: c[..., :24], "does not fit"),
        (lambda c: (c * 255).byte(), "divide bytes by 255"),
        (lambda c: c * 255, "must be finite and lie in"),
        (lambda c: c - 0.5, "must be finite and lie in"),
        (lambda c: torch.where(c > 0.99, torch.nan, c), "must be finite and lie in"),
        (lambda c: c.numpy(), "not a tensor"),
        (lambda c: c.double(), r"float64 does not fit.*clip\.to\(torch\.float32\)"),
    ],
)
def test_unfit_clips_are_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        # Not through the model: the shape checks of the tests would speak first.
        check_clip(spoil(clips()), CONFIG, torch.float32)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: check_region(PAPER, (2, 4, 10)), r"region=\(2, 4, 10\).*\(2, 5, 10\)"),
        (lambda: build_autoencoder(ModelConfig(region=(3, 5, 10), depth=1)), r"region=\(3, 5, 10"),
        (lambda: build_autoencoder(ModelConfig(size_px=150, depth=1)), "tubelet"),
        (lambda: Grid.of_clip(16, 165, 170, (2, 16, 16)), r"tubelet=\(2, 16.*\(16, 160, 160\)"),
        (lambda: patchify(torch.zeros(1, 3, 3, 4, 4), (2, 4, 4)), "tubelet"),
        (lambda: grid_positions(PAPER, 16), "width=16 must be a multiple of 6"),
        *((lambda r=ratio: masking.region_tube_mask(PAPER, (2, 5, 10), r), f"mask_ratio=.*{words}")
          for ratio, words in ((0.93, "0.92 or 0.94"), (0.99, "0.98"), (0.0, "between"),
                               (1.5, "0.9"))),
        (lambda: TargetConfig("normalised"), "cube, pixel, imagenet"),
        (lambda: TargetConfig(motion_weight=2), "motion_weight=2"),
        (lambda: targets.make_target(clips(), TUBELET, TargetConfig(motion_group=3)),
         "motion_group=3"),
        (lambda: targets.invert_target(torch.zeros(1, 64, 384), Grid(4, 4, 4), TUBELET,
                                       TargetConfig()), "cube_statistics"),
        (lambda: ModelConfig(width=100, num_heads=8), "num_heads"),
        (lambda: ModelConfig(encoder="cnn"), "lgi, vit"),
        (lambda: build_classifier(tiny("vit").model, 7, "rep"), "tokens='tokens'"),
        (lambda: check_batch(2, 1), "1 masks do not fit a batch of 2.*num_clips=2"),
        (lambda: ModelConfig(depth=-1), "depth"),
        (lambda: ModelConfig(mlp_ratio=0.0), "mlp_ratio"),
        (lambda: ModelConfig(mlp_ratio=float("nan")), "mlp_ratio"),
        (lambda: ModelConfig(frames=0), "frames"),
        (lambda: ModelConfig(size_px=0.5), "size_px"),
        (lambda: ModelConfig(size_px=16_000), "a clip of"),
        (lambda: ModelConfig(tubelet=(0, 1, 1)), "tubelet"),
        (lambda: ModelConfig(region=(2, 5)), "three numbers"),
        (lambda: ModelConfig(tubelet=(2, 16)), "three numbers"),
        (lambda: replace(tiny(), mask_ratio=(1.0,)), "mask_ratio"),
        (lambda: replace(tiny(), mask_ratio=0.75), "mask_ratio"),
        (lambda: replace(tiny(), difficulty=9.0), "difficulty"),
    ],
)  # fmt: skip
def test_unfit_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
