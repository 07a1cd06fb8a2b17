"""Keyword-only parameters of a companion's functions are options of its command: `top: int = 10` is `--top 10`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click

from lab.errors import LoadError

SCALARS = (int, float, str, bool, Path)


def options_of(functions: Iterable[Callable[..., Any]]) -> list[click.Option]:
    """One option a name; of parameters of one name the first function's says type, default and help."""
    found: dict[str, click.Option] = {}
    for function in functions:
        for parameter in _parameters(function):
            if parameter.name not in found:
                found[parameter.name] = _option(function, parameter)
    return list(found.values())


def chosen(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that the function takes."""
    return {each.name: values[each.name] for each in _parameters(function) if each.name in values}


def takes_any(function: Callable[..., Any]) -> bool:
    """Whether it has **knobs."""
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values())


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    every = inspect.signature(function).parameters.values()
    return [each for each in every if each.kind is each.KEYWORD_ONLY and each.default is not each.empty]


def _option(function: Callable[..., Any], parameter: inspect.Parameter) -> click.Option:
    name = parameter.name.replace("_", "-")
    kind, many = _kind(function, parameter)
    spelled = f"--{name}/--no-{name}" if kind is bool else f"--{name}"
    return click.Option(
        [spelled, parameter.name],
        type=None if kind is bool else _click_type(kind),
        default=parameter.default or None if many else parameter.default,
        multiple=many,
        help=_help(function, parameter.name),
        show_default=parameter.default not in (None, "", (), False),
    )


def _kind(function: Callable[..., Any], parameter: inspect.Parameter) -> tuple[Any, bool]:
    """The type of one value, and whether there may be several."""
    said = parameter.annotation if parameter.annotation is not parameter.empty else type(parameter.default)
    if isinstance(said, str):  # this one alone: the others may name what is imported for the type checker only
        said = eval(said, function.__globals__)
    if get_origin(said) in (Union, UnionType):
        said = next(each for each in get_args(said) if each is not type(None))
    many = get_origin(said) in (tuple, list)
    one = get_args(said)[0] if many else said
    if one in SCALARS or get_origin(one) is Literal:
        return one, many
    raise LoadError(
        f"{function.__module__}.{function.__name__}: the parameter {parameter.name}: {said} makes no option",
        mend="int, float, str, bool, Path, a Literal, or tuple[str, ...]",
    )


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    return click.Path(path_type=Path) if kind is Path else kind


def _help(function: Callable[..., Any], name: str) -> str:
    """The line "name: what it is" of the docstring."""
    found = re.search(rf"^\s*{name}: *(.+)$", inspect.getdoc(function) or "", re.MULTILINE)
    return found[1] if found else ""
