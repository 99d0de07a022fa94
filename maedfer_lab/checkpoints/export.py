"""Export a model to ONNX, or to PyTorch's own exported form, for use without this package."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.official import Model
from maedfer_lab.checkpoints.saving import settings_of
from maedfer_lab.config import Shape3
from maedfer_lab.files import write_aside
from maedfer_lab.method.grid import patchify
from maedfer_lab.method.masking import mask_ratios
from maedfer_lab.method.models import Classifier, model_mask

OPSET = 20
TOLERANCE, TOLERANCE_FLOAT16 = 1e-4, 2e-2  # of the largest output
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
STAGES = ("local", "inter", "interact")  # of an LGI block; a ViT's has one, "joint"
SMALL = 1024  # numbers of a tensor that stays float32: norms and biases


def export(
    model: Path, /, *, to: Path, num_classes: int | None = None, float16: bool = False
) -> str:
    """Export a model to run without this package, after comparing it with PyTorch.

    A classifier takes `clip` (b, 3, T, H, W), pixels in [0, 1], and gives `logits` (b, k). An
    autoencoder takes one clip and token numbers (int32), `visible` (region after region for
    LGI-Former) and `masked`, and gives the masked tokens' `prediction` (1, m, p).

    model: whatever `maedfer checkpoint` reads: a file, a folder, demo or demo-expressions.
    to: NAME.onnx (opset 20; needs `pip install 'maedfer-lab[export]'`) or NAME.pt2 (torch.export).
    num_classes: export the encoder as a classifier with this many (newly initialised) classes.
    float16: store the weights of an ONNX file in half precision; it computes in float32.
    """
    if to.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"--to {to}: end it in .onnx or .pt2")
    if to.suffix == ".pt2" and float16:
        raise ValueError("--float16 is for .onnx files; leave it out for .pt2")
    for name in LIBRARIES if to.suffix == ".onnx" else ():
        if find_spec(name) is None:
            raise ModuleNotFoundError(
                f"exporting to ONNX needs {name}: pip install 'maedfer-lab[export]'"
            )
    loaded = load_checkpoint(
        model, as_="auto" if num_classes is None else "classifier", num_classes=num_classes
    ).model
    difference, tolerance, size = export_model(loaded, to.expanduser(), float16=float16)
    return (
        f"{to}: {size / 1e6:,.1f} MB, within {difference:.1e} of PyTorch (allowed: {tolerance:g} "
        f"of the largest output); inputs: {', '.join(_inputs(loaded))}"
    )


def export_model(
    model: Model, path: Path, *, float16: bool = False, attention: bool = False
) -> tuple[float, float, int]:
    """Write `model` as .onnx or .pt2; (largest relative difference to PyTorch, allowed, bytes).

    attention: an autoencoder's encoder also returns the weights of every block's stages, e.g.
        `local_0` (1 r a k k), `inter_0` (1 a r r) and `interact_0` (1 a v r) of the first block.

    ValueError, and nothing is written, if the two differ by more than allowed.
    """
    module = Exported(model, attention).eval()
    example, *others = [_example(model, few) for few in (True, False)]
    program, file = (
        torch.export.export(module, example, dynamic_shapes=_dynamic(model)),
        io.BytesIO(),
    )
    if path.suffix == ".pt2":
        torch.export.save(program, file)
    else:
        file.write(_onnx(program, example, module, float16))
    content = file.getvalue()
    tolerance = TOLERANCE_FLOAT16 if float16 else TOLERANCE
    difference = 0.0
    with torch.no_grad():
        for inputs in (example, *others):
            answer = _run(path.suffix, content, inputs)
            for want, found in zip(module(*inputs), answer, strict=True):
                difference = max(difference, float((found - want).abs().max() / want.abs().max()))
    if not difference <= tolerance:
        raise ValueError(
            f"{path}: outputs differ by {difference:.1e} of the largest one from PyTorch's, more "
            f"than {tolerance:g}; nothing was written"
        )
    write_aside(path, content)
    return difference, tolerance, len(content)


def _take_cubes(clip: Tensor, tubelet: Shape3, index: Tensor) -> Tensor:
    """The same cubes of every clip: indexing in general is slow in ONNX."""
    return patchify(clip, tubelet).index_select(1, index[0])


class Exported(nn.Module):
    """A copy of a model, on plain tensors."""

    def __init__(self, model: Model, attention: bool = False) -> None:
        super().__init__()
        self.model, self.attention = copy.deepcopy(model), attention
        self.model.encoder.take_cubes = _take_cubes  # type: ignore

    def forward(
        self, clip: Tensor, visible: Tensor | None = None, masked: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Logits, or the masked tokens' prediction; then attention weights, block after block."""
        model = self.model
        if isinstance(model, Classifier):
            return (model(clip),)
        assert visible is not None and masked is not None
        weights = {i: {} for i in range(model.config.depth if self.attention else 0)}
        tokens = model.encoder(clip, visible[None], weights=weights).tokens
        places = visible.sort().values if model.config.legacy_visible_order else visible
        prediction = model.decoder(model.norm(tokens), places[None], masked[None])
        return prediction, *(one for block in weights.values() for one in block.values())


def _inputs(model: Model) -> tuple[str, ...]:
    return ("clip",) if isinstance(model, Classifier) else ("clip", "visible", "masked")


def _example(model: Model, few: bool) -> tuple[Tensor, ...]:
    """Inputs: noise, and of tokens few or many visible ones."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    num = (2 if few else 3) if isinstance(model, Classifier) else 1
    clip = torch.rand(num, 3, config.frames, config.size_px, config.size_px, generator=generator)
    if isinstance(model, Classifier):
        return (clip,)
    region = config.region if config.has_regions else None
    ratios = mask_ratios(model.grid, region)
    if not ratios:
        raise ValueError(f"region={region} holds one place, so an autoencoder can hide nothing of "
                         "it; give num_classes, such as 7, to export the encoder")  # fmt: skip
    ratio = ratios[-1 - (len(ratios) > 2)] if few else ratios[len(ratios) // 2 - 1]
    split = model.split(model_mask(model, ratio, 1, generator))
    return clip, split.visible[0].int(), split.masked[0].int()


def _dynamic(model: Model) -> dict[str, Any]:
    if isinstance(model, Classifier):
        return {"clip": {0: torch.export.Dim("clips")}}
    per_region = torch.export.Dim("visible_per_region", min=1, max=model.grid.n)
    visible = per_region * max(1, model.encoder.num_regions)
    masked = torch.export.Dim("masked", min=1, max=model.grid.n)
    return {"clip": None, "visible": {0: visible}, "masked": {0: masked}}


def _onnx(
    program: torch.export.ExportedProgram, example: Sequence[Tensor], module: Exported,
    float16: bool,
) -> bytes:  # fmt: skip
    model, outputs = module.model, ["prediction"]
    if isinstance(model, Classifier):
        outputs = ["logits"]
    elif module.attention:
        for i, block in enumerate(model.encoder.blocks):
            stages = [s for s in STAGES if getattr(block, f"{s}_attn", None) is not None]
            outputs += [f"{stage}_{i}" for stage in stages or ["joint"]]
    written = torch.onnx.export(
        program, tuple(example), dynamo=True, opset_version=OPSET, verbose=False,
        input_names=list(_inputs(model)), output_names=outputs, external_data=False,
    )  # fmt: skip
    assert written is not None
    content, onnx, casts = written.model_proto, import_module("onnx"), []
    note = content.metadata_props.add()
    note.key, note.value = "maedfer_lab", json.dumps(settings_of(model))
    for weight in content.graph.initializer if float16 else ():
        # Large float32 weights become float16, each with a node that casts it back.
        values, name = onnx.numpy_helper.to_array(weight), weight.name
        is_table = name.endswith("positions")  # sines, which are no weights
        if values.dtype == "float32" and values.size > SMALL and not is_table:
            half = onnx.numpy_helper.from_array(values.astype("float16"), f"{name}_half")
            weight.CopyFrom(half)
            casts.append(onnx.helper.make_node("Cast", [half.name], [name], to=1))
    nodes = [*casts, *content.graph.node]
    del content.graph.node[:]
    content.graph.node.extend(nodes)
    return content.SerializeToString()


def _run(suffix: str, content: bytes, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    if suffix == ".pt2":
        return torch.export.load(io.BytesIO(content)).module()(*inputs)
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(one) for one in session.run(None, feed)]
