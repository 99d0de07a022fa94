# pyright: reportArgumentType=false, reportCallIssue=false

from dataclasses import replace

import pytest
import torch

from maedfer_lab.config import ModelConfig, TargetConfig, tiny
from maedfer_lab.method.grid import check_clip, region_shapes, sincos_positions
from maedfer_lab.method.masking import region_tube_mask
from maedfer_lab.method.models import build_autoencoder, build_classifier, check_batch


def clips(config: ModelConfig, num=2):
    size = (num, 3, config.frames, config.size_px, config.size_px)
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def masks(model, ratio=0.75, num=2):
    generator = torch.Generator().manual_seed(0)
    return region_tube_mask(model.grid, model.config.region, ratio, num, generator=generator)


TINY_GRID = build_autoencoder(tiny().model).grid
REGIONS = [r for r in region_shapes(TINY_GRID) if r[1] * r[2] % 4 == 0]  # can keep a quarter


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("region", REGIONS)
def test_every_visible_token_meets_its_own_position_in_the_decoder(region, legacy):
    """With cubes that say nothing and blocks that do nothing, a token is its position (B1)."""
    config = replace(tiny().model, region=region, decoder_width=32, legacy_visible_order=legacy)
    model = build_autoencoder(config)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.zeros_(parameter)
    split = model.split(masks(model))
    tokens = model.encoder(clips(config), split.visible).tokens
    own = sincos_positions(model.grid.n, 32)
    is_right = torch.isclose(tokens, own[split.decoder_positions], atol=1e-5).all(-1)
    assert torch.allclose(tokens, own[split.visible], atol=1e-5)
    right_order = region[0] == 1 or region[1:] == (4, 4)
    assert bool(is_right.all()) is (not legacy or right_order)


@pytest.mark.parametrize("encoder", ["lgi", "vit"])
def test_thirty_steps_on_one_clip_beat_predicting_zero(encoder):
    preset = tiny(encoder)
    model = build_autoencoder(preset.model, preset.target)
    clip, mask = clips(preset.model, 1), masks(model, num=1)
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


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("tokens", ["rep", "tokens", "all"])
def test_classifier_pools_what_it_says(tokens, pooling):
    """Without what the last block does for nobody; and it starts with logits near zero."""
    config = tiny().model
    model, clip = build_classifier(config, 7, tokens, pooling).eval(), clips(config)
    assert model(clip).shape == (2, 7) and (model(clip).abs() < 0.1).all()
    whole = model.encoder(clip)
    parts = {"rep": [whole.rep_tokens], "tokens": [whole.tokens]}
    read = torch.cat(parts.get(tokens, [whole.rep_tokens, whole.tokens]), 1)
    pooled = model.fc_norm(read[:, 0] if pooling == "first" else read.mean(1))
    assert torch.allclose(model.features(clip), pooled, atol=1e-5)


def test_the_same_seed_builds_the_same_model_and_leaves_the_global_state():
    before = torch.get_rng_state()
    a, b, c = (build_autoencoder(tiny().model, seed=s).decoder.head.weight for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, b) and not torch.equal(a, c)


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
        check_clip(spoil(clips(tiny().model)), tiny().model, torch.float32)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_autoencoder(ModelConfig(region=(3, 5, 10), depth=1)),
         r"region=\(3, 5, 10\).*\(2, 5, 10\)"),
        (lambda: build_autoencoder(ModelConfig(size_px=150, depth=1)), "tubelet"),
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
