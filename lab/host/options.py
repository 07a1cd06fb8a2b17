"""The command-line options that say where a program goes, and a stop by signal that is no error."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from lab.host.place import NETFILTER_HOOKS, Place, interface_names, open_place
from lab.model.action import Direction, Mode

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "": 1}


def seconds(ctx: click.Context, param: click.Parameter, given: str | None) -> float | None:
    """The callback of an option that is a time: 500ms, 1s, 2m, 1h, or a bare number of seconds; more than 0."""
    if given is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(ms|s|m|h|)", given)
    number = float(found[1]) * UNITS_S[found[2]] if found else 0.0
    if not number:
        raise click.BadParameter(f"{given!r} is no time: 500ms, 1s, 2m", ctx, param)
    return number


def _completed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """For the shell: the interfaces of this namespace."""
    return [each for each in interface_names() if each.startswith(incomplete)]


def place_parameters() -> list[click.Option]:
    """New options that name a place; `opened` makes a Place of their values."""
    return [
        click.Option(
            ["-i", "--interface", "interfaces"],
            multiple=True,
            metavar="NAME",
            shell_complete=_completed,
            help="An interface; may be said several times.",
        ),
        click.Option(
            ["--mode"],
            type=click.Choice([each.value for each in Mode]),
            help="How XDP is attached; native if the interface has it, else generic.",
        ),
        click.Option(
            ["--direction"],
            type=click.Choice([each.value for each in Direction]),
            help="Which way, for a program that sits on tc or a cgroup and does not say.",
        ),
        click.Option(["--cgroup"], default="", metavar="PATH", help="A cgroup v2 folder; the whole tree if not said."),
        click.Option(
            ["--socket", "sockets"],
            multiple=True,
            metavar="tcp/PORT",
            help="A socket that waits on a port (sk_reuseport).",
        ),
        click.Option(["--hook"], type=click.Choice(NETFILTER_HOOKS), help="Where a netfilter program stands."),
        click.Option(
            ["--netns"], default="", metavar="NAME|PID", help="The network namespace, of `ip netns` or of a process."
        ),
    ]


def program_parameter() -> click.Option:
    """--program, whose value is a tuple of names."""
    return click.Option(
        ["--program", "only"], multiple=True, metavar="NAME", help="Of an object with several programs, this one."
    )


def knob_parameter() -> click.Option:
    """--knob, whose value is a dict of texts."""
    return click.Option(
        ["-k", "--knob", "knobs"],
        multiple=True,
        metavar="NAME=VALUE",
        callback=_pairs,
        help="Sets a knob of the program.",
    )


def _pairs(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for each in given:
        name, sign, value = each.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"{each!r} says no value: --knob name=value", ctx, param)
        pairs[name] = value
    return pairs


@contextmanager
def opened(values: dict[str, Any]) -> Iterator[Place]:
    """The place of the options' values, which are taken out of the dict."""
    mode, direction = values.pop("mode"), values.pop("direction")
    with open_place(
        values.pop("interfaces"),
        netns=values.pop("netns"),
        cgroup=values.pop("cgroup"),
        sockets=values.pop("sockets"),
        mode=Mode(mode) if mode else None,
        direction=Direction(direction) if direction else None,
        hook=values.pop("hook") or "",
    ) as place:
        yield place


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates the function of a click command: it is given `place=`, open while it runs, and `knobs=`, a dict."""

    @wraps(function)
    def with_place(*arguments: Any, **values: Any) -> Any:
        with opened(values) as place:
            return function(*arguments, place=place, **values)

    parameters = [*place_parameters(), knob_parameter()]
    with_place.__dict__.setdefault("__click_params__", []).extend(reversed(parameters))
    return with_place


class Stopped(BaseException):
    """Somebody wants the command to end: no error, and so no Exception.

    Not KeyboardInterrupt: with CPython 3.11 `python -m` was seen to die of SIGINT in the end, though it was caught.
    """


@contextmanager
def until_told_to_stop() -> Iterator[None]:
    """The block ends at Ctrl-C, SIGTERM or SIGHUP, by `Stopped`, which goes no further."""
    before: Mapping[int, Any] = {each: signal.signal(each, _stop) for each in ENDING}
    try:
        yield
    except Stopped:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Hold:
    """Whether a stop has to wait, and whether one does."""

    on: bool = False
    waits: bool = False


_hold = _Hold()


@contextmanager
def stop_held() -> Iterator[None]:
    """A stop within the block comes at its end, so that a drawing is whole. Not to be nested."""
    _hold.on = True
    try:
        yield
    finally:
        _hold.on = False
        if _hold.waits:
            _hold.waits = False
            raise Stopped


def _stop(number: int, frame: Any) -> None:
    if _hold.on:
        _hold.waits = True
        return
    raise Stopped
