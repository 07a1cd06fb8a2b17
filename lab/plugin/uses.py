"""Which of the lab's fixtures a test uses; a project's own `net` (of neurons, say) is no business of the lab's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import FunctionType, ModuleType

import pytest

FIXTURES = frozenset({"net", "bpf", "bench"})


def fixtures_of(item: pytest.Item) -> frozenset[str]:
    """Those of "net", "bpf" and "bench" that are the lab's, or overrides that ask for the lab's or are made with it."""
    named = FIXTURES.intersection(getattr(item, "fixturenames", ()))
    definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}) if named else {}
    return frozenset(name for name in named if _is_of_the_lab(name, definitions.get(name, ())))


def knows_the_lab(item: pytest.Item) -> bool:
    """Whether its module imports anything of the lab, or that of a fixture that it uses does."""
    module = getattr(item, "module", None)
    if module is not None and _imports_the_lab(vars(module)):
        return True
    definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    return any(_knows_the_lab(each.func) for every in definitions.values() for each in every)


def _is_of_the_lab(name: str, definitions: tuple[pytest.FixtureDef[object], ...]) -> bool:
    """The last definition is the test's own; it overrides the one before it, and may ask for that."""
    for each in reversed(definitions):
        if _knows_the_lab(each.func):
            return True
        if name not in each.argnames:
            return False
    return False


def _knows_the_lab(function: object) -> bool:
    return _imports_the_lab(getattr(inspect.unwrap(function), "__globals__", {}))  # type: ignore[arg-type]


def _imports_the_lab(names: Mapping[str, object]) -> bool:
    return any(_package(each) == "lab" for each in names.values())


def _package(value: object) -> str:
    """By its type, never by a question to the object: some of strangers' connect to a database when they are asked."""
    kind = type(value)
    if issubclass(kind, ModuleType):
        home = ModuleType.__getattribute__(value, "__dict__").get("__name__")
    else:
        home = getattr(value if issubclass(kind, type | FunctionType) else kind, "__module__", None)
    return str(home).partition(".")[0]
