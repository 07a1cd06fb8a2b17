"""`lab <stem>`: a program attached to this machine, and what it sees, live."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import click

from lab.bpf.record import Record
from lab.commands.attach import tell
from lab.errors import LoadError
from lab.host import seen, showing
from lab.host.companion_options import options_of
from lab.host.options import (
    Stopped,
    knob_parameter,
    opened,
    place_parameters,
    program_parameter,
    seconds,
    until_told_to_stop,
)
from lab.host.plain import cell, visible
from lab.host.subject import CALLED, Subject, attached, find_subject
from lab.program_list import header_part, read_companion, read_source


def command_of(stem: str) -> click.Command | None:
    """The command of a program: its companion's own, or one that attaches and shows it. None: there is no such stem."""
    try:
        subject = find_subject(stem)
    except LoadError:
        return None
    own = getattr(subject.companion, "command", None)
    return own if isinstance(own, click.Command) else showing_command(subject)


def showing_command(subject: Subject) -> click.Command:
    """Attaches, shows every period, detaches at Ctrl-C; a companion's own group may have it as a subcommand."""
    functions = [each for each in map(subject.function, CALLED) if each]
    return click.Command(
        subject.stem,
        params=[
            *options_of(functions),
            *_showing_parameters(subject),
            *place_parameters(),
            knob_parameter(),
            program_parameter(),
        ],
        callback=lambda **values: _run(subject, values),
        help=_about(subject),
        epilog=_knobs(subject),
    )


def _showing_parameters(subject: Subject) -> list[click.Option]:
    both = subject.function("view") and subject.function("watch")
    events = [click.Option(["--events"], is_flag=True, help="Each event as it comes, instead of the view.")]
    return [
        *(events if both else []),
        click.Option(
            ["--every"],
            callback=seconds,
            default="1s",
            metavar="TIME",
            show_default=True,
            help="How often it is shown.",
        ),
        click.Option(["--once"], is_flag=True, help="Shows what one period brought, and ends."),
        click.Option(["--for", "for_s"], callback=seconds, metavar="TIME", help="Ends by itself after this time."),
        click.Option(["--json", "as_json"], is_flag=True, help="A line of JSON each time, for other programs."),
    ]


def _run(subject: Subject, values: dict[str, Any]) -> None:
    every_s, once, for_s, as_json = (values.pop(name) for name in ("every", "once", "for_s", "as_json"))
    events, knobs, only = values.pop("events", False), values.pop("knobs"), values.pop("only")
    with (
        until_told_to_stop(),
        opened(values) as place,
        attached(subject.source or subject.stem, place, knobs=knobs, only=only, options=values, told=tell) as program,
    ):
        until = time.monotonic() + (every_s if once else for_s or math.inf)
        with suppress(Stopped):
            if _is_watched(subject, program, events):
                _watch(_events(subject, program, values), until, as_json)
            elif once:
                time.sleep(every_s)  # the period that was asked for
                _show_once(subject, program, values, as_json)
            else:
                _show_live(subject, program, values, (every_s, until), as_json)
        if not as_json and subject.function("summary"):
            click.echo(subject.call("summary", program, options=values), err=True)


def _is_watched(subject: Subject, program: Any, events: bool) -> bool:
    if subject.function("watch"):
        return events or not subject.function("view")
    return not subject.function("view") and bool(seen.event_maps(program))


def _events(subject: Subject, program: Any, values: dict[str, Any]) -> Iterator[Any]:
    if subject.function("watch"):
        return subject.call("watch", program, options=values)  # type: ignore[no-any-return]
    return seen.events(program)


def _watch(events: Iterator[Any], until: float, as_json: bool) -> None:
    for event in events:
        if event is not None:
            showing.show_json(event) if as_json else showing.show(_line(event))
        if time.monotonic() >= until:
            return


def _line(event: Any) -> str:
    return cell(event) if isinstance(event, Record) else visible(str(event), but="\n\t")


def _show_once(subject: Subject, program: Any, values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        showing.show_json(next(_snapshots(subject, program, values)))
    else:
        showing.show(next(_views(subject, program, values)))


def _show_live(
    subject: Subject, program: Any, values: dict[str, Any], pace: tuple[float, float], as_json: bool
) -> None:
    if as_json:
        showing.stream_json(_snapshots(subject, program, values), *pace)
    else:
        showing.show_live(_views(subject, program, values), *pace)


def _views(subject: Subject, program: Any, values: dict[str, Any]) -> Iterator[Any]:
    return _asked(subject, "view", program, values) or showing.views(seen.tables, program)


def _snapshots(subject: Subject, program: Any, values: dict[str, Any]) -> Iterator[Any]:
    return _asked(subject, "snapshot", program, values) or _views(subject, program, values)


def _asked(subject: Subject, name: str, program: Any, values: dict[str, Any]) -> Iterator[Any] | None:
    from lab.host.companion_options import chosen

    function: Callable[..., Any] | None = subject.function(name)
    return showing.views(function, program, **chosen(function, values)) if function else None


def _about(subject: Subject) -> str:
    source = subject.source
    if source is not None and source.name.endswith(".c"):
        about = read_source(source).summary
    else:
        about = read_companion(subject.companion_path).summary if subject.companion_path else ""
    return f"{about[:1].upper()}{about[1:]}.\n\nAttaches it, shows what it sees, and detaches it at Ctrl-C."


def _knobs(subject: Subject) -> str:
    """The part of the source's header block that says what `--knob` sets."""
    part = header_part(subject.source, "KNOBS") if subject.source and subject.source.name.endswith(".c") else ""
    return f"\b\n{part}" if part else ""
