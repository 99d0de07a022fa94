"""What stands beside weights and is not in them: the card of shipped ones, the files of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from maedfer_lab.checkpoints.reading import locate
from maedfer_lab.runs import Run

OFFICIAL_STRIDE = 4
OF_A_RUN = ("model.safetensors", "best.safetensors")


def facts_of(source: Path | str) -> dict[str, Any]:
    """What is told of a checkpoint: name, stride, classes, kind, training, whether synthetic.

    source: a folder with a card.json, a run's folder (then `config`, `data` and `folder` are told
        as well), or the weights in one of them; {} for any other file.
    """
    source = locate(source)
    folder = source.parent if source.name in OF_A_RUN else source
    if (folder / "card.json").is_file():
        return json.loads((folder / "card.json").read_text(encoding="utf-8"))
    if not (folder / "result.json").is_file():
        return {}
    result, config = (Run(folder).read(name) for name in ("result.json", "config.json"))
    data = str(result.get("data") or result["provenance"].get("data", "unknown data"))
    kind = "fine-tuned" if "classes" in result else "pre-trained"
    return {
        "name": folder.name,
        "stride": config.get("stride", OFFICIAL_STRIDE),
        "classes": result.get("classes"),
        "synthetic": data.startswith("synthetic"),
        "kind": kind,
        "training": f"{kind} for {result['steps']} steps on {data}",
        "data": data,
        "config": config,
        "folder": folder,
    }
