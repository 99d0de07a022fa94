"""The paper as data: every cell has a source, and the parts agree with each other."""

import json
from pathlib import Path

import pytest

from maedfer_lab.data.labels import PUBLISHED, published_labels
from maedfer_lab.paper.claims import fold_slack
from maedfer_lab.paper.measured import Result
from maedfer_lab.paper.tables import DATA, Table, paper, read_paper, row_key
from maedfer_lab.paper.view import show

PAPER = paper()
every_table = pytest.mark.parametrize("table", PAPER.tables.values(), ids=list(PAPER.tables))
DATASETS = ["DFEW", "FERV39k", "MAFW", "CREMA-D", "RAVDESS", "eNTERFACE05"]


@every_table
def test_every_cell_has_a_known_source_and_every_number_a_unit(table: Table) -> None:
    for row in table.rows:
        for cell in row.values():
            assert cell.sources and set(cell.sources) <= PAPER.sources.keys()
            assert isinstance(cell.value, str) == (cell.unit == "text") or cell.value is None
            if cell.unit == "percent" and cell.value is not None:
                assert 0 <= cell.number <= 100


@every_table
def test_key_columns_tell_rows_apart(table: Table) -> None:
    keys = [row_key(table, row) for row in table.rows]
    assert len(set(keys)) == len(keys)


def test_every_source_is_used_and_said_in_words() -> None:
    used = {
        k for t in PAPER.tables.values() for row in t.rows for c in row.values() for k in c.sources
    }
    used |= {key for matrix in PAPER.matrices for key in matrix.sources}
    assert used == PAPER.sources.keys()
    assert "Table 12" in PAPER.cite(("table-dfew",))


def test_a_cell_keeps_what_is_printed() -> None:
    row = PAPER.table("dfew").row("MAE-DFER")
    assert (row["uar"].value, row["uar"].unit, row["uar"].rounding) == (63.41, "percent", 0.005)
    assert row["flops"].value == 50 and row["flops"].rounding == 0.5
    assert "poster" in row["uar"].sources and "poster" not in row["happy"].sources
    assert PAPER.table("dfew").row("CEFLNet")["happy"].decimals == 0


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"dfew, ferv39k"):
        PAPER.table("afew")
    with pytest.raises(ValueError, match=r"no row 'MAE'; known: C3D"):
        PAPER.table("dfew").row("MAE")
    with pytest.raises(ValueError, match=r"DFEW, FERV39k"):
        PAPER.splits("AFEW")
    with pytest.raises(ValueError, match=r"holds None"):
        _ = PAPER.table("dfew").row("DPCNet")["happy"].number


@pytest.mark.parametrize("dataset", DATASETS)
def test_splits_partition_their_data_set(dataset: str) -> None:
    train, test = PAPER.splits(dataset, "train"), PAPER.splits(dataset)
    assert train.keys() == test.keys()
    assert all(len(s.clips_per_class) == len(PAPER.labels[dataset]) for s in test.values())
    wholes = {train[fold].clips + test[fold].clips for fold in test}
    assert len(wholes) == 1
    if len(test) > 1:
        assert sum(split.clips for split in test.values()) == wholes.pop()


@pytest.mark.parametrize("dataset", ["CREMA-D", "RAVDESS", "eNTERFACE05"])
def test_each_subject_is_tested_once(dataset: str) -> None:
    published = published_labels(dataset)
    assert published is not None
    assert {str(fold) for fold in published.test_fold.values()} == PAPER.splits(dataset).keys()
    assert len(published.test_fold) == {"CREMA-D": 91, "RAVDESS": 24}.get(dataset, 43)


def test_what_differs_from_fold_to_fold_bounds_the_weighted_mean() -> None:
    """Two folds whose recalls differ as much as they can stay within the bound."""
    splits = list(PAPER.splits("DFEW").values())
    slack = fold_slack(splits)
    k, pooled = (
        len(splits),
        [sum(n) for n in zip(*(s.clips_per_class for s in splits), strict=True)],
    )
    recalls = [[float((fold + label) % 2) for label in range(7)] for fold in range(k)]
    war = sum(
        sum(r * n for r, n in zip(of_fold, split.clips_per_class, strict=True)) / split.clips / k
        for of_fold, split in zip(recalls, splits, strict=True)
    )
    mean_recalls = [sum(column) / k for column in zip(*recalls, strict=True)]
    estimate = sum(r * n for r, n in zip(mean_recalls, pooled, strict=True)) / sum(pooled)
    assert abs(war - estimate) <= slack < 0.001
    assert fold_slack(list(PAPER.splits("FERV39k").values())) == 0


def test_the_log_is_whole() -> None:
    log = PAPER.pretrain_log
    assert [epoch.epoch for epoch in log] == list(range(50))
    assert log[0].loss == pytest.approx(0.952, abs=5e-4)
    assert log[49].loss == pytest.approx(0.474, abs=5e-4)
    assert {epoch.parameters for epoch in log} == {92_760_192}


def test_tables_show_best_and_second_and_leave_ours_blank() -> None:
    html = show(PAPER, "mafw").html
    assert "<b>41.62</b>" in html and "<u>40.87</u>" in html
    assert "<td><b>54.31</b></td><td></td>" in html
    result = Result("a.json", "FERV39k", "all", "MAE-DFER", 7847, {"uar": 0.4, "war": 0.5}, {})
    row = show(PAPER, "ferv39k", results=[result]).html.rpartition("<tr><td>MAE-DFER")[2]
    assert "<u>43.12</u></td><td>40.00" in row and "<u>52.07</u></td><td>50.00" in row


def test_a_group_has_its_own_best() -> None:
    html = show(PAPER, "lab", columns=["war"]).html
    assert all(f"<b>{best}</b>" in html for best in ("77.38", "75.76", "61.64"))
    assert "61.67" not in html


def test_data_are_small_and_read_from_any_folder(tmp_path: Path) -> None:
    files = [*DATA.iterdir(), *PUBLISHED.iterdir()]
    sizes = {path.name: path.stat().st_size for path in files}
    assert sizes.pop("study.json") < 90_000, "our own study's rows"
    assert sum(sizes.values()) < 60_000, "the paper's numbers"
    for path in files:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert read_paper(tmp_path, tmp_path) == PAPER
    labels = json.loads((tmp_path / "labels.json").read_text())
    assert list(labels) == DATASETS
