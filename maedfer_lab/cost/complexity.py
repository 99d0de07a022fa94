"""LGI-Former's block against ViT's by clock and memory, side by side, as the clip grows."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from maedfer_lab.config import EncoderKind, ModelConfig, output_folder
from maedfer_lab.cost.counters import count_with_torch, model_for_counting
from maedfer_lab.cost.formula import num_regions, token_grid
from maedfer_lab.cost.memory import one_thread, peak_bytes
from maedfer_lab.cost.scaling import block_cost, of_clip, theoretical_share
from maedfer_lab.files import write_aside
from maedfer_lab.method.attention import LGIBlock, ViTBlock

Step = Callable[[], None]
Key = TypeVar("Key", bound=Hashable)
KINDS: tuple[EncoderKind, ...] = ("lgi", "vit")


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
    """`measure`, kept in runs/ for this sweep and device: measured once, then the same numbers."""
    text = json.dumps([asdict(sweep), str(device), torch.__version__], sort_keys=True)
    name = f"complexity-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    path = output_folder() / "runs" / name / "result.json"
    if not path.exists():
        write_aside(path, json.dumps(measure(sweep, device), indent=1).encode())
    return json.loads(path.read_text())


def measure(sweep: Sweep, device: torch.device | str = "cpu") -> list[dict[str, Any]]:
    """Theory, counts, seconds and peak memory of one block of each kind, for every clip.

    Per row: "share" of joint attention by theory, by PyTorch's counter and in time; "attention"
    and "all" multiply-adds of the blocks; "seconds" of a training step (forward and backward)
    through them, "attention_seconds" through their products among tokens alone; "peak_bytes"
    that the step takes on top of parameters and inputs, with fused attention and ("lgi_written",
    "vit_written") with attention weights written out, as the official code does. Times and bytes
    are those of the whole batch.

    On a CPU, time is the processor's and one thread works: neither waits for other programs.
    """
    device, configs = torch.device(device), sweep.configs()
    models = {(i, kind): replace(config, encoder=kind)
              for i, config in enumerate(configs) for kind in KINDS}  # fmt: skip
    with one_thread():
        blocks = {key: block_step(one, sweep.batch, device) for key, one in models.items()}
        attention = {key: attention_step(one, sweep.batch, device) for key, one in models.items()}
        seconds = median_seconds(blocks, sweep.repeats, device)
        attention_seconds = median_seconds(attention, sweep.repeats, device)
        peaks = {key: peak_bytes(step, device) for key, step in blocks.items()}
        written = {
            key: peak_bytes(block_step(one, sweep.batch, device, written=True), device)
            for key, one in models.items()
        }
    rows = []
    for i, config in enumerate(configs):
        tokens = math.prod(token_grid(config))
        counted = {kind: _counted_attention(models[i, kind]) for kind in KINDS}
        rows.append(
            {
                "frames": config.frames,
                "size_px": config.size_px,
                "tokens": tokens,
                "region": config.region,
                "share": {
                    "theory": theoretical_share(tokens, num_regions(config)),
                    "counted": counted["lgi"] / counted["vit"],
                    "time": attention_seconds[i, "lgi"] / attention_seconds[i, "vit"],
                },
                "attention": counted,
                "all": {kind: block_cost(models[i, kind])["all"] for kind in KINDS},
                "seconds": {kind: seconds[i, kind] for kind in KINDS},
                "attention_seconds": {kind: attention_seconds[i, kind] for kind in KINDS},
                "peak_bytes": {kind: peaks[i, kind] for kind in KINDS}
                | {f"{kind}_written": written[i, kind] for kind in KINDS},
            }
        )
    return rows


def _counted_attention(config: ModelConfig) -> int:
    model, clip = model_for_counting(config, as_published=True)
    return sum(part.attention for part in count_with_torch(model, clip).values())


def block_step(
    config: ModelConfig, batch: int, device: torch.device, *, written: bool = False
) -> Step:
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
        vit, lgi = (kind(width, config.num_heads).to(device) for kind in (ViTBlock, LGIBlock))
    block = vit if config.encoder == "vit" else lgi

    def step() -> None:
        for leaf in (x, *block.parameters()):
            leaf.grad = None
        block(x, weights={} if written else None).sum().backward()

    return step


def attention_step(config: ModelConfig, batch: int, device: torch.device) -> Step:
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


def median_seconds(steps: dict[Key, Step], repeats: int, device: torch.device) -> dict[Key, float]:
    """Median duration of each step after a warm-up, in seconds.

    All steps run once before any runs again, so that whatever else slows the machine slows all.
    """
    taken: dict[Key, list[float]] = {key: [] for key in steps}
    for turn in tqdm(range(repeats + 1), "measure", leave=False, unit="turn"):
        for key, step in steps.items():
            start = _now(device)
            step()
            if turn:
                taken[key].append(_now(device) - start)
    return {key: statistics.median(values) for key, values in taken.items()}


def _now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
