"""Folders of save_pretrained: offline, complete, with sharing; and what they refuse."""

import json
import shutil
import socket
from dataclasses import replace

import pytest
import torch

from maedfer_lab.checkpoints.saving import (
    PretrainedAutoencoder,
    PretrainedClassifier,
    from_pretrained,
    save_pretrained,
    with_hub,
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
    model = models()["classifier"]
    hub = with_hub(model)
    assert isinstance(hub, PretrainedClassifier) and hub.head.weight is model.head.weight
    hub.save_pretrained(tmp_path)
    again = PretrainedClassifier.from_pretrained(tmp_path, num_classes=4, drop_path=0.1)
    assert again.head.out_features == 4 and again.config.drop_path == 0.1
    with pytest.raises(ValueError, match="a classifier is no autoencoder"):
        PretrainedAutoencoder.from_pretrained(tmp_path)
    save_pretrained(models()["autoencoder"], tmp_path)
    with pytest.raises(ValueError, match="as_='classifier', num_classes=7"):
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
