"""The study at small scale: its variants, pieces, intervals and ledger; the regions' head."""

import json
from dataclasses import replace

import pytest
import torch

from maedfer_lab import build_classifier, load_checkpoint, tiny
from maedfer_lab.config.study import MOST, REFERENCE, quick_study, smoke_study, study
from maedfer_lab.cost.formula import parameters, total_macs
from maedfer_lab.paper.small_scale import (
    Interval,
    committed,
    compare_variants,
    curves,
    describe,
    difference,
    ledger,
    write_ledger,
)
from maedfer_lab.training import loop
from maedfer_lab.training.study import Piece, own_points, pieces, run_piece, run_study, variants


def test_interval_by_hand():
    found = Interval.of([0.1, 0.2, 0.3])  # deviation 0.1, t of 2 degrees 4.303
    assert found.mean == pytest.approx(0.2)
    assert found.half == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert Interval.of([0.5]).half is None
    with pytest.raises(ValueError, match="use 1 to 10"):
        Interval.of([])


def test_differences_are_paired_by_seed():
    gap = difference({0: 0.5, 1: 0.7, 2: 0.9}, {2: 0.8, 1: 0.6, 5: 0.0})
    assert gap is not None and gap.values == pytest.approx((0.1, 0.1))
    assert difference({0: 0.5}, {1: 0.5}) is None


@pytest.mark.parametrize("config", [smoke_study(), study()])
def test_every_variant_changes_one_thing_and_fits(config):
    known = variants(config)
    assert set(config.variants) <= known.keys()
    assert known[config.variants[0]] == config.pretrain, "the first one is the reference"
    assert len(set(known.values())) == len(known)
    for start in known.values():
        assert total_macs(start.model, "pretrain", mask_ratio=start.mask_ratio[0])
    lgi, by_cost, by_size = (
        known[name].model for name in (REFERENCE, "ViT at equal cost", "ViT at equal parameters")
    )
    assert total_macs(by_cost) == pytest.approx(total_macs(lgi), rel=0.1)
    sizes = [sum(parameters(model).values()) for model in (by_size, lgi)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_a_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    config = smoke_study()
    first = run_piece(config, pieces(config)[0], output=tmp_path)
    rows = run_study(config, output=tmp_path)
    assert rows[: len(first)] == first
    starts = {(row["how"], row["start"]) for row in rows if "uar" in row}
    assert {("fine-tuned", "from scratch"), ("linear probe", "pixels")} <= starts
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("it trained again"))
    assert run_study(config, output=tmp_path) == rows
    with pytest.raises(ValueError, match="'nothing' is not known"):
        run_piece(config, Piece("nothing", 0), output=tmp_path)


def test_the_ledger_says_shown_only_where_an_interval_is_apart():
    def rows(gap: float) -> list[dict]:
        base = {"variant": MOST[0], "label": "expression", "how": "fine-tuned"}
        return [
            {**base, "seed": seed, "labels": labels, "start": start, "uar": 0.3 + seed / 100 + more}
            for seed in range(3)
            for labels in (70, 140, 280)
            for start, more in (("from scratch", 0.0), ("pre-trained", gap + 0.01 * seed))
        ]

    for gap, verdict in ((0.3, "shown"), (0.0, "not shown"), (-0.3, "reversed")):
        assert [entry.verdict for entry in ledger(rows(gap))] == [verdict]


def test_the_committed_study_is_whole_and_draws():
    rows = committed()["rows"]
    config = study()
    found = {(row["variant"], row["seed"]) for row in rows}
    assert found == {(piece.variant, piece.seed) for piece in pieces(config)}
    entries = ledger(rows)
    assert [entry.id for entry in entries] == [
        "a1", "a2", "a3", "a4", "a5", "b1", "b2", "b3", "b4", "b5", "c1", "c2", "c3", "d1", "d2",
    ]  # fmt: skip
    assert "make study" in write_ledger(entries)
    assert json.dumps(curves(rows), allow_nan=False)
    table = compare_variants(rows)
    assert describe(table[2]["expression difference"])


def test_own_points_start_from_the_shipped_encoder(tmp_path):
    config = quick_study()
    steps = replace(config.finetune.optim, steps=2, batch_size=4, warmup_steps=1)
    short = replace(config.finetune, optim=steps, num_test=28)
    rows = own_points(replace(config, finetune=short, labels=(28,)), output=tmp_path)
    assert [row["start"] for row in rows] == ["pre-trained", "from scratch"]
    [run] = [p for p in (tmp_path / "runs").iterdir() if (p / "start.json").exists()]
    assert "study" in json.loads((run / "config.json").read_text())["checkpoint"]
    assert load_checkpoint(run).model.pooling == "regions"


def test_the_regions_head_keeps_where():
    config = tiny().model
    for model in (config, replace(config, encoder="vit")):
        classifier = build_classifier(model, 7, pooling="regions").eval()
        clip = torch.rand(2, 3, config.frames, config.size_px, config.size_px)
        read = classifier.read_tokens(clip)
        assert classifier(clip).shape == (2, 7)
        assert classifier.features(clip).shape == (2, read.shape[1] * config.width)
    lgi = build_classifier(config, 7, "tokens", "regions")
    encoded = lgi.encoder(clip)  # region after region
    own = encoded.tokens.unflatten(1, (lgi.encoder.num_regions, -1)).mean(2)
    torch.testing.assert_close(lgi.choose_tokens(encoded), own)
    with pytest.raises(ValueError, match="'rep' or 'tokens'"):
        build_classifier(config, 7, "all", pooling="regions")
