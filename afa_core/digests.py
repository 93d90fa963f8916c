"""Names and seeds that follow from a value alone."""

from __future__ import annotations

import hashlib
import json


def json_digest(value: object) -> str:
    """SHA-256, in hexadecimal, of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def seed_of(text: str) -> int:
    """A seed of 56 bits for a random generator."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
