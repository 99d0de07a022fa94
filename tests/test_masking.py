import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from maedfer_lab.method import masking
from maedfer_lab.method.grid import Grid, region_index, region_shapes

PAPER = Grid(8, 10, 10)
grids = st.builds(Grid, st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))


@st.composite
def grid_region_ratio(draw):
    grid = draw(grids)
    region = draw(st.sampled_from(region_shapes(grid)))
    ratios = masking.mask_ratios(grid, region)
    assume(ratios)
    return grid, region, draw(st.sampled_from(ratios))


@given(grid_region_ratio(), st.integers(0, 2**31))
def test_region_masks_are_equal_in_every_region_and_constant_in_time(case, seed):
    grid, region, ratio = case
    generator = torch.Generator().manual_seed(seed)
    mask = masking.region_tube_mask(grid, region, ratio, 3, generator=generator)
    visible = (~mask)[:, region_index(grid, region)].sum(-1)
    assert (visible == visible[0, 0]).all() and visible[0, 0] > 0
    frames = mask.view(3, grid.t, -1)
    assert (frames == frames[:, :1]).all()


@given(grid_region_ratio(), st.integers(0, 2**31))
def test_split_sorts_by_region_and_merge_puts_back(case, seed):
    grid, region, ratio = case
    generator = torch.Generator().manual_seed(seed)
    mask = masking.region_tube_mask(grid, region, ratio, generator=generator)
    split = masking.split_tokens(mask, grid, region)
    region_of = torch.empty(grid.n, dtype=torch.long)
    for i, tokens in enumerate(region_index(grid, region)):
        region_of[tokens] = i
    assert (region_of[split.visible[0]].diff() >= 0).all()
    assert not mask[0, split.visible[0]].any() and mask[0, split.masked[0]].all()
    values = torch.arange(grid.n).float()[None, :, None]
    merged = masking.merge_tokens(values[:, split.visible[0]], values[:, split.masked[0]], split)
    assert torch.equal(merged, values)


def test_known_numbers_of_misplaced_tokens():
    known = {(2, 5, 10): 40, (4, 5, 10): 60, (8, 5, 10): 70, (2, 2, 10): 64, (1, 5, 10): 0,
             (1, 10, 10): 0, (2, 10, 10): 0, (8, 10, 10): 0}  # fmt: skip
    assert {shape: masking.misplaced_tokens(PAPER, shape) for shape in known} == known
    seeds = [torch.Generator().manual_seed(seed) for seed in (3, 3, 4)]
    draw = [masking.region_tube_mask(PAPER, (2, 5, 10), 0.9, 2, generator=seed) for seed in seeds]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    assert (~draw[0]).sum(1).tolist() == [80, 80]


@pytest.mark.parametrize(
    ("ratio", "message"), [(0.93, "0.92 or 0.94"), (0.99, "0.98"), (0.0, "between"), (1.5, "0.9")]
)
def test_ratios_that_cannot_be_equal_are_refused_with_ones_that_can(ratio, message):
    with pytest.raises(ValueError, match="mask_ratio=") as error:
        masking.region_tube_mask(PAPER, (2, 5, 10), ratio)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.arange(800)[None] >= 80, "region_tube_mask"),
        (torch.zeros(1, 800).bool(), "at least 1 and not all"),
        (torch.ones(1, 800).bool(), "at least 1 and not all"),
        (torch.zeros(1, 700).bool(), "800"),
        (torch.zeros(1, 800), r"mask has dtype.*mask\.bool\(\)"),
    ],
)
def test_masks_that_are_unequal_or_of_numbers_are_refused(mask, message):
    # beneath the shape checks of the tests, which would speak first
    split = getattr(masking.split_tokens, "__wrapped__", masking.split_tokens)
    with pytest.raises(ValueError, match=message):
        split(mask, PAPER, (2, 5, 10))
