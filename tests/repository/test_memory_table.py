"""The README's memory tables are those that the command prints, and its counts are the published ones."""

import pytest

from tests.support.comfy.bootstrap import REPOSITORY
from tests.tools.memory_table import aggregator_parameters, lora_table, table


def test_the_readme_holds_the_tables_as_printed():
    readme = (REPOSITORY / "README.md").read_text()
    assert table() in readme and lora_table() in readme


@pytest.mark.parametrize(
    ("experts", "parameters"), [(2, 42_425_344), (3, 45_132_416), (4, 47_839_488), (5, 50_546_560)]
)
def test_the_aggregator_has_the_paper_s_parameters(experts, parameters):
    assert aggregator_parameters("SD1.5", experts) == parameters
