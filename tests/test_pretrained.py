"""Folders of save_pretrained: offline, complete, with sharing; timm's registry and its habits."""

import json
import shutil
import socket
from dataclasses import replace

import pytest
import timm
import torch
from accelerate import init_empty_weights
from timm.data.config import resolve_data_config
from timm.optim._param_groups import param_groups_layer_decay

from maedfer_lab.checkpoints.registry import POOLING, TimmClassifier
from maedfer_lab.checkpoints.saving import (
    PretrainedAutoencoder,
    PretrainedClassifier,
    from_pretrained,
    save_pretrained,
)
from maedfer_lab.config import TargetConfig, tiny
from maedfer_lab.method.models import build_autoencoder, build_classifier
from maedfer_lab.weights import shipped


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a local folder needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", ["demo", "demo-expressions"])
def test_shipped_weights_are_compared_with_their_checksum(name, tmp_path):
    for path in shipped(name).iterdir():
        shutil.copy(path, tmp_path)
    assert from_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors .* SHA-256 differs"):
        from_pretrained(tmp_path)


def models():
    config = tiny().model
    return {
        "autoencoder": build_autoencoder(config, TargetConfig(units="pixel", motion_scale=2.0)),
        "classifier": build_classifier(config, 7, "all", "first"),
        "vit": build_classifier(tiny("vit").model, 3),
        "shared": build_classifier(replace(config, shared="all"), 5),
    }


@pytest.mark.parametrize("name", models())
def test_what_was_saved_comes_back(name, tmp_path, capsys):
    model = models()[name]
    assert save_pretrained(model, tmp_path / "out") == tmp_path / "out"
    back = from_pretrained(str(tmp_path / "out"))
    assert back.config == model.config
    torch.testing.assert_close(back.state_dict(), model.state_dict(), rtol=0, atol=0)
    for setting in ("target", "tokens", "pooling"):
        assert getattr(back, setting, None) == getattr(model, setting, None)
    assert not back.training and not any(p.is_meta for p in back.parameters())
    if name == "shared":
        block = back.encoder.blocks[0]
        assert block.local_attn is block.inter_attn is block.interact_attn
    assert capsys.readouterr() == ("", "")


def test_the_classes_have_the_hubs_methods(tmp_path):
    hub = from_pretrained(save_pretrained(models()["classifier"], tmp_path / "first"))
    assert isinstance(hub, PretrainedClassifier)
    hub.save_pretrained(tmp_path)
    again = PretrainedClassifier.from_pretrained(tmp_path, num_classes=4, drop_path=0.1)
    assert isinstance(again, PretrainedClassifier)
    assert again.head.out_features == 4 and again.config.drop_path == 0.1
    with pytest.raises(ValueError, match="has no decoder, so it loads with as_='classifier' alone"):
        PretrainedAutoencoder.from_pretrained(tmp_path)
    save_pretrained(models()["autoencoder"], tmp_path)
    with pytest.raises(ValueError, match="give num_classes, such as 7"):
        PretrainedClassifier.from_pretrained(tmp_path)


def test_the_folder_says_what_it_is_and_an_incomplete_one_is_refused(tmp_path, monkeypatch):
    save_pretrained(models()["classifier"], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_classes"] == 7 and config["model"]["region"] == [2, 2, 4]
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: maedfer-lab\n") and "[0, 1]" in card
    for name in ("config.json", "model.safetensors"):
        shutil.copytree(tmp_path / "out", tmp_path / name)
        (tmp_path / name / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            from_pretrained(tmp_path / name)
    for missing in (tmp_path / "none", str(tmp_path / "none")):  # without the network
        with pytest.raises(FileNotFoundError, match="none is not a folder"):
            from_pretrained(missing)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="nobody/nothing is not a folder here, and could"):
        from_pretrained("nobody/nothing", cache_dir=tmp_path / "hub")


# --- timm's registry ---


def clips():
    return torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "count"),
    [("lgi_former_base_patch16_160", 84_880_395), ("vit_base_patch16_160_video", 86_235_659)],
)
def test_timm_creates_the_models_by_name(name, count):
    assert name in timm.list_models("*160*")
    with init_empty_weights():
        model = timm.create_model(name, num_classes=11, drop_path_rate=0.1)
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
