"""The paper as data, and the ledger: every claim has a computed status and evidence to follow."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from maedfer_lab import cli
from maedfer_lab.data.labels import PUBLISHED, published_labels
from maedfer_lab.paper import figure_data
from maedfer_lab.paper.claims import Claim, Status, fold_slack
from maedfer_lab.paper.figure_data import show
from maedfer_lab.paper.ledger import Result, ledger, read_results, report, totals
from maedfer_lab.paper.tables import DATA, paper, read_paper

PAPER = paper()
CLAIMS = {claim.id: claim for claim in ledger()}


def with_status(status: Status) -> set[str]:
    return {claim.id for claim in CLAIMS.values() if claim.status == status}


def changed(folder: Path, name: str, old: str, new: str) -> dict[str, Claim]:
    """The ledger after one change in a copy of the data."""
    for path in (*DATA.iterdir(), *PUBLISHED.iterdir()):
        text = path.read_text()
        assert path.name != name or text.count(old) == 1
        (folder / path.name).write_text(text.replace(old, new) if path.name == name else text)
    return {claim.id: claim for claim in ledger(read_paper(folder, folder))}


def test_every_cell_has_a_known_source_and_every_number_a_unit():
    used = {key for matrix in PAPER.matrices for key in matrix.sources}
    for table in PAPER.tables.values():
        assert len({table.key_of(row) for row in table.rows}) == len(table.rows), "keys tell apart"
        for cell in (cell for row in table.rows for cell in row.values()):
            used |= {*cell.sources}
            assert cell.sources
            assert isinstance(cell.value, str) == (cell.unit == "text") or cell.value is None
            assert cell.unit != "percent" or cell.value is None or 0 <= cell.number <= 100
    assert used == PAPER.sources.keys()
    row = PAPER.table("dfew").row("MAE-DFER")
    assert (row["uar"].value, row["uar"].unit, row["uar"].rounding) == (63.41, "percent", 0.005)
    assert row["flops"].value == 50 and row["flops"].rounding == 0.5
    assert "poster" in row["uar"].sources and "poster" not in row["happy"].sources
    assert PAPER.table("dfew").row("CEFLNet")["happy"].decimals == 0


def test_unknown_names_are_refused_with_the_known_ones():
    for wrong, message in (
        (lambda: PAPER.table("afew"), r"dfew, ferv39k"),
        (lambda: PAPER.table("dfew").row("MAE"), r"no row 'MAE'; known: C3D"),
        (lambda: PAPER.splits("AFEW"), r"DFEW, FERV39k"),
        (lambda: PAPER.table("dfew").row("DPCNet")["happy"].number, r"holds None"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_splits_partition_their_data_set_and_bound_the_weighted_mean():
    subjects = {"CREMA-D": 91, "RAVDESS": 24, "eNTERFACE05": 43}
    for dataset in PAPER.labels:
        train, test = PAPER.splits(dataset, "train"), PAPER.splits(dataset)
        assert train.keys() == test.keys()
        assert all(len(clips) == len(PAPER.labels[dataset]) for clips in test.values())
        (whole,) = {sum(train[fold]) + sum(test[fold]) for fold in test}
        assert len(test) == 1 or sum(map(sum, test.values())) == whole
        published = published_labels(dataset)
        if dataset in subjects:  # each is tested once
            assert published and {str(f) for f in published.test_fold.values()} == test.keys()
            assert len(published.test_fold) == subjects[dataset]
    splits = PAPER.splits("DFEW")
    clips = np.array([*splits.values()])
    recalls = np.add.outer(np.arange(len(clips)), np.arange(7)) % 2  # as unlike as they can be
    war = np.mean((recalls * clips).sum(1) / clips.sum(1))
    estimate = (recalls.mean(0) * clips.sum(0)).sum() / clips.sum()
    assert abs(war - estimate) <= fold_slack(splits) < 0.001
    assert fold_slack(PAPER.splits("FERV39k")) == 0


def test_tables_show_best_and_second_and_leave_ours_blank():
    html = show(PAPER, "mafw").html
    assert "<b>41.62</b>" in html and "<u>40.87</u>" in html
    assert "<td><b>54.31</b></td><td></td>" in html
    lab = show(PAPER, "lab").html  # each data set has its own best
    assert all(f"<b>{best}</b>" in lab for best in ("77.38", "75.76", "61.64"))
    result = Result("a.json", "FERV39k", "all", "MAE-DFER", 7847, {"uar": 0.4, "war": 0.5}, {})
    row = show(PAPER, "ferv39k", results=[result]).html.rpartition("<tr><td>MAE-DFER")[2]
    assert "<u>43.12</u></td><td>40.00" in row and "<u>52.07</u></td><td>50.00" in row


def test_every_claim_has_a_status_and_evidence_to_follow():
    assert len(CLAIMS) == len(ledger()) == 515, "ids are unique"
    assert len(with_status("recomputed")) == 306, "within the paper's own rounding"
    rates = [claim for id, claim in CLAIMS.items() if id.endswith("learning-rate/schedule")]
    assert len(rates) == 50 and all(claim.tolerance == 1e-8 for claim in rates)
    assert [epoch.epoch for epoch in PAPER.pretrain_log] == list(range(50))
    for claim in CLAIMS.values():
        assert claim.status in get_args(Status) and claim.source and claim.statement
        if claim.status in ("recomputed", "contradicted"):
            assert claim.agrees is (claim.status == "recomputed")
            assert " = " in claim.evidence and "claimed" in claim.evidence
            assert any(c.isdigit() for c in claim.evidence.partition(" = ")[0])
        elif claim.status == "needs data":
            assert claim.command and f"`{claim.command}`" in claim.evidence
            assert claim.hours and "hours" in claim.evidence
            assert claim.tolerance or "loss" in claim.id
        else:
            assert claim.status == "not found" and claim.value is None


def test_what_is_contradicted():
    """Only inherited rows and another printing; nothing of MAE-DFER's own."""
    assert with_status("contradicted") == {
        *(f"dfew/{row}/from-classes" for row in
          ("resnet-18-gru/uar", "resnet-18-gru/war", "ceflnet/war", "m3dfel/uar", "m3dfel/war")),
        "ferv39k/nr-dfernet/uar/from-classes", "mafw/c3d/uar/from-classes",
        "mafw/vit-lstm/war/from-classes", "dfew/ial/flops/printed-otherwise",
        "dfew/est/uar/printed-otherwise", "mafw/videomae-kinetics-400/uar/printed-otherwise",
    }  # fmt: skip
    poster = CLAIMS["mafw/videomae-kinetics-400/uar/printed-otherwise"]
    assert poster.value == 38.43 and poster.found == pytest.approx(38.334, abs=5e-4)


@pytest.mark.parametrize(
    ("file", "old", "new", "claims"),
    [
        ("main.json", "60.99, 18.62", "60.99, 18.92", {"dfew/mae-dfer/uar/from-classes"}),
        ("runs.json", '"5", 65.42', '"5", 65.52', {"folds/released/dfew/uar/mean"}),
        ("matrices.json", "[454, 7, 10", "[455, 6, 10", {"dfew/1/authors/log/happy/from-matrix"}),
        ("headlines.json", "10.58", "10.68", {"headline/crema-d/war/margin"}),
        ("pretrain_log.csv", "0.00018748348", "0.00018758348", {
            "pretraining/epoch-05/learning-rate/schedule"}),
        ("split_counts.csv", "DFEW,1,test,489", "DFEW,1,test,488", {
            "datasets/dfew/clips/from-splits", "dfew/1/log/test-clips/from-splits"}),
        ("evaluations.json", "7847, 84878343", "7847, 84878344", {
            "ferv39k/all/log/parameters/formula"}),
    ],
)  # fmt: skip
def test_one_changed_digit_is_contradicted(file, old, new, claims, tmp_path):
    after = changed(tmp_path, file, old, new)
    assert all(CLAIMS[id].status == "recomputed" for id in claims)
    assert all(after[id].status == "contradicted" for id in claims), claims
    counts = Counter(claim.status for claim in after.values())
    assert counts["contradicted"] >= len(with_status("contradicted")) + len(claims)


def test_an_ablation_that_is_found_leaves_the_list():
    table = replace(PAPER.table("sister_ablations"), id="ablation_lambda")
    found = replace(PAPER, tables={**PAPER.tables, "ablation_lambda": table})
    gone = with_status("not found") - {claim.id for claim in ledger(found)}
    assert gone == {"not-found/ablation-lambda"}


EVALUATION: dict[str, Any] = {"kind": "evaluation", "dataset": "DFEW", "fold": 1, "uar": 0.62,
                              "war": 0.70, "n": 2341, "provenance": {"commit": "abc"}}  # fmt: skip


def write_results(folder: Path, *changes: dict[str, Any]) -> Path:
    for i, change in enumerate(changes):
        (folder / f"{i}.json").write_text(json.dumps({**EVALUATION, **change}))
    return folder


def test_a_result_turns_needs_data_into_measured_and_a_mean_when_all_folds_are(tmp_path):
    folder = write_results(tmp_path, {}, {"dataset": "my faces", "fold": 7})
    (tmp_path / "other.json").write_text("[1]")
    after = {claim.id: claim for claim in ledger(results=folder)}
    uar, war = (after[f"folds-released/mae-dfer/dfew/1/{s}/measure"] for s in ("uar", "war"))
    assert uar.found == pytest.approx(62) and uar.agrees and "inside" in uar.evidence
    assert war.found == pytest.approx(70) and not war.agrees and "outside" in war.evidence
    assert after["dfew/mae-dfer/dfew/all/uar/measure"].status == "needs data"
    assert totals(list(after.values()))["measured"] == 2
    assert "abc" in report(list(after.values()))
    folds = [
        {"fold": fold, "n": sum(clips), "uar": 0.6 + int(fold) / 100, "recalls": [0.5] * 7}
        for fold, clips in PAPER.splits("DFEW").items()
    ]
    after = {claim.id: claim for claim in ledger(results=write_results(tmp_path, *folds))}
    mean = after["dfew/mae-dfer/dfew/all/uar/measure"]
    assert mean.status == "measured" and mean.found == pytest.approx(63)
    assert after["dfew/mae-dfer/dfew/all/fear/measure"].found == pytest.approx(50)
    assert after["dfew/videomae-voxceleb2/dfew/all/uar/measure"].status == "needs data"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{"uar": 62.0}], r"uar=62.0 must lie in \[0, 1\]"),
        ([{"n": 100}], "fold 1 of DFEW tests 2341 clips"),
        ([{"fold": 6}], "must be one of 1, 2, 3, 4, 5"),
        ([{"provenance": {}}], "lacks provenance"),
        ([{"recalls": [0.5]}], "recalls has 1 entries; DFEW 7"),
        ([{}, {}], r"0\.json and 1\.json both hold MAE-DFER / DFEW / 1"),
    ],
)
def test_bad_results_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_results(write_results(tmp_path, *changes), PAPER)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        ledger(results=tmp_path / "absent")


def test_the_verb_prints_totals_and_writes_every_entry(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MAEDFER_OUTPUT", str(tmp_path))
    file = tmp_path / "claims.json"
    assert cli.main(["claims", "--json", str(file)]) == 0
    out, data = capsys.readouterr().out, json.loads(file.read_text())
    assert out.startswith(f"{len(CLAIMS)} numeric claims") and "11 contradicted" in out
    assert len(data["claims"]) == len(CLAIMS) == sum(data["totals"].values())
    (tmp_path / "results").mkdir()
    write_results(tmp_path / "results", {})
    assert cli.main(["claims"]) == 0  # results/ is looked into by itself
    assert "2 measured" in capsys.readouterr().out


def test_own_runs_join_the_published_loss_if_their_units_do(tmp_path):
    for name, target in (("a", {"units": "cube"}), ("b", {"units": "imagenet"}), ("c", None)):
        (tmp_path / name).mkdir()
        config = {"name": name, "target": target, "optim": {"batch_size": 4}}
        if target is None:  # a fine-tuning: another loss
            config.pop("target")
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        (tmp_path / name / "log.csv").write_text("step,loss\n1,0.9\n2,0.7\n")
    (run,) = figure_data.pretraining(PAPER, tmp_path)["runs"]
    assert run == {"name": "a", "clips": [4, 8], "loss": [0.9, 0.7]}
