"""What the fast ways leave out changes no result: each against the same thing written plainly."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from maedfer_lab.config import TargetConfig, tiny
from maedfer_lab.method import folded
from maedfer_lab.method.attention import Attention, LGIBlock
from maedfer_lab.method.autoencoder import build_autoencoder
from maedfer_lab.method.classifier import build_classifier
from maedfer_lab.method.grid import patchify, take, take_cubes
from maedfer_lab.method.masking import region_tube_mask
from maedfer_lab.method.products import linear
from maedfer_lab.method.targets import (
    cube_statistics,
    make_target,
    normalise_cube_pixels,
    normalise_pixels,
)
from maedfer_lab.training.optim import make_optimiser


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(output, leaves):
    weights = seeded(*output.shape, seed=9).to(output.dtype)
    return torch.autograd.grad((output * weights).sum(), leaves)


def assert_close(found, wanted, tolerance=2e-5):
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() < tolerance * b.abs().max().clamp(min=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 48), (2, 5, 48), (2, 3, 4, 48), (1, 1, 48), (0, 48)])
def test_products_and_their_gradients_are_pytorchs(shape, has_bias, gelu, dtype):
    x, weight = seeded(*shape).to(dtype), seeded(40, 48, seed=1).to(dtype)
    bias = [seeded(40, seed=2).to(dtype)] if has_bias else []
    leaves = [leaf.requires_grad_() for leaf in (x, weight, *bias)]
    plain = F.linear(*leaves)
    plain = F.gelu(plain) if gelu else plain
    trained = linear(*leaves, gelu=gelu)
    with torch.no_grad():
        told = linear(*leaves, gelu=gelu)
    assert trained.dtype == told.dtype == dtype
    if x.numel():
        assert_close([trained, told], [plain, plain])
        assert_close(gradients(trained, leaves), gradients(plain, leaves))


def test_products_take_views_and_leave_out_gradients_nobody_asks_for():
    whole = seeded(4, 6, 96)
    x, weight = whole[:, 1:, ::2], seeded(48, 40).t()
    assert_close([linear(x, weight)], [F.linear(x, weight)])
    assert not linear(x, weight).requires_grad
    trained = linear(x, weight.requires_grad_())
    assert_close(gradients(trained, [weight]), gradients(F.linear(x, weight), [weight]))


def test_half_precision_is_autocasts():
    x, weight, bias = seeded(3, 5, 64), seeded(32, 64, seed=1), seeded(32, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = F.linear(x, weight, bias)
        with torch.no_grad():
            found = linear(x, weight, bias)
        trained = linear(x, weight.requires_grad_(), bias)
    assert found.dtype == trained.dtype == wanted.dtype == torch.bfloat16
    assert (found - wanted).abs().max() <= 2**-7 * wanted.abs().max()
    assert (trained - wanted).abs().max() <= 2**-7 * wanted.abs().max()


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize(("tokens", "context"), [(400, 3), (1, 90), (2, 200)])
def test_attention_between_few_and_many_is_attention(tokens, context, qkv_bias):
    """In another order of the same products, with the same gradients."""
    attn = Attention(48, 3, qkv_bias)
    for i, parameter in enumerate(attn.parameters()):
        parameter.data = 0.3 * seeded(*parameter.shape, seed=i)
    assert folded.pays(min(tokens, context), max(tokens, context), 48, 3)
    x = seeded(2, tokens, 48, seed=20).requires_grad_()
    others = seeded(2, context, 48, seed=21).requires_grad_()
    leaves = [x, others, *attn.parameters()]
    fast, (plain, _) = attn(x, others), attn.with_weights(x, others)
    assert_close([fast], [plain])
    assert_close(gradients(fast, leaves), gradients(plain, leaves), 1e-4)


def test_the_other_order_is_taken_where_it_is_much_less_work():
    """The paper's third stage in fine-tuning; not with the few visible tokens of pre-training."""
    assert folded.pays(8, 800, 512, 8) and folded.pays(1, 101, 512, 8)
    assert not folded.pays(8, 80, 512, 8) and not folded.pays(720, 800, 384, 6)


@pytest.mark.parametrize("rep_only", [False, True])
@pytest.mark.parametrize("local", ["self", "cross"])
@pytest.mark.parametrize("interact", ["cross", "self"])
def test_regions_as_one_tensor_are_the_block(local, interact, rep_only):
    block = LGIBlock(24, 3, local=local, interact=interact)
    z = seeded(2, 4, 6, 24)
    rep, tokens = block(z[:, :, 0], z[:, :, 1:], rep_only=rep_only)
    together = block.together(z, rep_only=rep_only)
    assert torch.equal(together[:, :, 0], rep)
    assert torch.equal(tokens, z[:, :, 1:] if rep_only else together[:, :, 1:])


def test_the_last_blocks_dead_work_has_no_gradient():
    model = build_classifier(tiny().model, 7).eval()
    clip = seeded(2, 3, 8, 32, 32).sigmoid()
    names = [n for n, _ in model.named_parameters() if "blocks.1.interact" not in n]
    leaves = [model.get_parameter(name) for name in names]
    whole = model.encoder(clip).rep_tokens
    assert whole is not None
    wanted = gradients(model.head(model.pool(whole)), leaves)
    assert_close(gradients(model(clip), leaves), wanted, 1e-4)


@pytest.mark.parametrize("colours_last", [False, True])
def test_cubes_are_cut_where_they_are_asked_for(colours_last):
    clip = seeded(2, 3, 4, 16, 24)
    if colours_last:  # as videos are read
        clip = clip.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    tubelet, every = (2, 4, 8), torch.stack([torch.randperm(24) for _ in range(2)])
    wanted = take(patchify(clip, tubelet), every)
    assert torch.equal(take_cubes(clip, tubelet, every), wanted)
    few = every[:, :5]
    whole = take(patchify(normalise_pixels(clip), tubelet), few)
    assert torch.equal(normalise_cube_pixels(take_cubes(clip, tubelet, few)), whole)


@pytest.mark.parametrize("group", [2, 4])  # within a cube; from cube to cube
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("motion", [True, False])
@pytest.mark.parametrize("units", ["cube", "pixel", "imagenet"])
def test_targets_of_hidden_cubes_alone_are_those_of_all(units, motion, scale, group):
    config = TargetConfig(units=units, motion=motion, motion_scale=scale, motion_group=group)
    clip, index = seeded(2, 3, 8, 16, 16).sigmoid(), torch.stack([torch.randperm(64)[:9]] * 2)
    wanted = take(make_target(clip, (2, 4, 4), config), index)
    assert torch.equal(make_target(clip, (2, 4, 4), config, index=index), wanted)


def test_deviation_is_pytorchs():
    cubes = seeded(2, 5, 96).sigmoid()
    found, x = cube_statistics(cubes), cubes.unflatten(2, (32, 3))
    assert_close([found.mean, found.std], [x.mean(2), x.std(2) + 1e-6], 1e-6)


@pytest.mark.parametrize("encoder", ["lgi", "vit"])
def test_a_step_waits_for_no_device(encoder):
    """On the meta device there are no values: to ask for one, or to index by booleans, fails."""
    config = tiny(encoder)
    model = build_autoencoder(config.model, config.target)
    mask = region_tube_mask(model.grid, config.model.region, 0.75, 2)
    model = model.to("meta")
    model(torch.empty(2, 3, 8, 32, 32, device="meta"), mask).loss.total.backward()
    assert all(p.grad is not None for p in model.parameters())


class Operators(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def test_one_pass_over_the_parameters_takes_the_same_step():
    config = tiny()
    models = [build_autoencoder(config.model, config.target)]
    models.append(copy.deepcopy(models[0]))
    fast = make_optimiser(models[0], config.optim)
    parts = [{k: g[k] for k in ("params", "weight_decay")} for g in
             make_optimiser(models[1], config.optim).param_groups]  # fmt: skip
    plain = torch.optim.AdamW(parts, lr=0.0, betas=config.optim.betas, fused=False)
    for step in range(3):
        for model, optimiser in zip(models, (fast, plain), strict=True):
            for i, parameter in enumerate(model.parameters()):
                parameter.grad = seeded(*parameter.shape, seed=100 * step + i)
            for group in optimiser.param_groups:
                group["lr"] = 0.01
            with Operators() as ran:
                optimiser.step()
            assert any("fused_adamw" in name for name in ran.names) is (optimiser is fast)
    assert_close(models[0].parameters(), models[1].parameters(), 1e-6)
