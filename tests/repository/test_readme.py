"""Links in the pages lead to files, and every template is in the README."""

import re
from pathlib import Path

import pytest

from tests.support.comfy.bootstrap import REPOSITORY

PAGES = ["README.md", "CONTRIBUTING.md", *(str(page.relative_to(REPOSITORY)) for page in (REPOSITORY / "docs").rglob("*.md"))]
LINKS = [
    (page, target)
    for page in PAGES
    for target in re.findall(r"\]\(([^)#:]+)\)", (REPOSITORY / page).read_text())
]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_links_lead_to_files(page, target):
    assert (REPOSITORY / Path(page).parent / target).is_file()


@pytest.mark.parametrize("template", sorted(path.stem for path in (REPOSITORY / "workflows").glob("*.json")))
def test_every_template_is_in_the_readme(template):
    assert template in (REPOSITORY / "README.md").read_text()
