"""Fine-tuning: its starts, its scores, what it refuses; two processes train as one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from making_datasets import make_class_folders
from safetensors.torch import load_file
from test_loop import TORCHRUN, full_for, in_child
from torch.testing import assert_close

from maedfer_lab.checkpoints.saving import save_official, save_pretrained
from maedfer_lab.config import Augment, FinetuneConfig, OptimConfig, tiny
from maedfer_lab.data.table import read_annotations
from maedfer_lab.method.models import build_autoencoder, build_classifier
from maedfer_lab.metrics import uar, war
from maedfer_lab.training import finetune as loop
from maedfer_lab.training.finetune import finetune
from maedfer_lab.training.pretrain import pretrain

PRETRAIN = replace(tiny(), optim=replace(tiny().optim, steps=2, warmup_steps=1), eval_every=2)
EASY = FinetuneConfig(
    model=PRETRAIN.model,
    optim=OptimConfig(steps=60, batch_size=8, lr=0.096, warmup_steps=5, betas=(0.9, 0.999)),
    num_clips=14,
    num_test=14,
    difficulty=0.0,
)
SHORT = replace(EASY, optim=replace(EASY.optim, steps=3, warmup_steps=1))
FOLDER = FinetuneConfig(
    name="own",
    model=tiny().model,
    optim=OptimConfig(6, 4, lr=0.03, warmup_steps=1, betas=(0.9, 0.999)),
    layer_decay=0.75,
    framing="whole",
    augment=Augment(rand_augment="", erase=0.0),  # pairs are mixed; the rest is tested elsewhere
    eval_every=2,
    save_every=2,
)


@pytest.fixture(scope="module")
def easy(tmp_path_factory):
    return finetune(EASY, output=tmp_path_factory.mktemp("easy"))


def test_finetuning_lowers_its_loss_and_a_finished_run_loads(easy, monkeypatch):
    loss, result = easy.result["loss"], easy.result
    assert np.mean(loss[-10:]) < np.mean(loss[:10])
    confusion = np.array(result["confusion"])
    assert confusion.sum() == EASY.num_test
    assert (result["uar"], result["war"]) == (uar(confusion), war(confusion))
    assert f"UAR {result['uar']:.1%}" in str(easy)
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("it trained again"))
    again = finetune(EASY, output=easy.folder.parents[1])
    assert again.result == easy.result
    assert_close(again.model.state_dict(), easy.model.state_dict(), rtol=0, atol=0)


def test_a_linear_probe_starts_from_the_pretrained_encoder_and_leaves_it_bit_equal(tmp_path):
    model = replace(PRETRAIN.model, drop_path=0.1)
    config = replace(SHORT, init=PRETRAIN, mode="linear", model=model)
    run = finetune(config, output=tmp_path)
    before = pretrain(PRETRAIN, output=tmp_path)
    encoder, fresh = before.model.encoder.state_dict(), build_classifier(model, 7)
    met, origin = loop.starting_model(config, 7, tmp_path, "none")
    for model in (run.model, met):
        assert_close(model.encoder.state_dict(), encoder, rtol=0, atol=0)
    assert not torch.equal(fresh.encoder.state_dict()["rep_tokens"], encoder["rep_tokens"])
    assert not torch.equal(run.model.head.weight, fresh.head.weight)
    assert origin is not None and origin["held_out"] == before.result["held_out"]


@pytest.mark.parametrize("official", [True, False])
def test_a_checkpoint_is_the_start_and_another_in_its_place_is_refused(tmp_path, official):
    place = tmp_path / ("tiny.pth" if official else "folder")

    def put(seed):
        start = build_autoencoder(PRETRAIN.model, PRETRAIN.target, seed=seed)
        save_official(start, place) if official else save_pretrained(start, place)
        return start.encoder.state_dict()

    start, config = put(3), replace(SHORT, checkpoint=place)
    model, origin = loop.starting_model(config, 7, tmp_path, "none")
    assert_close(model.encoder.state_dict(), start, rtol=0, atol=0)
    assert origin is not None and place.name in origin["checkpoint"]
    with pytest.raises(ValueError, match="scratch"):
        replace(config, mode="scratch")
    first = finetune(config, output=tmp_path)
    assert finetune(config, output=tmp_path).result == first.result
    put(4)
    with pytest.raises(ValueError, match=r"holds other weights than when .* began"):
        finetune(config, output=tmp_path)


def test_a_disk_that_is_full_at_the_best_epoch_is_told(tmp_path, monkeypatch):
    full_for(monkeypatch, "best.safetensors", 1)
    with pytest.raises(OSError, match=r"best.safetensors needs [\d,]+ bytes in"):
        finetune(SHORT, output=tmp_path)
    assert finetune(SHORT, output=tmp_path).result["steps"] == 3


def test_a_start_with_another_model_is_refused():
    with pytest.raises(ValueError, match=r"model=init\.model"):
        replace(EASY, init=replace(PRETRAIN, model=replace(PRETRAIN.model, width=48)))
    replace(EASY, init=PRETRAIN, model=replace(PRETRAIN.model, drop_path=0.1))


def test_two_processes_finetune_a_labelled_folder_as_one(tmp_path):
    config = replace(FOLDER, data=make_class_folders(tmp_path / "own"))
    code = "from test_finetune import FOLDER, finetune, replace\n"
    code += "finetune(replace(FOLDER, data=Path(sys.argv[2])), output=Path(sys.argv[1]))"
    child = in_child(code, tmp_path / "two", config.data, launcher=TORCHRUN)
    one = finetune(config, output=tmp_path / "one")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    two = finetune(config, output=tmp_path / "two")  # loads what the processes left
    assert two.result["provenance"]["processes"] == 2 and two.config == config
    assert two.result["loss"] == pytest.approx(one.result["loss"], rel=1e-5)
    for name in ("confusion", "uar", "war"):
        assert two.result[name] == one.result[name]
    first, second = (load_file(run.folder / "model.safetensors") for run in (one, two))
    assert_close(second, first, rtol=0, atol=1e-5)
    table = read_annotations("folder", tmp_path / "own")
    assert one.result["classes"] == list(table.classes)
    assert sum(map(sum, one.result["confusion"])) == len(table.split(1)[1])
    assert f"maedfer evaluate {one.folder}" in str(one)
