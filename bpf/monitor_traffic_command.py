"""`lab monitor_traffic`: attaches all layers, shows them, serves them, keeps them, and raises alerts."""

from __future__ import annotations

import math
import re
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lab.bpf.companion import load_module
from lab.errors import LabError
from lab.host import showing
from lab.host.options import (
    Stopped,
    knob_parameter,
    opened,
    place_parameters,
    seconds,
    stop_held,
    until_told_to_stop,
)
from lab.host.place import interface_names

SORTED_BY = ("rate", "bytes", "packets", "rtt", "retransmits", "last")
SIZES = {"kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
RECENT_EVENTS = 20
SHORTEST = 0.9
"""Of a period, after the start or when one came late."""


def part(name: str) -> Any:
    """The module bpf/monitor_traffic_<name>.py."""
    return load_module(Path(__file__).with_name(f"monitor_traffic_{name}.py"))


# ---- Options ----


def _rules(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> list[Any]:
    try:
        return [part("alerts").rule_of(each) for each in given]
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def _listen(ctx: click.Context, param: click.Parameter, given: str | None) -> tuple[str, int] | None:
    if given is None:
        return None
    host, _, port = given.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{given!r} is neither a port nor ADDRESS:PORT", ctx, param)
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _size(ctx: click.Context, param: click.Parameter, given: str) -> int:
    found = re.fullmatch(r"(\d+)(kB|MB|GB)", given)
    if not found or int(found[1]) * SIZES[found[2]] < 100_000:
        raise click.BadParameter(f"{given!r} is no size: 100kB or more, 500MB, 2GB", ctx, param)
    return int(found[1]) * SIZES[found[2]]


def _shown() -> list[click.Option]:
    """What is seen, and how it is shown."""
    return [
        click.Option(
            ["--top"], type=click.IntRange(1), help="Flows shown at most: if not said, as many as fit, or 20 in a pipe."
        ),
        click.Option(
            ["--by"], type=click.Choice(SORTED_BY), default="rate", show_default=True, help="What flows are sorted by."
        ),
        click.Option(
            ["--flows"], type=click.IntRange(64, 1 << 24), default=65536, show_default=True, help="Room in the table."
        ),
        click.Option(["--xdp/--no-xdp"], default=True, help="Without XDP, tc counts what comes in."),
        click.Option(
            ["--events"], is_flag=True, help="Connection events and alerts, a line each, instead of the view."
        ),
        click.Option(
            ["--every"], callback=seconds, metavar="TIME", default="1s", show_default=True, help="Length of a period."
        ),
        click.Option(["--once"], is_flag=True, help="Shows what one period brought, and ends."),
        click.Option(["--for", "for_s"], callback=seconds, metavar="TIME", help="Ends by itself after this time."),
        click.Option(["--json", "as_json"], is_flag=True, help="A line of JSON each period, for other programs."),
    ]


def _kept() -> list[click.Option]:
    """Alerts, what is served, and the history."""
    return [
        click.Option(
            ["--alert", "alert"],
            multiple=True,
            metavar="RULE",
            callback=_rules,
            help="'flow-rate above 10Mbit/s until 8Mbit/s for 3s of tcp/443'; also port-rate, retransmits, "
            "connections, rtt. May be said several times.",
        ),
        click.Option(["--alerts"], type=click.Path(path_type=Path), metavar="FILE", help="A YAML file of such rules."),
        click.Option(
            ["--listen"],
            callback=_listen,
            metavar="[ADDRESS:]PORT",
            help="Serves /metrics and /api: on 127.0.0.1, or on the address that is said, to anybody who reaches it.",
        ),
        click.Option(
            ["--history"], type=click.Path(path_type=Path), metavar="FILE", help="Keeps every period in a SQLite file."
        ),
        click.Option(
            ["--history-age"],
            callback=seconds,
            metavar="TIME",
            default="24h",
            show_default=True,
            help="Older periods are deleted.",
        ),
        click.Option(
            ["--history-size"],
            callback=_size,
            metavar="SIZE",
            default="256MB",
            show_default=True,
            help="So large the file may be.",
        ),
    ]


def _place() -> list[click.Option]:
    """Those that say where; the ones of other hooks mean nothing here."""
    every = place_parameters()
    for option in every:
        option.hidden = option.name in ("direction", "sockets", "hook")
    return every


# ---- Running ----


class Monitor:
    """Takes a sample each period, and tells all that want to know."""

    def __init__(self, program: Any, values: Mapping[str, Any], alerts: Any, history: Any, exporter: Any) -> None:
        self.sampler = part("sample").Sampler(program.maps)
        self.sampler.begin()
        self._taken = time.monotonic()
        self.alerts, self.history, self.exporter = alerts, history, exporter
        self._values = values
        self._recent: deque[Any] = deque(maxlen=RECENT_EVENTS)
        self._started = time.time()
        self.changed: list[Any] = []
        self.sample: Any = None

    def step(self) -> Any:
        """The next sample, of a period that is not much shorter than it should be: rates of an instant say nothing."""
        time.sleep(max(0.0, self._taken + SHORTEST * self._values["every"] - time.monotonic()))
        with stop_held():  # a callback of libbpf's would swallow it
            return self._step()

    def _step(self) -> Any:
        self._taken = time.monotonic()
        self.sample = sample = self.sampler.take()
        self._recent.extend(sample.events[-RECENT_EVENTS:])
        self.changed = self.alerts.check(sample)
        if self.history is not None:
            self.history.keep(sample, self.changed)
        if self.exporter is not None:
            self.exporter.show(sample)
        return sample

    def screens(self) -> Iterator[Any]:
        """Each period: a Screen in a terminal, Tables in a pipe."""
        screen = part("screen")
        while True:
            self.step()
            top, by = self._values["top"], self._values["by"]
            seen = screen.Seen(
                self.sample, self.alerts, self.notes(), top, by, recent=list(self._recent), started=self._started
            )
            yield screen.Screen(seen) if sys.stdout.isatty() else screen.tables(seen)

    def snapshots(self) -> Iterator[Any]:
        """Each period as JSON has it."""
        while True:
            top, by = self._values["top"], self._values["by"]
            yield part("exporter").snapshot_json(self.step(), self.alerts, self.history, top=top or 20, by=by)

    def lines(self) -> Iterator[Any]:
        """Each period's events, and the alerts that changed, as records; and as text by str()."""
        while True:
            sample = self.step()
            yield [*sample.events, *self.changed], sample.left_out

    def notes(self) -> list[str]:
        """On the history, and on what is served."""
        told = []
        if self.history is not None:
            mb = self.history.bytes / 1e6
            told.append(
                self.history.trouble or f"history: {self.history.kept:,} periods in {self.history.path}, {mb:.1f} MB"
            )
        if self.exporter is not None:
            told.append(f"{self.exporter.url}/metrics and /api")
        return told

    def summary(self) -> str:
        """At the end, in a sentence or two."""
        sample = self.sampler.take()
        told = [part("screen").summary_text(sample)]
        told += [f"alert {name}: fired {times:,} time{'s' * (times != 1)}" for name, times in self.alerts.fired.items()]
        if self.history is not None:
            told.append(f"history: {self.history.kept:,} periods recorded, {self.history.lost:,} lost")
        return "; ".join(told)


def _run(**values: Any) -> None:
    alerts = part("alerts")
    rules = [*values.pop("alert"), *(alerts.rules_in(values["alerts"]) if values["alerts"] else [])]
    raised = alerts.Alerts(alerts.named_apart(rules))
    with until_told_to_stop(), ExitStack() as stack:
        place = stack.enter_context(opened(values))
        if not place.interfaces:
            raise LabError(
                "monitor traffic: of which interface?", mend=f"--interface, of {', '.join(interface_names())}"
            )
        history = stack.enter_context(_history(values, place)) if values["history"] else None
        if history is not None and history.trouble:
            click.echo(history.trouble, err=True)
        exporter = stack.enter_context(_exporter(values, raised, history)) if values["listen"] else None
        program = stack.enter_context(_attached(values, place))
        monitor = Monitor(program, values, raised, history, exporter)
        if exporter is not None:
            click.echo(f"serving {exporter.url}/metrics and {exporter.url}/api/status", err=True)
        with suppress(Stopped):
            _show(monitor, values)
        if not values["as_json"]:
            click.echo(monitor.summary(), err=True)


def _history(values: Mapping[str, Any], place: Any) -> Any:
    names = [each.name for each in place.interfaces]
    return part("history").History(
        values["history"], age_s=values["history_age"], size_bytes=values["history_size"], interfaces=names
    )


def _exporter(values: Mapping[str, Any], alerts: Any, history: Any) -> Any:
    host, port = values["listen"]
    return part("exporter").Exporter(port, host, alerts=alerts, history=history)


def _attached(values: Mapping[str, Any], place: Any) -> Any:
    from lab.commands.attach import tell
    from lab.host.subject import attached

    options = {"flows": values["flows"], "xdp": values["xdp"]}
    return attached("monitor_traffic", place, knobs=values["knobs"], options=options, told=tell)


def _show(monitor: Monitor, values: Mapping[str, Any]) -> None:
    every_s, until = values["every"], time.monotonic() + (values["for_s"] or math.inf)
    if values["once"]:
        time.sleep(every_s)  # the period that was asked for
        until = time.monotonic()
    if values["events"]:
        _show_lines(monitor, every_s, until, values["as_json"])
    elif values["as_json"]:
        showing.stream_json(monitor.snapshots(), every_s, until)
    elif values["once"]:
        showing.show(next(monitor.screens()))
    else:
        showing.show_live(monitor.screens(), every_s, until)


def _show_lines(monitor: Monitor, every_s: float, until: float, as_json: bool) -> None:
    for told, left_out in showing.paced(monitor.lines(), every_s, until):
        for each in told:
            showing.show_json(_record(each)) if as_json else showing.show(str(each))
        if left_out:
            click.echo(f"{left_out:,} more events in this period", err=True)


def _record(each: Any) -> dict[str, Any]:
    return part("exporter").alert_json(each) if hasattr(each, "rule") else asdict(each)  # type: ignore[no-any-return]


command = click.Command(
    "monitor_traffic",
    params=[*_shown(), *_kept(), *_place(), knob_parameter()],
    callback=_run,
    help="One row a flow, from what XDP, tc and the sockets each know: packets, bytes, RTT, state.\n\n"
    "Attaches all layers, shows what they see, and detaches them at Ctrl-C.",
)
