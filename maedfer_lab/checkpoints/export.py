"""Export a model to ONNX, or to PyTorch's own exported form, for use without this package."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.official import Model
from maedfer_lab.checkpoints.saving import settings_of
from maedfer_lab.files import write_aside
from maedfer_lab.method.attention import Weights
from maedfer_lab.method.grid import patchify
from maedfer_lab.method.masking import mask_ratios
from maedfer_lab.method.models import Classifier, Encoder, model_mask
from maedfer_lab.method.targets import normalise_cube_pixels

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


class Exported(nn.Module):
    """A model on plain tensors. Tokens are picked by `index_select`: general indexing is slow."""

    def __init__(self, model: Model, attention: bool = False) -> None:
        super().__init__()
        self.model, self.attention = model, attention

    def forward(
        self, clip: Tensor, visible: Tensor | None = None, masked: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Logits, or the masked tokens' prediction; then attention weights, block after block."""
        model = self.model
        if isinstance(model, Classifier):
            rep, tokens = _encode(model.encoder, clip, model.encoder.all_tokens.int(), model.tokens)
            if model.pooling == "regions" and model.tokens == "tokens":
                own = tokens
                if rep is None:  # an LGI-Former's lie region after region
                    own = tokens.index_select(1, model.regions.flatten())
                tokens = own.unflatten(1, model.regions.shape).mean(2)
            read = [x for x, name in ((rep, "rep"), (tokens, "tokens")) if x is not None
                    and model.tokens in (name, "all")]  # fmt: skip
            return (model.head(model.pool(torch.cat(read, 1))),)
        assert visible is not None and masked is not None
        weights: list[Weights] = [{} for _ in model.encoder.blocks] if self.attention else []
        _, tokens = _encode(model.encoder, clip, visible, weights=weights)
        decoder, places = model.decoder, visible
        if model.config.legacy_visible_order:
            places = visible.sort().values
        x = decoder.embed(model.norm(tokens)) + decoder.positions.index_select(0, places)
        hidden = decoder.mask_token + decoder.positions.index_select(0, masked)
        x = torch.cat([x, hidden], 1)
        for block in decoder.blocks[:-1]:
            x = block(x)
        x = decoder.blocks[-1](x, last=masked.shape[0])
        maps = [one for block in weights for one in block.values()]
        return decoder.head(decoder.norm(x)), *maps


def _encode(
    encoder: Encoder, clip: Tensor, index: Tensor, read: str = "tokens",
    weights: Sequence[Weights] = (),
) -> tuple[Tensor | None, Tensor]:  # fmt: skip
    """Representative and other tokens of `index`, as `Encoder.forward` gives them.

    weights: a dict for each block, to fill with its attention weights; none by default.
    """
    blocks = list(zip_longest(encoder.blocks, weights))
    cubes = patchify(clip, encoder.config.tubelet).index_select(1, index)
    x = encoder.embed(normalise_cube_pixels(cubes)) + encoder.positions.index_select(0, index)
    if encoder.rep_tokens is None:
        for block, kept in blocks:
            x = block(x, weights=kept)
        return None, x
    rep = encoder.rep_tokens.expand(clip.shape[0], -1, -1).unsqueeze(2)
    z = torch.cat([rep, x.unflatten(1, (encoder.num_regions, -1))], 2)
    for i, (block, kept) in enumerate(blocks):
        z = block(z, rep_only=read == "rep" and i == len(blocks) - 1, weights=kept)
    return z[:, :, 0], z[:, :, 1:].flatten(1, 2)


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
