"""`--knob name=value`: from text to what the program's BTF says it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.bpf.build import build
from lab.bpf.layout import Layout
from lab.bpf.layout_of import layout_of
from lab.bpf.object_file import ObjectFile
from lab.errors import MapError

WORDS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


def knob_values(stem: str, source: Path | None, knobs: Mapping[str, str]) -> dict[str, Any]:
    """The values of `const volatile` globals, as `bpf.load` takes them: it refuses what does not fit.

    A knob that the source does not have keeps its guess: `load` knows the names, or a companion's `load` does.
    """
    if not knobs:
        return {}
    known = knob_layouts(source) if source else {}
    return {name: _value(text, known.get(name)) for name, text in knobs.items()}


def knob_layouts(source: Path) -> dict[str, Layout]:
    """The knobs of a program and how each lies in memory; BuildError when it cannot be compiled."""
    file = ObjectFile(source if source.name.endswith(".o") else build(source))
    sections = [name for name in file.sections if name == ".rodata" or name.startswith(".rodata.")]
    variables = {name: each for section in sections for name, each in file.variables(section).items()}
    types = file.btf
    if types is None:
        return {}
    return {name: layout_of(types, each.type_id) for name, each in variables.items() if not name.endswith("___fmt")}


def _value(text: str, layout: Layout | None) -> Any:
    """The first reading that the type takes: a number, a word for a truth, the text itself (addresses, enumerators)."""
    readings = [*_numbers(text), *([WORDS[text.lower()]] if text.lower() in WORDS else []), text]
    return next((each for each in readings if layout and _fits(each, layout)), readings[0])


def _fits(reading: Any, layout: Layout) -> bool:
    try:
        layout.encode(reading)
    except MapError:
        return False
    return True


def _numbers(text: str) -> list[Any]:
    with suppress(ValueError):
        return [int(text, 0)]
    with suppress(ValueError):
        return [float(text)]
    return []
