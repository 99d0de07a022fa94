"""Scores by hand, fine-tuning, and the arithmetic of ablations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from making_videos import moving_frames, write_video
from test_loop import full_for

from maedfer_lab.checkpoints.saving import save_official, save_pretrained
from maedfer_lab.config import FinetuneConfig, OptimConfig, tiny
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


@pytest.fixture(scope="module")
def easy(tmp_path_factory):
    return finetune(EASY, output=tmp_path_factory.mktemp("easy"))


def test_finetuning_lowers_its_loss_and_reports_its_scores(easy):
    loss, result = easy.result["loss"], easy.result
    assert np.mean(loss[-10:]) < np.mean(loss[:10])
    confusion = np.array(result["confusion"])
    assert confusion.sum() == EASY.num_test
    assert (result["uar"], result["war"]) == (uar(confusion), war(confusion))
    assert f"UAR {result['uar']:.1%}" in str(easy)


def test_a_finished_finetuning_loads_and_is_the_same(easy, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("it trained again"))
    again = finetune(EASY, output=easy.folder.parents[1])
    assert again.result == easy.result
    for name, value in easy.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_finetuning_starts_from_the_pretrained_encoder(tmp_path):
    config = replace(SHORT, init=PRETRAIN)
    met, told = loop.starting_model(config, 7, tmp_path, "none")
    before = pretrain(PRETRAIN, output=tmp_path)
    fresh = build_classifier(PRETRAIN.model, 7).encoder.state_dict()
    for name, value in before.model.encoder.state_dict().items():
        assert torch.equal(met.encoder.state_dict()[name], value)
    assert any(not torch.equal(met.encoder.state_dict()[name], x) for name, x in fresh.items())
    assert told is not None and told["held_out"] == before.result["held_out"]


def test_a_linear_probe_leaves_the_encoder_bit_equal(tmp_path):
    model = replace(PRETRAIN.model, drop_path=0.1)
    config = replace(SHORT, init=PRETRAIN, mode="linear", model=model)
    run = finetune(config, output=tmp_path)
    before = pretrain(PRETRAIN, output=tmp_path).model.encoder.state_dict()
    for name, value in run.model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    fresh = build_classifier(model, 7)
    assert not torch.equal(run.model.head.weight, fresh.head.weight)


def test_a_finetuning_starts_from_an_official_checkpoint(tmp_path):
    start = build_autoencoder(PRETRAIN.model, PRETRAIN.target, seed=3)
    save_official(start, tmp_path / "tiny.pth")
    model, told = loop.starting_model(
        replace(SHORT, checkpoint=tmp_path / "tiny.pth"), 7, tmp_path, "none"
    )
    for name, value in start.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value)
    assert told is not None and "tiny.pth" in told["checkpoint"]
    with pytest.raises(ValueError, match="scratch"):
        replace(SHORT, checkpoint=tmp_path / "tiny.pth", mode="scratch")


@pytest.mark.parametrize("official", [True, False])
def test_a_replaced_checkpoint_does_not_load_the_old_run(tmp_path, official):
    place = tmp_path / ("tiny.pth" if official else "folder")

    def put(seed):
        start = build_autoencoder(PRETRAIN.model, PRETRAIN.target, seed=seed)
        save_official(start, place) if official else save_pretrained(start, place)

    put(3)
    config = replace(SHORT, checkpoint=place)
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


def labelled(root, people=3):
    """Two classes with a short video per person."""
    for label, name in enumerate(("calm", "wild")):
        for person in range(people):
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            frames = moving_frames(24, seed=10 * label + person)
            write_video(folder / f"person {person}.mp4", frames)
    return root


def test_a_labelled_folder_can_be_learned_from(tmp_path):
    root = labelled(tmp_path / "videos")
    _, test = read_annotations("folder", root).split(1)
    assert {clip.label for clip in test} == {0, 1}
    config = FinetuneConfig(
        name="own", model=tiny().model, optim=OptimConfig(2, 2, warmup_steps=0), data=root
    )
    run = finetune(config, output=tmp_path)
    assert run.result["classes"] == ["calm", "wild"] and run.model.head.out_features == 2
    assert sum(map(sum, run.result["confusion"])) == len(test)
    assert run.result["provenance"]["data"] == "videos"
    assert f"maedfer evaluate {run.folder}" in str(run)
    again = finetune(config, output=tmp_path)
    assert again.result == run.result
