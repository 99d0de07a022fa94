"""Layer decay against a slow loop over official names, and what is spared from weight decay."""

from dataclasses import replace

import pytest
import torch
from accelerate import init_empty_weights

from maedfer_lab.checkpoints.official import to_official
from maedfer_lab.config import FinetuneConfig, ModelConfig, OptimConfig, tiny
from maedfer_lab.method.models import Classifier, build_autoencoder, build_classifier
from maedfer_lab.training.optim import finetune_optimiser, make_optimiser

CONFIG = FinetuneConfig(model=tiny().model, layer_decay=0.75)


def groups_of(model, config):
    """Rate's scale and weight decay of every parameter, by name."""
    name_of = {id(p): name for name, p in model.named_parameters()}
    return {
        name_of[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in finetune_optimiser(model, config).param_groups
        for p in group["params"]
    }


def official_layer(name, depth):
    """As the official code counts: by the first words of an official name."""
    if name.startswith("patch_embed"):
        return 0
    if name.startswith("blocks"):
        return int(name.split(".")[1]) + 1
    return depth + 1


@pytest.mark.parametrize(("size", "times"), [(tiny().model, 2.37), (ModelConfig(), 133)])
def test_rates_of_all_parameters_are_those_of_the_official_names(size, times):
    with init_empty_weights():
        model = Classifier(size, 7)
    found = groups_of(model, CONFIG)
    own = {p.untyped_storage()._cdata: name for name, p in model.named_parameters()}
    assert found.keys() == {name for name, _ in model.named_parameters()}
    fast, slow = (found[f"encoder.{name}"][0] for name in ("rep_tokens", "embed.proj.weight"))
    assert fast == 1 and fast / slow == pytest.approx(times, abs=0.1)
    for official, value in to_official(model).items():
        slow = 0.75 ** (size.depth + 1 - official_layer(official, size.depth))
        spared = value.ndim == 1 or official.endswith(".bias") or official == "lg_region_tokens"
        want = pytest.approx(slow), 0.0 if spared else 0.05
        assert found[own[value.untyped_storage()._cdata]] == want, official


def test_odd_groups_can_be_switched_frozen_ones_are_left_out_and_a_vit_has_layers_too():
    model = build_classifier(CONFIG.model, 7)
    first = groups_of(model, replace(CONFIG, rep_tokens_layer="first", decay_rep_tokens=True))
    assert first["encoder.rep_tokens"] == first["encoder.embed.proj.weight"]
    even = groups_of(model, replace(CONFIG, layer_decay=1.0))
    assert {scale for scale, _ in even.values()} == {1.0}
    model.encoder.requires_grad_(False)
    names = set(groups_of(model, CONFIG))
    assert names == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    vit = replace(CONFIG.model, encoder="vit")
    found = groups_of(build_classifier(vit, 7), replace(CONFIG, model=vit))
    assert found["encoder.blocks.0.attn.qkv.weight"] == (pytest.approx(0.75**2), 0.05)


def give_gradients(model, optimiser, seed):
    for group in optimiser.param_groups:
        group["lr"] = 0.01
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))


def test_muon_moves_matrices_of_blocks_in_all_directions_alike():
    model = build_autoencoder(tiny().model, tiny().target)
    optimiser = make_optimiser(model, OptimConfig(optimiser="muon", weight_decay=0.0))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    give_gradients(model, optimiser, 0)
    optimiser.step()
    for name, parameter in model.named_parameters():
        step = (parameter.detach() - before[name]) / 0.01
        if ".blocks." in name and step.ndim == 2:
            singular = torch.linalg.svdvals(step)
            assert singular.max() < 2 * singular.min(), name
            assert step.square().mean().sqrt() < 0.3, name
        else:  # AdamW's first step
            assert torch.allclose(step.abs(), torch.ones_like(step), atol=0.1), name


def test_a_resumed_muon_goes_on_as_it_would_have(tmp_path):
    def start():
        model = build_autoencoder(tiny().model, tiny().target)
        return model, make_optimiser(model, OptimConfig(optimiser="muon"))

    def step(model, optimiser, number):
        give_gradients(model, optimiser, number)
        optimiser.step()

    (whole, optimiser), (again, resumed) = start(), start()
    step(whole, optimiser, 1)
    torch.save([whole.state_dict(), optimiser.state_dict()], tmp_path / "state.pt")
    step(whole, optimiser, 2)
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    step(again, resumed, 2)
    assert all(map(torch.equal, whole.parameters(), again.parameters()))


def test_only_pre_training_takes_muon():
    with pytest.raises(ValueError, match="optimiser='muon' is for pre-training"):
        replace(CONFIG, optim=OptimConfig(optimiser="muon"))
    with pytest.raises(ValueError, match="optimiser='sgd' is not known"):
        OptimConfig(optimiser="sgd")  # type: ignore
