"""Six data sets in small, as their authors ship them: check, train, test; and each one spoiled."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from making_datasets import MAKERS, edit_line, linked_copy, make_dataset, own
from making_videos import write_sound

from maedfer_lab import cli
from maedfer_lab.config import FinetuneConfig, OptimConfig, tiny
from maedfer_lab.data.labels import published_labels
from maedfer_lab.data.table import read_annotations
from maedfer_lab.training.finetune import finetune

SPOIL: dict[str, tuple[Callable[[Path], object], str]] = {
    "dfew": (
        lambda root: edit_line(
            root / "EmoLabel_DataSplit/train(single-labeled)/set_1.csv", 2, "8,0"
        ),
        "label '0' of '8' is out of range",
    ),
    "ferv39k": (
        lambda root: (root / "2_ClipsforFaceCrop/War/Fear/0001").unlink(),
        "'War/Fear/0001' does not exist",
    ),
    "mafw": (
        lambda root: (own(root / "data/frames/00012") / "0003.png").write_bytes(b"\x89PNG"),
        "frame 2 (0003.png) is broken",
    ),
    "cremad": (
        lambda root: (root / "VideoFlash/1020_IEO_SAD_XX.flv").write_bytes(b""),
        "the file is empty",
    ),
    "ravdess": (
        lambda root: write_sound(root / "Actor_05/02-01-04-01-01-01-05.mp4"),
        "it holds sound but no picture",
    ),
    "enterface": (
        lambda root: (root / "subject 11").rename(root / "subject 111"),
        "subject 111 is in no published fold",
    ),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("sets")
    return {name: make_dataset(name, base / name) for name in MAKERS}


@pytest.mark.parametrize("name", MAKERS)
def test_from_a_folder_to_a_score(name, sets, tmp_path, capsys):
    assert cli.main(["doctor", name, "--root", str(sets[name])]) == 0
    config = FinetuneConfig(
        name=name,
        model=tiny().model,
        optim=OptimConfig(steps=2, batch_size=2, warmup_steps=0),
        dataset=name,
        data=sets[name],
        framing="whole",
    )
    run = finetune(config, output=tmp_path)
    assert cli.main(["evaluate", str(run.folder), "--out", str(tmp_path)]) == 0
    told, labels = capsys.readouterr().out, published_labels(name)
    assert labels and "UAR" in told and "WAR" in told and labels.classes[-1] in told
    (path,) = tmp_path.glob("*.json")
    confusion = json.loads(path.read_text())["confusion"]
    assert len(confusion) == len(labels.classes)
    assert {sum(row) for row in confusion} == {2 if name == "ferv39k" else 1}


@pytest.mark.parametrize("name", MAKERS)
def test_a_spoiled_folder_is_stopped_before_training(name, sets, tmp_path, capsys):
    spoil, words = SPOIL[name]
    root = linked_copy(sets[name], tmp_path / name)
    spoil(root)
    assert cli.main(["doctor", name, "--root", str(root)]) == 1
    assert words in capsys.readouterr().out
    if name in ("dfew", "ferv39k", "enterface"):  # the table is wrong, not a clip
        with pytest.raises(ValueError, match=re.escape(words)):
            read_annotations(name, root)
