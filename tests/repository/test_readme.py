"""The README's help by error message quotes sentences that the code can say, and its links lead somewhere."""

import ast
import re

import pytest

from tests.support.comfy.bootstrap import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
MESSAGES = re.findall(r"\*([^*]+)\*", README.split("## What the messages mean")[1].split("---\n")[0])
SOURCES = [path for folder in ("nodes", "afa_core") for path in (REPOSITORY / folder).rglob("*.py")]


def sentences():
    """Every text in the sources, with a blank where a value goes."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


SENTENCES = list(sentences())


@pytest.mark.parametrize("message", MESSAGES)
def test_the_message_is_one_that_the_code_says(message):
    pieces = [re.sub(r"\d+", "0", piece).strip() for piece in message.split("...")]
    assert any(all(piece in sentence for piece in pieces) for sentence in SENTENCES)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_to_files(target):
    assert (REPOSITORY / target).is_file()
