"""The memory tables are those that the command prints, and their counts are the published ones."""

import pytest

from tests.support.comfy.bootstrap import REPOSITORY
from tests.tools.memory_table import aggregator_parameters, lora_table, table


def test_the_page_holds_the_tables_as_printed():
    page = (REPOSITORY / "docs" / "results" / "memory.md").read_text()
    assert table() in page and lora_table() in page


def test_the_readme_has_rows_of_them():
    rows = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if line.endswith("GB |")]
    assert len(rows) >= 4
    assert set(rows) <= set(table().splitlines())


@pytest.mark.parametrize(
    ("experts", "parameters"), [(2, 42_425_344), (3, 45_132_416), (4, 47_839_488), (5, 50_546_560)]
)
def test_the_aggregator_has_the_paper_s_parameters(experts, parameters):
    assert aggregator_parameters("SD1.5", experts) == parameters
