"""Claims on size and cost: parameters, FLOPs, the saving, the weights of the two losses."""

from __future__ import annotations

import math
from collections.abc import Iterator

from maedfer_lab.config import ModelConfig, PretrainConfig, preset
from maedfer_lab.cost.formula import Task, macs, parameters
from maedfer_lab.paper.claim import Claim, compare
from maedfer_lab.paper.claims_scores import OURS, WILD, slug
from maedfer_lab.paper.reader import Paper


def claims(paper: Paper) -> Iterator[Claim]:
    """All claims of this kind."""
    yield from table_costs(paper)
    yield from exact_parameters(paper)
    yield saving(paper)
    yield loss_weights(paper)


def model_of(method: str) -> ModelConfig:
    """The model behind a row called MAE-DFER or VideoMAE (...): LGI-Former or ViT-B."""
    return preset("base", "vit" if method.startswith("VideoMAE") else "lgi").model


def table_costs(paper: Paper) -> Iterator[Claim]:
    """The columns of parameters and FLOPs of MAE-DFER and VideoMAE in every table."""
    for name in (*WILD, "later"):
        table = paper.table(name)
        classes = len(paper.labels[table.dataset]) if table.dataset else 7
        for row in table.rows:
            method = str(row["method"].value)
            if method != OURS and not method.startswith("VideoMAE"):
                continue
            model = model_of(method)
            for column, parts, scale in (
                ("params", parameters(model, num_classes=classes), 1e6),
                ("flops", macs(model, num_classes=classes, as_published=True), 1e9),
            ):
                cell = row[column]
                yield compare(
                    f"{slug(name, method)}/{column}/formula",
                    paper.cite(cell.sources),
                    f"{table.id}, {method}: {'parameters' if column == 'params' else 'FLOPs'}, "
                    f"{classes} classes, a clip of 16 x 160 x 160",
                    value=cell.number,
                    unit=cell.unit,
                    found=sum(parts.values()) / scale,
                    formula=f"({in_parts(parts)}) in {cell.unit}",
                    tolerance=cell.rounding,
                )


def in_parts(parts: dict[str, int]) -> str:
    """Counts by module, for reading."""
    return " + ".join(f"{name} {count:,}" for name, count in parts.items())


def exact_parameters(paper: Paper) -> Iterator[Claim]:
    """The number of parameters that the logs print to the last digit."""
    for row in paper.table("evaluations").rows:
        cell, dataset, fold = row["parameters"], str(row["dataset"].value), str(row["fold"].value)
        if cell.value is not None:
            name = slug(dataset, fold)
            source = paper.cite(cell.sources)
            classes = len(paper.labels[dataset])
            yield parameter_claim(f"{name}/log", source, cell.number, "classify", classes)
    counts = {epoch.parameters for epoch in paper.pretrain_log}
    for i, count in enumerate(sorted(counts)):
        source = paper.cite(("log-pretraining",))
        yield parameter_claim(f"pretraining/log{i or ''}", source, count, "pretrain", 7)


def parameter_claim(id: str, source: str, value: int | float, task: Task, classes: int) -> Claim:
    """An exact number of parameters of LGI-Former."""
    parts = parameters(ModelConfig(), task, num_classes=classes)
    what = f"classifier of {classes} classes" if task == "classify" else "encoder and decoder"
    return compare(
        f"{id}/parameters/formula",
        source,
        f"LGI-Former, {what}: number of parameters",
        value=value,
        unit="parameters",
        found=sum(parts.values()),
        formula=in_parts(parts),
        tolerance=0,
    )


def saving(paper: Paper) -> Claim:
    """FLOPs saved against VideoMAE, from the counts themselves and not from 50 and 81."""
    lgi, vit = (sum(macs(model_of(m), as_published=True).values()) for m in (OURS, "VideoMAE"))
    cell = paper.table("summaries").row("FLOPs saved against VideoMAE")["value"]
    return compare(
        "headline/flops/saving",
        paper.cite(cell.sources),
        "FLOPs that MAE-DFER saves against VideoMAE, in whole percent",
        value=cell.number,
        unit=cell.unit,
        found=100 * (1 - lgi / vit),
        formula=f"100 x (1 - {lgi:,} / {vit:,} multiply-adds)",
        tolerance=cell.rounding,
    )


def loss_weights(paper: Paper) -> Claim:
    """Lambda: the code's one mean over a cube's outputs weighs appearance as the paper does."""
    config = PretrainConfig()
    outputs = 3 * math.prod(config.model.tubelet)
    appearance = outputs // config.target.motion_group
    cell = paper.table("summaries").row("motion and appearance share the loss: lambda")["value"]
    return compare(
        "loss/lambda/equivalence",
        paper.cite(cell.sources),
        "lambda: weight of the appearance loss; the code takes one mean over all outputs instead",
        value=cell.number,
        unit=cell.unit,
        found=appearance / outputs,
        formula=f"{appearance} appearance outputs of {outputs} of a cube, equally weighted,",
        tolerance=cell.rounding,
    )
