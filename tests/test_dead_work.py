"""What the fast ways leave out changes no result: each against the same thing written plainly."""

import copy
import pickle
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from maedfer_lab import fast
from maedfer_lab.bench.floor import Operators
from maedfer_lab.config import TargetConfig, tiny
from maedfer_lab.fast import linear, speed_up
from maedfer_lab.method.attention import Attention, LGIBlock
from maedfer_lab.method.grid import patchify, take
from maedfer_lab.method.masking import region_tube_mask
from maedfer_lab.method.models import build_autoencoder, build_classifier
from maedfer_lab.method.targets import make_target, normalise_pixels
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
@pytest.mark.parametrize("shape", [(7, 48), (2, 3, 4, 48), (1, 1, 48), (0, 48)])
def test_products_and_their_gradients_are_pytorchs(shape, gelu, dtype):
    for bias in ([seeded(40, seed=2).to(dtype)], []):
        x, weight = seeded(*shape).to(dtype), seeded(40, 48, seed=1).to(dtype)
        leaves = [leaf.requires_grad_() for leaf in (x, weight, *bias)]
        plain = F.linear(*leaves)
        plain = F.gelu(plain) if gelu else plain
        trained = linear(*leaves, gelu=gelu)
        with torch.no_grad():
            evaluated = linear(*leaves, gelu=gelu)
        assert trained.dtype == evaluated.dtype == dtype
        if x.numel():
            assert_close([trained, evaluated], [plain, plain])
            assert_close(gradients(trained, leaves), gradients(plain, leaves))


@pytest.mark.parametrize("graded", [True, False])
def test_what_does_not_fit_is_pytorchs_to_refuse(graded):
    """oneDNN looks at neither: a wrong bias went through, a wrong type was cast."""
    x, weight = seeded(3, 48).requires_grad_(graded), seeded(40, 48, seed=1)
    with torch.set_grad_enabled(graded):
        for bias in (seeded(1), seeded(1)[0]):
            assert_close([linear(x, weight, bias)], [F.linear(x, weight, bias)])
        assert linear(x, weight[0]).shape == (3,)
        for wrong in ((weight.double(),), (weight[:, :9],), (weight, seeded(7))):
            with pytest.raises(RuntimeError) as plain:
                F.linear(x, *wrong)
            with pytest.raises(RuntimeError) as found:
                linear(x, *wrong)
            assert str(found.value) == str(plain.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inputs", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("graded", [True, False])
def test_autocast_chooses_the_type_that_it_would(inputs, dtype, graded):
    x, weight = seeded(3, 48).to(inputs), seeded(40, 48, seed=1).to(inputs)
    weight.requires_grad_(graded)
    with torch.autocast("cpu", dtype), torch.set_grad_enabled(graded):
        found, wanted = linear(x, weight), F.linear(x, weight)
    assert found.dtype == wanted.dtype
    assert (found - wanted).abs().max() <= 2**-7 * wanted.abs().max()


@pytest.mark.parametrize("frozen", range(8))
def test_any_part_may_be_frozen_and_derived_twice(frozen):
    parts = seeded(3, 48), seeded(40, 48, seed=1), seeded(40, seed=2)
    leaves = [part for i, part in enumerate(parts) if not frozen >> i & 1]
    for leaf in leaves:
        leaf.requires_grad_()
    found, plain = linear(*parts, gelu=True), F.gelu(F.linear(*parts))
    assert found.requires_grad == plain.requires_grad == bool(leaves)
    if leaves:
        once = torch.autograd.grad(found.square().sum(), leaves, create_graph=True)
        wanted = torch.autograd.grad(plain.square().sum(), leaves, create_graph=True)
        assert_close(once, wanted)
        once, wanted = (torch.cat([g.flatten() for g in grads]) for grads in (once, wanted))
        assert_close(gradients(once, leaves), gradients(wanted, leaves), 1e-4)


def test_transforms_and_forward_derivatives_go_through():
    x, weight = seeded(2, 3, 48), seeded(40, 48, seed=1)
    vectors = torch.func.vmap(lambda one: linear(one, weight))(x)
    assert_close([vectors], [F.linear(x, weight)])
    slopes = torch.func.grad(lambda w: linear(x, w).square().sum())(weight)
    assert_close([slopes], [torch.func.grad(lambda w: F.linear(x, w).square().sum())(weight)])
    for graded in (True, False):
        with torch.set_grad_enabled(graded):
            along = torch.func.jvp(lambda w: linear(x, w), (weight,), (weight,))
            assert_close(along, [F.linear(x, weight)] * 2)


def test_pytorchs_product_is_taken_where_onednn_is_not_what_it_was(monkeypatch):
    def gone(*_):
        raise AttributeError("no operator of this name")

    try:
        for changed in (gone, lambda x, weight, *_: x @ weight.t()):
            fast.has_onednn.cache_clear()
            monkeypatch.setattr(fast, "_onednn", changed)
            x, weight, bias = seeded(3, 48), seeded(40, 48, seed=1), seeded(40, seed=2)
            assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    finally:
        fast.has_onednn.cache_clear()


# ---------------------------------------------------------------------- whole models


def tiny_classifier(**options):
    """With weights large enough for every stage to show in the logits.

    Two regions of one token each to 32: the third stage is folded.
    """
    model = build_classifier(replace(tiny().model, **options), 7).eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.data += 0.2 * seeded(*parameter.shape, seed=i)
    return model, seeded(2, 3, model.config.frames, 32, 32).sigmoid()


LONG = {"frames": 64, "region": (32, 4, 4), "num_heads": 1}  # 1 representative token of 512: folded


@pytest.mark.parametrize("options", [{}, LONG, {"encoder": "vit"}, {"qkv_bias": False, **LONG}])
@pytest.mark.parametrize("has_onednn", [True, False])
def test_a_model_speeded_up_gives_the_same_numbers(options, has_onednn, monkeypatch):
    if not has_onednn:
        monkeypatch.setattr(fast, "has_onednn", lambda: False)
    plain, clip = tiny_classifier(**options)
    quick = speed_up(copy.deepcopy(plain))
    assert quick.state_dict().keys() == plain.state_dict().keys()
    assert any(type(m) is fast.FastAttention for m in quick.modules())
    monkeypatch.setenv("MAEDFER_FAST", "0")
    off = speed_up(copy.deepcopy(plain))
    assert not any(type(m).__module__ == fast.__name__ for m in off.modules())
    monkeypatch.delenv("MAEDFER_FAST")
    assert_close([quick(clip)], [plain(clip)])
    pairs = zip(quick.named_parameters(), plain.named_parameters(), strict=True)
    used = [(a, b) for (name, a), (_, b) in pairs if "blocks.1.interact" not in name]
    leaves = [list(side) for side in zip(*used, strict=True)]
    assert_close(gradients(quick(clip), leaves[0]), gradients(plain(clip), leaves[1]), 1e-4)
    masked, targets = build_autoencoder(tiny().model, tiny().target), tiny().model
    mask = region_tube_mask(masked.grid, targets.region, 0.75, 2)
    clip = seeded(2, 3, 8, 32, 32).sigmoid()
    wanted = masked(clip, mask).loss.total
    assert_close([speed_up(masked)(clip, mask).loss.total], [wanted])


def test_the_folded_order_is_taken_where_it_is_much_less_work(monkeypatch):
    """The paper's third stage in fine-tuning; not with the few visible tokens of pre-training."""
    taken = []
    folded = fast.FastAttention._folded
    monkeypatch.setattr(
        fast.FastAttention, "_folded", lambda *a: taken.append(a[1].shape[1]) or folded(*a)
    )
    attn = speed_up(Attention(512, 8))
    for tokens, context in ((800, 8), (80, 8), (8, 800), (800, 720)):
        with torch.no_grad():
            attn(torch.zeros(1, tokens, 512), torch.zeros(1, context, 512))
    assert taken == [800]


@pytest.mark.parametrize("options", [{}, LONG])
def test_models_are_traced_exported_copied_and_counted(options):
    model, clip = tiny_classifier(**options)
    model = speed_up(model)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = model(clip)
        mlp, z = model.get_submodule("encoder.blocks.0.mlp"), seeded(2, 5, 32)
        assert_close([torch.jit.trace(mlp, z)(z)], [mlp(z)])  # type: ignore
        assert_close([torch.export.export(model, (clip,)).module()(clip)], [wanted])
        assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(model)))(clip), wanted)
        assert torch.equal(model(clip), wanted)  # nothing stays behind
        assert model(clip[:0]).shape == (0, 7)
        assert_close([model(clip.contiguous(memory_format=torch.channels_last_3d))], [wanted])
        assert_close([model(clip[:1].expand(2, -1, -1, -1, -1))], [wanted[:1].expand(2, -1)])
        counts = []
        for device in ("cpu", "meta"):
            with FlopCounterMode(display=False) as counter:
                model.to(device)(clip.to(device))
            counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, LONG])
def test_models_of_other_types_run_and_train(options, dtype):
    model, clip = tiny_classifier(**options)
    wanted = model(clip)
    model, clip = speed_up(model).to(dtype), clip.to(dtype)
    tolerance = {torch.float64: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    trained = model(clip)
    with torch.inference_mode():
        evaluated = model(clip)
    assert trained.dtype == evaluated.dtype == dtype
    assert_close([trained.float(), evaluated.float()], [wanted, wanted], tolerance)
    trained.float().sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


def test_layers_that_are_listened_to_or_wrapped_are_not_gone_round():
    """As `peft` wraps a linear layer, and as features are read by forward hooks."""
    model, clip = tiny_classifier(**LONG)
    model, called = speed_up(model), []
    for name, module in model.named_modules():
        if name.endswith("_attn.proj") or isinstance(module, LGIBlock):
            module.register_forward_hook(lambda m, i, out, name=name: called.append(name))
    wanted = model(clip)
    last = {"encoder.blocks.1.interact_attn.proj"}  # its work is dead
    everything = {f"encoder.blocks.{i}{part}" for i in range(2) for part in
                  ("", ".local_attn.proj", ".inter_attn.proj", ".interact_attn.proj")}  # fmt: skip
    assert set(called) == everything - last and len(called) == len(set(called))

    class Wrapped(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.weight, self.bias = inner, inner.weight, inner.bias

        def forward(self, x):
            return 2 * self.inner(x)

    name = "encoder.blocks.0.interact_attn.proj"
    model.set_submodule(name, Wrapped(model.get_submodule(name)))
    assert (model(clip) - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("colours_last", [False, True])  # as videos are read
@pytest.mark.parametrize("group", [2, 4])  # within a cube; from cube to cube
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("motion", [True, False])
@pytest.mark.parametrize("units", ["cube", "pixel", "imagenet"])
def test_targets_of_hidden_cubes_alone_are_those_of_all(units, motion, scale, group, colours_last):
    config = TargetConfig(units=units, motion=motion, motion_scale=scale, motion_group=group)
    clip, index = seeded(2, 3, 8, 16, 24).sigmoid(), torch.stack([torch.randperm(48)[:9]] * 2)
    if colours_last:
        clip = clip.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    wanted = take(make_target(clip, (2, 4, 8), config), index)
    assert torch.equal(make_target(clip, (2, 4, 8), config, index=index), wanted)
    if units == "imagenet" and not motion:
        plain = take(patchify(normalise_pixels(clip), (2, 4, 8)), index)
        assert torch.equal(wanted, plain)


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


def test_runs_begun_with_the_other_step_go_on_with_this_one():
    config = tiny()
    model = build_autoencoder(config.model, config.target)
    old, new = (make_optimiser(model, config.optim) for _ in range(2))
    for parameter in model.parameters():
        parameter.grad = seeded(*parameter.shape)
    old.step()
    state = copy.deepcopy(old.state_dict())
    for group in state["param_groups"]:  # as it was saved
        group |= {"fused": None, "foreach": None, "lr": 0.5}
    new.load_state_dict(state)
    assert all(group["fused"] and group["lr"] == 0.5 for group in new.param_groups)
    assert not any(group["fused"] for group in state["param_groups"])
    old.load_state_dict(old.state_dict())
    first = next(model.parameters())
    assert torch.equal(new.state[first]["exp_avg"], old.state[first]["exp_avg"])
    with Operators() as ran:
        new.step()
    assert any("fused_adamw" in name for name in ran.names)
