"""The list of differences from the official code, and what of it no other test pins."""

import importlib
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch

import maedfer_lab
from maedfer_lab import config
from maedfer_lab.config import tiny
from maedfer_lab.method.attention import LGIBlock
from maedfer_lab.method.grid import Grid, region_index
from maedfer_lab.method.masking import num_masked, region_tube_mask, split_tokens, tube_mask
from maedfer_lab.method.models import build_classifier

PAGE = Path(__file__).parents[1] / "docs" / "official_differences.md"
GRID = Grid(8, 10, 10)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# The page itself.

ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if re.match(r"\| B\d+ \|", line)
]


def test_rows_are_numbered_and_say_what_is_done_here():
    assert [row[0].strip("| ") for row in ROWS] == [f"B{i}" for i in range(1, len(ROWS) + 1)]
    assert len(ROWS) >= 27
    for row in ROWS:
        assert len(row) == 6 and all(row), row
        assert row[3] in ("right by default", "as official", "does not arise", "own way")


def test_every_named_option_and_function_exists():
    text = PAGE.read_text(encoding="utf-8")
    for owner, member in set(re.findall(r"`([A-Z]\w+)\.(\w+)`", str(ROWS))):
        cls = getattr(config, owner, None) or getattr(maedfer_lab, owner)
        options = fields(cls) if is_dataclass(cls) else inspect.signature(cls).parameters.values()
        assert member in {option.name for option in options}, member
    for module, member in re.findall(r"`(maedfer_lab\.[\w.]+)\.(\w+)`", text):
        assert hasattr(importlib.import_module(module), member), member


# B1 and B2: order and partition of visible tokens.


def in_other_regions(mask, region) -> int:
    """Visible tokens that the official cut by rank puts into another region than their own."""
    tokens = region_index(GRID, region)
    own = torch.empty(GRID.n, dtype=torch.long)
    own[tokens] = torch.arange(len(tokens)).unsqueeze(1).expand_as(tokens)
    cut = split_tokens(mask, GRID, region, legacy_visible_order=True).visible[0]
    return int((own[cut].view(len(tokens), -1) != torch.arange(len(tokens))[:, None]).sum())


def test_cutting_by_rank_mixes_regions():
    paper = region_tube_mask(GRID, (2, 5, 10), 0.9, generator=seeded())
    assert in_other_regions(paper, (2, 5, 10)) == 0
    narrow = region_tube_mask(GRID, (2, 5, 5), 0.8, generator=seeded())
    assert in_other_regions(narrow, (2, 5, 5)) == 96  # of 160
    tubes = [tube_mask(GRID, 0.9, generator=seeded(i)) for i in range(200)]
    share = sum(in_other_regions(mask, (2, 5, 10)) for mask in tubes) / (200 * 80)
    assert share == pytest.approx(0.118, abs=0.02)


def test_every_whole_ratio_hides_what_it_says():
    """Products of floats, cut off, would lose one place for some of them (B3)."""
    for places in (50, 64, 100):
        assert [num_masked(k / places, places) for k in range(1, places)] == [*range(1, places)]
    assert int(0.29 * 100) == 28 and num_masked(0.29, 100) == 29


# B7 and B16: work that reaches nothing.


def test_parameters_that_cannot_matter_are_kept_and_left_alone():
    config = tiny().model
    model = build_classifier(config, 7)
    dead = {n for n, _ in model.named_parameters() if n.startswith("encoder.blocks.1.interact")}
    assert len(dead) == 9  # two norms, q and v bias, the matrices
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model(torch.rand(2, 3, config.frames, config.size_px, config.size_px)).square().sum().backward()
    optimiser.step()
    kept = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert dead == kept
    everything = build_classifier(config, 7, tokens="all")
    clip = torch.rand(2, 3, config.frames, config.size_px, config.size_px)
    everything(clip).square().sum().backward()
    assert all(p.grad is not None for p in everything.parameters())


# Drop path, as official.


def changed(block: LGIBlock, rep, tokens) -> tuple[torch.Tensor, torch.Tensor]:
    new_rep, new_tokens = block.forward_separate(rep, tokens)
    return (new_rep - rep).abs().amax(-1) > 0, (new_tokens - tokens).abs().amax(-1) > 0


STAGES = ["local", "inter", "interact", "ffn"]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, ["region", "clip", "clip", "region"]),
        ({"local": "cross"}, ["region", "clip", "clip", "region"]),
        ({"interact": "self"}, ["region", "clip", "region", "region"]),
    ],
)
def test_drop_path_acts_per_region_or_per_clip_and_draws_four_times(options, rows):
    b, r, s, d = 6, 4, 5, 16
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for only, unit in zip(STAGES, rows, strict=True):
            block = LGIBlock(d, 2, drop_path=0.5, **options).train()
            sizes: list[int] = []
            block.drop_path.register_forward_hook(lambda m, i, o, to=sizes: to.append(len(o)))
            for stage in STAGES:  # silence all stages but one
                last = block.mlp.fc2 if stage == "ffn" else getattr(block, f"{stage}_attn").proj
                if stage != only:
                    torch.nn.init.zeros_(last.weight)
                    torch.nn.init.zeros_(last.bias)
            rep, tokens = torch.randn(b, r, d), torch.randn(b, r, s, d)
            is_rep_new, is_token_new = changed(block, rep, tokens)
            assert sizes == [b * r if row == "region" else b for row in rows]
            # Within a unit all or nothing stays; representatives go with their region's tokens.
            both = torch.cat([is_rep_new.unsqueeze(2), is_token_new], 2).float()
            if only == "inter" or (only == "local" and options.get("local") == "cross"):
                both = both[:, :, :1]
            if only == "interact" and unit == "clip":
                both = both[:, :, 1:]
            share = both.mean(2) if unit == "region" else both.mean((1, 2))
            assert set(share.flatten().tolist()) == {0.0, 1.0}
