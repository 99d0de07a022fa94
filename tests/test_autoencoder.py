from dataclasses import replace

import pytest
import torch

from maedfer_lab.config import ModelConfig, TargetConfig, base, demo, tiny
from maedfer_lab.method.grid import region_shapes, sincos_positions
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
def test_hidden_pixels_do_not_reach_the_prediction(encoder):
    config = tiny(encoder).model
    model = build_autoencoder(config).eval()
    clip, mask = clips(config), masks(model)
    split = model.split(mask)
    hidden = mask.view(2, *model.grid.shape)
    for axis, times in ((1, 2), (2, 8), (3, 8)):
        hidden = hidden.repeat_interleave(times, axis)
    other = torch.where(hidden[:, None], 0.5, clip)
    assert torch.equal(model.predict(clip, split), model.predict(other, split))


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


def test_parameter_counts_are_the_papers():
    counts = {
        name: sum(p.numel() for p in model.parameters())
        for name, model in {
            "LGI-B, 7 classes": build_classifier(base().model, 7),
            "LGI-B, 11 classes": build_classifier(base().model, 11),
            "ViT-B, 7 classes": build_classifier(base("vit").model, 7),
            "LGI-B, pre-training": build_autoencoder(base().model),
            "ViT-B, pre-training": build_autoencoder(base("vit").model),
        }.items()
    }
    assert counts == {
        "LGI-B, 7 classes": 84_878_343,
        "LGI-B, 11 classes": 84_880_395,
        "ViT-B, 7 classes": 86_232_583,
        "LGI-B, pre-training": 92_760_192,
        "ViT-B, pre-training": 94_210_944,
    }


def test_demo_keeps_the_papers_token_geometry():
    for encoder in ("lgi", "vit"):
        model = build_autoencoder(demo(encoder).model)
        assert model.grid.shape == (8, 10, 10)
        assert 3e6 < sum(p.numel() for p in model.parameters()) < 3.7e6


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("tokens", ["rep", "tokens", "all"])
def test_classifier_pools_what_it_says(tokens, pooling):
    config = tiny().model
    model = build_classifier(config, 7, tokens, pooling).eval()
    assert model(clips(config)).shape == (2, 7)
    assert (model(clips(config)).abs() < 0.1).all()  # starts with logits near zero


def test_skipping_the_last_blocks_dead_work_changes_no_logit():
    config = tiny().model
    model = build_classifier(config, 7, "rep").eval()
    rep = model.encoder(clips(config)).rep_tokens
    assert rep is not None
    assert torch.allclose(model.features(clips(config)), model.fc_norm(rep.mean(1)), atol=1e-5)


def test_the_same_seed_builds_the_same_model_and_leaves_the_global_state():
    before = torch.get_rng_state()
    models = [build_autoencoder(tiny().model, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    weights = [m.decoder.head.weight for m in models]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda c: c[0], "batch axis"),
        (lambda c: c[:, :, :4], "does not fit"),
        (lambda c: c[..., :24], "does not fit"),
        (lambda c: (c * 255).byte(), "divide bytes by 255"),
        (lambda c: c * 255, "must be finite and lie in"),
        (lambda c: c - 0.5, "must be finite and lie in"),
        (lambda c: torch.where(c > 0.99, torch.nan, c), "must be finite and lie in"),
        (lambda c: c.numpy(), "not a tensor"),
    ],
)
def test_unfit_clips_are_refused(spoil, told):
    model = build_autoencoder(tiny().model)
    clip = spoil(clips(tiny().model))
    with pytest.raises(ValueError, match=told):
        # The undecorated method: the shape checks of the tests would speak first.
        from maedfer_lab.method.grid import check_clip

        check_clip(clip, model.config)


def test_unfit_models_are_refused():
    with pytest.raises(ValueError, match=r"region=\(3, 5, 10\).*\(2, 5, 10\)"):
        build_autoencoder(ModelConfig(region=(3, 5, 10), depth=1))
    with pytest.raises(ValueError, match="tubelet"):
        build_autoencoder(ModelConfig(size_px=150, depth=1))
    with pytest.raises(ValueError, match="num_heads"):
        ModelConfig(width=100, num_heads=8)
    with pytest.raises(ValueError, match="lgi, vit"):
        ModelConfig(encoder="cnn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tokens='tokens'"):
        build_classifier(tiny("vit").model, 7, "rep")


def test_videomae_is_a_configuration():
    preset = tiny("vit")
    model = build_autoencoder(preset.model, TargetConfig(motion=False))
    loss = model(clips(preset.model), masks(model)).loss
    assert loss.motion == 0 and loss.total == loss.appearance


def test_wrong_types_numbers_and_masks_are_told():
    model = build_autoencoder(tiny().model)
    clip, mask = clips(tiny().model), masks(model)
    with pytest.raises(ValueError, match=r"float64 does not fit.*clip\.to\(torch\.float32\)"):
        model(clip.double(), mask)
    with pytest.raises(ValueError, match=r"1 masks do not fit a batch of 2.*num_clips=2"):
        check_batch(len(clip), len(mask[:1]))
    for wrong in ({"depth": -1}, {"mlp_ratio": 0.0}, {"frames": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ModelConfig(**wrong)  # type: ignore[arg-type]
    for wrong in ({"region": (2, 5)}, {"tubelet": (2, 16)}):
        with pytest.raises(ValueError, match="three numbers"):
            ModelConfig(**wrong)  # type: ignore[arg-type]
    for wrong in ({"mask_ratio": (1.0,)}, {"mask_ratio": 0.75}, {"difficulty": 9.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(tiny(), **wrong)
