"""Text folded to the width of the terminal; in a pipe each line stays whole, for grep."""

from __future__ import annotations

import shutil
import sys
import textwrap

NARROWEST = 40


def folded(text: str, *, first: str = "", indent: str = "") -> str:
    """`first` and the text, in lines that fit; all but the first line begin with `indent`."""
    if not sys.stdout.isatty():
        return first + text
    lines = textwrap.wrap(text, width(), initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines) or first


def width() -> int:
    """Columns of the terminal, the last one left free: a full line and its end may be two lines."""
    return max(NARROWEST, shutil.get_terminal_size().columns - 1)
