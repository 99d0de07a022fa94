"""Own encoders and targets: the page's code as it stands, and what a run keeps of them."""

import importlib
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from maedfer_lab import build_autoencoder, build_classifier, load_run, pretrain, tiny
from maedfer_lab.attention.maps import capture_attention
from maedfer_lab.config import (
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    TargetConfig,
    pretrain_config,
    register_encoder,
)
from maedfer_lab.config import register_target as register
from maedfer_lab.cost.formula import macs
from maedfer_lab.method.masking import region_tube_mask
from maedfer_lab.method.models import Encoder
from maedfer_lab.method.reconstruction import reconstruct_clip
from maedfer_lab.runs import config_hash
from maedfer_lab.training.evaluation import Views

PAGE = Path(__file__).parents[1] / "docs" / "own_ideas.md"
TARGET, ENCODER, TRAIN, COMPARE = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.fixture
def ideas(tmp_path, monkeypatch):
    """The page's module, imported from a file, with runs in a folder of the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MAEDFER_OUTPUT", str(tmp_path))
    (tmp_path / "my_ideas.py").write_text(TARGET + ENCODER)
    monkeypatch.delitem(sys.modules, "my_ideas", raising=False)
    importlib.invalidate_caches()
    return importlib.import_module("my_ideas")


def test_the_pages_code_trains_and_compares(ideas, tmp_path, capsys):
    names: dict = {}
    exec(TRAIN, names)
    exec(COMPARE, names)
    shown = capsys.readouterr().out
    assert "UAR" in shown and "mean mixing" in shown and "normal flow" in shown
    runs = {path.name.rpartition("-")[0]: path for path in (tmp_path / "runs").iterdir()}
    kept = json.loads((runs["mine"] / "config.json").read_text())["model"]["extension"]
    assert re.fullmatch(r"my_ideas:MeanMixingEncoder@[0-9a-f]{10}", kept)
    flow = load_run(runs["flow"])
    assert flow.model.decoder.head.out_features == 2 * 8 * 8 * 2
    assert flow.result["held_out"]["appearance"] > 0 == flow.result["held_out"]["motion"]


def test_changed_source_is_another_run_and_a_loaded_one_warns(ideas, tmp_path):
    recipe = replace(tiny(), model=replace(tiny().model, encoder="mean mixing"))
    assert config_hash(tiny()) == "30d39cadde"  # runs of before keep their names
    before, values = config_hash(recipe), json.loads(json.dumps(asdict(recipe), default=str))
    assert config_hash(pretrain_config(values)) == before
    (tmp_path / "my_ideas.py").write_text(TARGET + ENCODER + "# another version\n")
    again = replace(tiny(), model=replace(tiny().model, encoder="mean mixing"))
    assert config_hash(again) == before  # as long as the code that runs is the old
    importlib.reload(ideas)
    with pytest.warns(UserWarning, match="has changed since this configuration was written"):
        after = pretrain_config(values)
    assert config_hash(after) != before
    assert config_hash(replace(after, model=replace(after.model, encoder="vit"))) == config_hash(
        replace(tiny(), model=replace(tiny().model, encoder="vit"))
    )


def test_what_is_not_registered_names_what_to_import(ideas, monkeypatch):
    recipe = replace(tiny(), target=TargetConfig(function="normal flow"))
    folder = pretrain(replace(recipe, optim=replace(recipe.optim, stop_after=1))).folder
    monkeypatch.setattr("maedfer_lab.config.own._KNOWN", {})
    with pytest.raises(ValueError, match=r"registered by my_ideas:normal_flow: `import my_ideas`"):
        load_run(folder)
    with pytest.raises(ValueError, match=r"encoder='cnn' is not known; choose one of lgi, vit"):
        ModelConfig(encoder="cnn")
    for wrong in ("lgi", "vit"):
        with pytest.raises(ValueError, match="is taken"):
            register_encoder(wrong)


def test_what_an_own_idea_cannot_do_is_refused(ideas):
    clip = torch.rand(3, 8, 32, 32)
    model = build_autoencoder(tiny().model, TargetConfig(function="normal flow"))
    mask = region_tube_mask(model.grid, model.config.region, 0.75)
    with pytest.raises(ValueError, match="without pixels"):
        reconstruct_clip(model, clip, mask[0])
    mixing = replace(tiny().model, encoder="mean mixing")
    with pytest.raises(ValueError, match="keeps no attention"):
        capture_attention(build_autoencoder(mixing), clip)
    with pytest.raises(ValueError, match="no closed formula"):
        macs(mixing)
    with pytest.raises(ValueError, match="does not have; use tokens='tokens'"):
        build_classifier(mixing, 7, "rep")
    register("flat")(lambda clip, tubelet: clip.mean((2, 3, 4)))
    with pytest.raises(ValueError, match=r"targets of shape \(1, 3\).*\(1, 64, p\)"):
        build_autoencoder(tiny().model, TargetConfig(function="flat"))
    register_encoder("bare")(lambda config: torch.nn.Identity())
    with pytest.raises(ValueError, match="inherit from maedfer_lab"):
        build_classifier(replace(mixing, encoder="bare"), 7)


def test_an_own_encoder_may_have_regions():
    """LGI-Former under another name: equal masks, representative tokens, the same attention."""
    register_encoder("again", has_regions=True)(Encoder)
    config = replace(tiny().model, encoder="again")
    ours, paper = build_autoencoder(config), build_autoencoder(tiny().model)
    clip = torch.rand(2, 3, 8, 32, 32)
    mask = region_tube_mask(ours.grid, config.region, 0.75, 2)
    assert torch.equal(ours(clip, mask).loss.total, paper(clip, mask).loss.total)
    assert build_classifier(config, 7).tokens == "rep"
    maps = [capture_attention(model, clip[0]) for model in (ours, paper)]
    assert torch.equal(maps[0].weights("inter", 1), maps[1].weights("inter", 1))


def test_framing_has_one_vocabulary_and_each_user_takes_its_part():
    assert PretrainConfig(framing="wide") == PretrainConfig(framing="face")
    assert FinetuneConfig(framing="wide").framing == Views(framing="wide").framing == "face"
    wrong = {PretrainConfig: "whole", FinetuneConfig: "voxceleb2", Views: "official"}
    for holder, word in wrong.items():
        with pytest.raises(ValueError, match=f"framing='{word}' is not known; choose one of"):
            holder(framing=word)  # type: ignore
