"""Numbers in the text of a widget."""

from __future__ import annotations

import re


def parse_numbers(what: str, text: str) -> tuple[float, ...]:
    """Numbers apart by commas, semicolons or spaces; none of an empty text. Raises ValueError for anything else.

    what: names the text at the beginning of a sentence, such as "The weights"
    """
    try:
        return tuple(float(part) for part in re.split(r"[\s,;]+", text.strip()) if part)
    except ValueError as error:
        raise ValueError(f"{what} should be numbers such as 2, 1, 1, found {text!r:.60}.") from error
