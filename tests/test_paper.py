"""The paper as data: every cell has a source, and the parts agree with each other."""

import json
from pathlib import Path

import numpy as np
import pytest

from maedfer_lab.data.labels import PUBLISHED, published_labels
from maedfer_lab.paper.claims import fold_slack
from maedfer_lab.paper.measured import Result
from maedfer_lab.paper.tables import DATA, paper, read_paper, row_key
from maedfer_lab.paper.view import show

PAPER = paper()
DATASETS = ["DFEW", "FERV39k", "MAFW", "CREMA-D", "RAVDESS", "eNTERFACE05"]


def test_every_cell_has_a_known_source_and_every_number_a_unit() -> None:
    used = {key for matrix in PAPER.matrices for key in matrix.sources}
    for table in PAPER.tables.values():
        keys = [row_key(table, row) for row in table.rows]
        assert len(set(keys)) == len(keys), "key columns tell rows apart"
        for cell in (cell for row in table.rows for cell in row.values()):
            used |= {*cell.sources}
            assert cell.sources
            assert isinstance(cell.value, str) == (cell.unit == "text") or cell.value is None
            assert cell.unit != "percent" or cell.value is None or 0 <= cell.number <= 100
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
    (whole,) = {train[fold].clips + test[fold].clips for fold in test}
    assert len(test) == 1 or sum(split.clips for split in test.values()) == whole
    subjects = {"CREMA-D": 91, "RAVDESS": 24, "eNTERFACE05": 43}
    published = published_labels(dataset)
    if dataset in subjects:  # each is tested once
        assert published and {str(fold) for fold in published.test_fold.values()} == test.keys()
        assert len(published.test_fold) == subjects[dataset]


def test_what_differs_from_fold_to_fold_bounds_the_weighted_mean() -> None:
    """Two folds whose recalls differ as much as they can stay within the bound."""
    splits = list(PAPER.splits("DFEW").values())
    clips = np.array([split.clips_per_class for split in splits])
    recalls = np.add.outer(np.arange(len(clips)), np.arange(7)) % 2
    war = np.mean((recalls * clips).sum(1) / clips.sum(1))
    estimate = (recalls.mean(0) * clips.sum(0)).sum() / clips.sum()
    assert abs(war - estimate) <= fold_slack(splits) < 0.001
    assert fold_slack(list(PAPER.splits("FERV39k").values())) == 0


def test_tables_show_best_and_second_and_leave_ours_blank() -> None:
    html = show(PAPER, "mafw").html
    assert "<b>41.62</b>" in html and "<u>40.87</u>" in html
    assert "<td><b>54.31</b></td><td></td>" in html
    result = Result("a.json", "FERV39k", "all", "MAE-DFER", 7847, {"uar": 0.4, "war": 0.5}, {})
    lab = show(PAPER, "lab", columns=["war"]).html  # each data set has its own best
    assert all(f"<b>{best}</b>" in lab for best in ("77.38", "75.76", "61.64"))
    assert "61.67" not in lab
    row = show(PAPER, "ferv39k", results=[result]).html.rpartition("<tr><td>MAE-DFER")[2]
    assert "<u>43.12</u></td><td>40.00" in row and "<u>52.07</u></td><td>50.00" in row


def test_data_are_small_and_read_from_any_folder(tmp_path: Path) -> None:
    files = [*DATA.iterdir(), *PUBLISHED.iterdir()]
    sizes = {path.name: path.stat().st_size for path in files}
    assert sizes.pop("study.json") < 120_000, "our own study's rows"
    assert sum(sizes.values()) < 60_000, "the paper's numbers"
    for path in files:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert read_paper(tmp_path, tmp_path) == PAPER
    labels = json.loads((tmp_path / "labels.json").read_text())
    assert list(labels) == DATASETS
