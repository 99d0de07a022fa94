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
    slow = []
    for t0 in range(0, grid.t, shape[0]):
        for h0 in range(0, grid.h, shape[1]):
            for w0 in range(0, grid.w, shape[2]):
                slow.append(
                    [
                        (t * grid.h + h) * grid.w + w
                        for t in range(t0, t0 + shape[0])
                        for h in range(h0, h0 + shape[1])
                        for w in range(w0, w0 + shape[2])
                    ]
                )
    index = region_index(grid, shape)
    assert index.tolist() == slow
    assert sorted(index.flatten().tolist()) == list(range(grid.n))


@given(grids, st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)))
def test_unpatchify_inverts_patchify(grid, tubelet):
    size = [g * p for g, p in zip(grid.shape, tubelet, strict=True)]
    clip = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpatchify(patchify(clip, tubelet), grid, tubelet), clip)


def test_first_half_of_a_cube_is_its_first_frame():
    clip = torch.zeros(1, 3, 2, 4, 4)
    clip[:, :, 1] = 1
    cube = patchify(clip, (2, 4, 4))[0, 0]
    assert cube[: len(cube) // 2].sum() == 0 and cube[len(cube) // 2 :].min() == 1


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
