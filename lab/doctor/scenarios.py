"""What each scenario needs, read from its source: nothing is imported, so a broken file costs only itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Scenario:
    """A test function and the features that its markers name."""

    nodeid: str
    needs: tuple[str, ...]


def scenarios_in(folder: Path) -> list[Scenario]:
    """Every test function below `folder`; files that do not parse hold none (pytest will say why)."""
    found: list[Scenario] = []
    for path in sorted(folder.rglob("test_*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        file = path.relative_to(folder.parent).as_posix()
        found += _tests(tree.body, file, _module_needs(tree))
    return found


def _tests(body: list[ast.stmt], prefix: str, inherited: tuple[str, ...]) -> Iterator[Scenario]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            needs = inherited + _decorator_needs(node)
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                yield from _tests(node.body, f"{prefix}::{node.name}", needs + _module_needs(node))
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                yield Scenario(f"{prefix}::{node.name}", tuple(dict.fromkeys(needs)))


def _decorator_needs(node: ast.FunctionDef | ast.ClassDef) -> tuple[str, ...]:
    return tuple(name for decorator in node.decorator_list for name in _needs(decorator))


def _module_needs(node: ast.Module | ast.ClassDef) -> tuple[str, ...]:
    """What `pytestmark = pytest.mark.needs(...)`, or a list with it, says for all that is inside."""
    values = [
        statement.value
        for statement in node.body
        if isinstance(statement, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in statement.targets)
    ]
    marks = [mark for value in values for mark in (value.elts if isinstance(value, ast.List | ast.Tuple) else [value])]
    return tuple(name for mark in marks for name in _needs(mark))


def _needs(mark: ast.expr) -> tuple[str, ...]:
    """The words of `pytest.mark.needs("tcx", ...)`; nothing of any other expression."""
    if not (isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("mark.needs")):
        return ()
    return tuple(word.value for word in mark.args if isinstance(word, ast.Constant) and isinstance(word.value, str))
