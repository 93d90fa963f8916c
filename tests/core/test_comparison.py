"""Seeds, the grid and the table of a comparison."""

import pytest
import torch

from afa_core.comparison.grid import picture_grid
from afa_core.comparison.seeds import parse_seeds
from afa_core.comparison.table import Row, markdown, table


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1", [1]), ("3, 1;2", [3, 1, 2]), (" 5-7 6\n9 ", [5, 6, 7, 9]), (str(2**64 - 1), [2**64 - 1])],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "one", "-1", "3-1", "1.5", str(2**64), "1-5000"])
def test_odd_seeds_are_refused(text):
    with pytest.raises(ValueError, match="seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(("side", "shown"), [(64, 192), (256, 256), (1024, 512)])
def test_every_picture_is_in_its_place(side, shown):
    """At its size, or enlarged or reduced: the middle of each cell has its picture's colour."""
    values = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(1))
    pictures = [[value.expand(side, side, 3) for value in row] for row in values]
    grid = picture_grid(pictures, ["one", "two", "a name that is longer than a line"], ["seed 1", "seed 2"])
    assert grid.shape[0] == 1 and grid.shape[-1] == 3
    left, top = grid.shape[2] - 2 * (shown + 6), grid.shape[1] - 3 * (shown + 6)
    for row in range(3):
        for column in range(2):
            y, x = top + row * (shown + 6) + shown // 2, left + column * (shown + 6) + shown // 2
            torch.testing.assert_close(grid[0, y, x], values[row, column], atol=1 / 255, rtol=0)
    labels = grid[0, top:, :left]
    assert all((labels[row * (shown + 6) :][:shown] < 0.5).any() for row in range(3))
    assert (grid[0, :top, left:] < 0.5).any()


def test_the_table():
    rows = [Row("one", 1, [2.0, 1.0, 1.5], {"AES": [5.0, 6.0, 7.0]}), Row("two", 3, [], {"AES": [5.0, 5.0, 5.0]})]
    assert markdown(table(rows)).splitlines() == [
        "| method | networks a step | seconds a picture | AES |",
        "| --- | ---: | ---: | ---: |",
        "| one | 1 | 1.50 | 6 +- 0.58 |",
        "| two | 3 | - | 5 +- 0 |",
    ]
