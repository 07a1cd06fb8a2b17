"""Which of the lab's fixtures a test uses; a project's own `net` (of neurons, say) is no business of the lab's."""

from __future__ import annotations

import inspect

import pytest

FIXTURES = frozenset({"net", "bpf", "bench"})


def fixtures_of(item: pytest.Item) -> frozenset[str]:
    """Those of "net", "bpf" and "bench" that are the lab's, or overrides that ask for the lab's or are made with it."""
    named = FIXTURES.intersection(getattr(item, "fixturenames", ()))
    definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}) if named else {}
    return frozenset(name for name in named if _is_of_the_lab(name, definitions.get(name, ())))


def _is_of_the_lab(name: str, definitions: tuple[pytest.FixtureDef[object], ...]) -> bool:
    """The last definition is the test's own; it overrides the one before it, and may ask for that."""
    for each in reversed(definitions):
        if _knows_the_lab(each.func):
            return True
        if name not in each.argnames:
            return False
    return False


def _knows_the_lab(function: object) -> bool:
    """Whether its module has imported anything of the lab."""
    names = getattr(inspect.unwrap(function), "__globals__", {})  # type: ignore[arg-type]
    return any(_package(each) == "lab" for each in names.values())


def _package(value: object) -> str:
    home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
    return str(home).partition(".")[0]
