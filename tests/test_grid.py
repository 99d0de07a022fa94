from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maedfer_lab.method.grid import (
    Grid,
    check_region,
    grid_positions,
    patchify,
    region_index,
    region_shapes,
    sincos_positions,
    unpatchify,
)

grids = st.builds(Grid, st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))


@given(st.data())
def test_every_region_shape_partitions_the_grid_like_the_slow_loop(data):
    grid = data.draw(grids)
    shape = data.draw(st.sampled_from(region_shapes(grid)))
    starts = product(*(range(0, side, step) for side, step in zip(grid.shape, shape, strict=True)))
    slow = [
        [
            (t * grid.h + h) * grid.w + w
            for t, h, w in product(*(range(a, a + k) for a, k in zip(start, shape, strict=True)))
        ]
        for start in starts
    ]
    index = region_index(grid, shape)
    assert index.tolist() == slow
    assert sorted(index.flatten().tolist()) == list(range(grid.n))


@given(grids, st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)))
def test_unpatchify_inverts_patchify(grid, tubelet):
    size = [g * p for g, p in zip(grid.shape, tubelet, strict=True)]
    clip = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    cubes = patchify(clip, tubelet)
    assert torch.equal(unpatchify(cubes, grid, tubelet), clip)
    first = clip[:, :, 0, : tubelet[1], : tubelet[2]].permute(0, 2, 3, 1).flatten(1)
    assert torch.equal(cubes[:, 0, : first.shape[1]], first), "a cube's first frame comes first"


def test_positions_tell_all_tokens_of_any_grid_apart():
    table = sincos_positions(Grid(3, 5, 7).n, 16)
    assert table.shape == (105, 16) and torch.cdist(table, table).fill_diagonal_(1).min() > 0.1
    assert table[0].tolist() == [0.0, 1.0] * 8


def test_shapes_that_do_not_divide_are_refused_with_one_that_does():
    with pytest.raises(ValueError, match=r"region=\(2, 4, 10\).*\(2, 5, 10\)"):
        check_region(Grid(8, 10, 10), (2, 4, 10))
    with pytest.raises(ValueError, match=r"tubelet=\(2, 16, 16\).*\(16, 160, 160\)"):
        Grid.of_clip(16, 165, 170, (2, 16, 16))
    with pytest.raises(ValueError, match="tubelet"):
        patchify(torch.zeros(1, 3, 3, 4, 4), (2, 4, 4))


def test_grid_positions_tell_axes_apart():
    grid = Grid(2, 3, 4)
    table = grid_positions(grid, 12).view(2, 3, 4, 12)
    assert torch.equal(table[0, :, :, 4:], table[1, :, :, 4:])  # another time: other first third
    assert torch.equal(table[:, 0, :, 8:], table[:, 2, :, 8:])
    assert (table[:, :, 0, 8:] != table[:, :, 1, 8:]).any()
    with pytest.raises(ValueError, match="width=16 must be a multiple of 6"):
        grid_positions(grid, 16)
