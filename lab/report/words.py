"""Values that runs noted, and names to link to, as text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from lab.report.quantity import plain


def anchor(prefix: str, text: str) -> str:
    """A short name to link to, the same for the same text in every report."""
    return f"{prefix}-{hashlib.sha1(text.encode(errors='replace'), usedforsecurity=False).hexdigest()[:10]}"


def shown(value: object) -> str:
    """Any noted value as text: mappings and lists the way a person would write them."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={shown(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(shown(each) for each in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    return plain(value) if isinstance(value, int | float) else str(value)
