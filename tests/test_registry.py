"""timm's registry: the names, and timm's habits."""

import pytest
import timm
import torch
from accelerate import init_empty_weights
from timm.data.config import resolve_data_config
from timm.optim._param_groups import param_groups_layer_decay

from maedfer_lab.checkpoints.registry import POOLING, TimmClassifier
from maedfer_lab.config import tiny
from maedfer_lab.method.models import build_classifier


def clips():
    return torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "num_classes", "count"),
    [
        ("lgi_former_base_patch16_160", 7, 84_878_343),
        ("lgi_former_base_patch16_160", 11, 84_880_395),
        ("vit_base_patch16_160_video", 7, 86_232_583),
    ],
)
def test_timm_creates_the_models_by_name(name, num_classes, count):
    assert name in timm.list_models("*160*")
    with init_empty_weights():
        model = timm.create_model(name, num_classes=num_classes, drop_path_rate=0.1)
    assert sum(p.numel() for p in model.parameters()) == count
    assert isinstance(model, TimmClassifier)
    assert model.config.drop_path == 0.1 and model.num_features == model.config.width
    data = resolve_data_config(model=model)
    assert data["mean"] == (0, 0, 0) and data["std"] == (1, 1, 1)


@pytest.mark.parametrize("global_pool", ["avg", "token"])
@pytest.mark.parametrize(("tokens", "num_tokens"), [("rep", 4), ("tokens", 64), ("all", 68)])
def test_features_and_head_make_the_classifiers_logits(tokens, num_tokens, global_pool):
    model = TimmClassifier(tiny().model, 5, tokens=tokens, global_pool=global_pool).eval()
    pooling = POOLING[global_pool]
    plain = build_classifier(tiny().model, 5, tokens, pooling).eval()
    plain.load_state_dict(model.state_dict())
    features = model.forward_features(clips())
    assert features.shape == (2, num_tokens, 32)
    assert torch.equal(model.forward_head(features), plain(clips()))
    assert torch.equal(model(clips()), plain(clips()))
    assert torch.equal(model.forward_head(features, pre_logits=True), plain.features(clips()))


def test_the_head_is_reset():
    model = TimmClassifier(tiny().model, 5)
    model.reset_classifier(3, global_pool="token")
    assert model(clips()).shape == (2, 3) and model.pooling == "first"
    assert model.get_classifier() is model.head and model.num_classes == 3
    model.reset_classifier(0)
    assert model(clips()).shape == (2, 32)
    assert TimmClassifier(tiny().model, 0)(clips()).shape == (2, 32)
    with pytest.raises(ValueError, match="global_pool='map'"):
        model.reset_classifier(3, global_pool="map")


def test_decay_and_layer_rates_are_those_of_official_fine_tuning():
    model = TimmClassifier(tiny().model, 5)
    assert model.no_weight_decay() == {"encoder.rep_tokens"}
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5
    )
    place = {id(p): g for g in groups for p in g["params"]}
    scale = {name: place[id(p)]["lr_scale"] for name, p in model.named_parameters()}
    assert scale["encoder.embed.proj.weight"] == 0.125
    assert scale["encoder.blocks.1.mlp.fc1.weight"] == 0.5
    assert scale["encoder.rep_tokens"] == scale["head.weight"] == 1
    decay = {name: place[id(p)]["weight_decay"] for name, p in model.named_parameters()}
    assert decay["encoder.rep_tokens"] == 0 and decay["head.weight"] == 0.05


@pytest.mark.parametrize("option", [{"in_chans": 1}, {"img_size": (32, 16)}, {"pretrained": True}])
def test_what_the_models_do_not_do_is_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        timm.create_model("lgi_former_base_patch16_160", **option)
