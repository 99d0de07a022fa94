"""How cost grows with the clip: LGI-Former's and ViT's blocks, by formula, time and memory."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import timer

from maedfer_lab.config import EncoderKind, ModelConfig, Shape3, base, output_folder
from maedfer_lab.cost.formula import encoder_block, num_regions, token_grid, total_macs
from maedfer_lab.cost.memory import Work, alternate, cpu_threads, peak_bytes
from maedfer_lab.cost.tables import count_with_torch, model_for_counting
from maedfer_lab.files import read_bytes, reading, write_aside
from maedfer_lab.method.attention import LGIBlock, ViTBlock
from maedfer_lab.method.grid import Grid, region_shapes

REGION_TOKENS = 100  # of the paper's region, 2 x 5 x 10
KINDS: tuple[EncoderKind, ...] = ("lgi", "vit")


def theoretical_share(num_tokens: int, num_regions: int) -> float:
    """Attention of LGI-Former as a share of joint attention: 1/M + 1/N^2 + 1/N.

    Sun et al., section 3.2, with M regions of N tokens. Stage 1 has no representative tokens
    there, so the counted share is a little larger.
    """
    size = num_tokens / num_regions
    return 1 / num_regions + 1 / size**2 + 1 / size


def region_like_papers(grid: Shape3) -> Shape3:
    """The region of two time steps that is nearest to the paper's 100 tokens on this grid."""
    shapes = [s for s in region_shapes(Grid(*grid)) if s[0] == min(2, grid[0])]
    if not shapes:
        raise ValueError(
            f"grid={grid} has no region of two time steps; use a clip whose frames are a multiple "
            "of two tubelets"
        )
    return min(shapes, key=lambda s: (abs(math.prod(s) - REGION_TOKENS), -s[2]))


def of_clip(config: ModelConfig, frames: int, size_px: int) -> ModelConfig:
    """The same model for another clip, with a region like the paper's."""
    config = replace(config, frames=frames, size_px=size_px)
    return replace(config, region=region_like_papers(token_grid(config)))


def block_cost(config: ModelConfig) -> dict[str, int]:
    """One encoder block's multiply-adds: "attention" among tokens, and "all" of it."""
    parts = encoder_block(config).values()
    return {"attention": sum(p.attention for p in parts), "all": sum(p.macs for p in parts)}


def cheapest_region(config: ModelConfig, cost: str = "all") -> Shape3:
    """The region whose block costs least; if equal, the widest, then the highest.

    cost: "attention" counts only products among tokens, with the optimum N = sqrt(K) tokens; "all"
        includes the linear layers, through which representative tokens pass too, with the optimum
        N = sqrt(K + 9 C) (width C, MLP ratio 4).
    """
    shapes = region_shapes(Grid(*token_grid(config)))
    return min(shapes, key=lambda s: (block_cost(replace(config, region=s))[cost], -s[2], -s[1]))


def counted_crossing(width: int) -> float | None:
    """Tokens from which an LGI-Former block costs less than a ViT block of the same width.

    By formula, with the paper's regions, from 200 to 6400 tokens: about C + N of them.
    """
    model = ModelConfig(width=width, num_heads=1)
    clips = [of_clip(model, frames, 160) for frames in range(4, 132, 4)]
    return crossing(
        [math.prod(token_grid(clip)) for clip in clips],
        [block_cost(clip)["all"] for clip in clips],
        [block_cost(replace(clip, encoder="vit"))["all"] for clip in clips],
    )


def growth(frames: Sequence[int] = (4, 8, 16, 32, 48, 64, 96, 128)) -> list[dict[str, Any]]:
    """Whole classifiers and cheapest regions, by formula, as the clip gets longer (160 px).

    Counts are multiply-adds as published: of LGI-B, of ViT-B, of LGI-B's width and depth with
    joint attention, and of LGI-B with the cheapest region.
    """
    lgi, vit = base().model, base("vit").model
    same = replace(lgi, encoder="vit")
    rows = []
    for count in frames:
        clip = of_clip(lgi, count, 160)
        best = {cost: cheapest_region(clip, cost) for cost in ("attention", "all")}
        models = {
            "LGI-B": clip,
            "ViT-B": replace(vit, frames=count),
            "ViT 512 x 16": replace(same, frames=count),
            "LGI-B, cheapest region": replace(clip, region=best["all"]),
        }
        tokens = math.prod(token_grid(clip))
        totals = {k: total_macs(m, as_published=True) for k, m in models.items()}
        rows.append({"frames": count, "tokens": tokens, "macs": totals, "cheapest": best,
                     "theory": theoretical_share(tokens, num_regions(clip))})  # fmt: skip
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Fitted exponents of the results of `measure`, and where LGI's curves fall below ViT's.

    "crossings" are numbers of tokens, None if LGI is always cheaper (or always more expensive).
    """
    tokens = [row["tokens"] for row in rows]
    found: dict[str, dict[str, Any]] = {"exponents": {}, "crossings": {}}
    for what in ("attention", "all", "attention_seconds", "seconds", "peak_bytes"):
        curves = {name: [row[what][name] for row in rows] for name in rows[0][what]}
        found["exponents"][what] = {name: exponent(tokens, x) for name, x in curves.items()}
        found["crossings"][what] = crossing(tokens, curves["lgi"], curves["vit"])
    return found


def exponent(tokens: Sequence[float], values: Sequence[float]) -> float:
    """The b of values ~ tokens^b: the slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(tokens), np.log(values), 1)[0])


def crossing(
    tokens: Sequence[float], first: Sequence[float], second: Sequence[float]
) -> float | None:
    """Number of tokens (rising) from which `first` costs less than `second`; None if never.

    Interpolated between neighbours on logarithmic axes; the last crossing if there are several.
    """
    x, gap = np.log(tokens), np.log(np.divide(first, second))
    falls = np.flatnonzero((gap[:-1] > 0) & (gap[1:] <= 0))
    if not len(falls):
        return None
    i = int(falls[-1])
    return float(np.exp(x[i] + (x[i + 1] - x[i]) * gap[i] / (gap[i] - gap[i + 1])))


@dataclass(frozen=True)
class Sweep:
    """Clips to measure, and the width of the blocks, which is the same for both kinds.

    frames: lengths at 160 px; sizes_px: sizes at 16 frames.
    repeats: measurements of each, alternating between the kinds; the median counts.
    """

    frames: tuple[int, ...]
    sizes_px: tuple[int, ...]
    width: int
    num_heads: int
    repeats: int
    batch: int = 1

    def configs(self) -> list[ModelConfig]:
        """LGI-Formers of one block, one per clip, fewest tokens first."""
        model = ModelConfig(depth=1, width=self.width, num_heads=self.num_heads)
        clips = {(frames, 160) for frames in self.frames} | {(16, size) for size in self.sizes_px}
        configs = [of_clip(model, frames, size) for frames, size in sorted(clips)]
        return sorted(configs, key=lambda config: math.prod(token_grid(config)))


FRAMES, SIZES_PX = (8, 16, 32, 64, 128), (112, 160, 224, 320)
SWEEPS = {  # by profile
    "smoke": Sweep((8, 16, 32), (112, 224), width=64, num_heads=1, repeats=3),
    "quick": Sweep(FRAMES, SIZES_PX, width=192, num_heads=3, repeats=5),
    "full": Sweep(FRAMES, SIZES_PX, width=512, num_heads=8, repeats=15, batch=2),
}


def load_or_measure(sweep: Sweep, device: torch.device | str = "cpu") -> list[dict[str, Any]]:
    """`measure`, cached in runs/ for this sweep and device."""
    described = json.dumps([asdict(sweep), str(device), torch.__version__], sort_keys=True)
    name = f"complexity-{hashlib.sha256(described.encode()).hexdigest()[:10]}"
    path = output_folder() / "runs" / name / "result.json"
    if not path.exists():
        write_aside(path, json.dumps(measure(sweep, device), indent=1).encode())
    with reading(path, "delete it, and it is measured again"):
        return json.loads(read_bytes(path))


def measure(sweep: Sweep, device: torch.device | str = "cpu") -> list[dict[str, Any]]:
    """Theory, counts, seconds and peak memory of one block of each kind, for every clip.

    Per row: "share" of joint attention by theory, by PyTorch's counter and in time; "attention"
    and "all" multiply-adds of the blocks; "seconds" of a training step (forward and backward)
    through them, "attention_seconds" through their products among tokens alone; "peak_bytes" of
    the step beyond parameters and inputs, with fused attention and ("lgi_written", "vit_written")
    with attention weights written out, as the official code does. All of the whole batch.

    On a CPU, processor time of one thread is measured, which does not count other programs.
    """
    device, rows = torch.device(device), list[dict[str, Any]]()
    clips = [{kind: replace(config, encoder=kind) for kind in KINDS} for config in sweep.configs()]
    with cpu_threads(1):
        blocks, among = ({f"{i} {kind}": step(config, sweep.batch, device)
                          for i, clip in enumerate(clips) for kind, config in clip.items()}
                         for step in (block_step, attention_step))  # fmt: skip
        seconds, alone = (median_seconds(steps, sweep.repeats, device) for steps in (blocks, among))
        for i, clip in enumerate(clips):
            config = clip["lgi"]
            row: dict[str, Any] = {"frames": config.frames, "size_px": config.size_px,
                                   "tokens": math.prod(token_grid(config)),
                                   "region": config.region}  # fmt: skip
            counted = {kind: count_with_torch(*model_for_counting(one, as_published=True))
                       for kind, one in clip.items()}  # fmt: skip
            attention = {k: sum(part.attention for part in x.values()) for k, x in counted.items()}
            taken, products = ({k: x[f"{i} {k}"] for k in KINDS} for x in (seconds, alone))
            share = {"theory": theoretical_share(row["tokens"], num_regions(config))}
            share |= {name: x["lgi"] / x["vit"]
                      for name, x in (("counted", attention), ("time", products))}  # fmt: skip
            peaks = {}
            for kind, one in clip.items():
                written = block_step(one, sweep.batch, device, written=True)
                peaks[kind] = peak_bytes(blocks[f"{i} {kind}"], device)
                peaks[f"{kind}_written"] = peak_bytes(written, device)
            rows.append({
                **row, "share": share, "attention": attention,
                "all": {kind: block_cost(one)["all"] for kind, one in clip.items()},
                "seconds": taken, "attention_seconds": products, "peak_bytes": peaks,
            })  # fmt: skip
    return rows


def block_step(
    config: ModelConfig, batch: int, device: torch.device, *, written: bool = False
) -> Work:
    """A training step (forward and backward) through one encoder block on random tokens.

    written: with the attention weights written out instead of the fused kernel.
    """
    tokens, width = math.prod(token_grid(config)), config.width
    shape = (batch, tokens, width)
    if config.encoder == "lgi":  # with a representative token in each region
        regions = num_regions(config)
        shape = (batch, regions, 1 + tokens // regions, width)
    x = _random(shape, device).requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind = ViTBlock if config.encoder == "vit" else LGIBlock
        block = kind(width, config.num_heads).to(device)

    def step() -> None:
        for leaf in (x, *block.parameters()):
            leaf.grad = None
        block(x, weights={} if written else None).sum().backward()

    return step


def attention_step(config: ModelConfig, batch: int, device: torch.device) -> Work:
    """The same step through the products among tokens alone: no projections, norms or FFN."""
    tokens, heads = math.prod(token_grid(config)), config.num_heads
    size = config.width // heads

    def part(sequences: int, length: int) -> Tensor:
        return _random((sequences, heads, length, size), device).requires_grad_()

    whole = part(batch, tokens)
    pairs = [(whole, whole)]
    if config.encoder == "lgi":
        regions = num_regions(config)
        local, rep = part(batch * regions, tokens // regions + 1), part(batch, regions)
        pairs = [(local, local), (rep, rep), (whole, rep)]

    def step() -> None:
        for query, context in pairs:
            query.grad = context.grad = None
            F.scaled_dot_product_attention(query, context, context).sum().backward()

    return step


def _random(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def median_seconds(steps: dict[str, Work], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each step, after a round to warm up; on a CPU the processor's."""
    clock = timer if device.type == "cuda" else time.process_time
    taken = alternate(steps, 0, repeats + 1, repeats + 1, clock)
    return {name: statistics.median(rounds[1:]) for name, rounds in taken.items()}
