"""The HTTP side of monitor_traffic: Prometheus metrics at /metrics, all that is seen as JSON below /api.

It serves what it was last given (`Exporter.show`), and so never reads a map in a thread of its own.
"""

from __future__ import annotations

import json
import math
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from lab.errors import LabError

LOOPBACK = "127.0.0.1"
QUANTILES = (0.5, 0.9, 0.99)
STALLED_S = 5
"""A client that says nothing for so long is hung up on."""
MOST_ROWS = 10_000
RECENT_EVENTS = 1000
MOST_PORTS = 100
"""Of services in /metrics, by bytes: each is two series."""


# ---- /metrics ----


def metrics(sample: Any, alerts: Any = None, history: Any = None) -> Iterator[Any]:
    """The Prometheus families of a sample. A flow is no label: there are too many; states, ports and interfaces are."""
    if sample is None:
        return
    yield from _flow_metrics(sample)
    yield from _interface_metrics(sample)
    yield from _port_metrics(sample)
    yield from _connection_metrics(sample)
    if alerts is not None:
        yield from _alert_metrics(alerts)
    if history is not None:
        yield from _history_metrics(history)


def _gauge(name: str, about: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(name, about, labels=labels), values)


def _counter(name: str, about: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(name, about, labels=labels), values)


def _filled(family: Any, values: Mapping[tuple[str, ...], float]) -> Any:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _flow_metrics(sample: Any) -> Iterator[Any]:
    happened = sample.happened
    yield _gauge("monitor_flows", "Flows in the table.", sample.flows.by_state(), "protocol", "state")
    yield _counter("monitor_flows_opened", "Flows that were opened.", {(): happened["FLOW_OPENED"]})
    yield _counter("monitor_tcp_flows_opened", "Of these, TCP.", {(): happened["TCP_FLOW_OPENED"]})
    yield _gauge("monitor_flows_evicted", "Flows that made room for others, so far.", {(): sample.evicted})
    quantiles = sample.flows.rtt_quantiles((*QUANTILES, 1.0))
    told = {(str(each),): value for each, value in quantiles.items()}
    yield _gauge("monitor_rtt_seconds", "RTT over the flows that have one.", told, "quantile")


def _interface_metrics(sample: Any) -> Iterator[Any]:
    labels = ("interface", "layer")
    packets = {(each.name, each.layer): each.packets for each in sample.interfaces}
    size = {(each.name, each.layer): each.bytes for each in sample.interfaces}
    yield _counter("monitor_interface_packets", "Packets that a layer saw.", packets, *labels)
    yield _counter("monitor_interface_bytes", "Bytes that a layer saw.", size, *labels)
    untracked = {(why.lower(),): times for why, times in sample.untracked.items()}
    yield _counter("monitor_untracked_packets", "Packets that are in no flow.", untracked, "why")


def _port_metrics(sample: Any) -> Iterator[Any]:
    busiest = [each.port for each in sample.ports.top(MOST_PORTS)]
    packets = {}
    size = {}
    for port in busiest:
        for way, number, amount in (
            ("in", port.packets_in, port.bytes_in),
            ("out", port.packets_out, port.bytes_out),
        ):
            packets[port.protocol, str(port.number), way] = number
            size[port.protocol, str(port.number), way] = amount
    labels = ("protocol", "port", "direction")
    yield _counter("monitor_port_packets", "Packets of a service.", packets, *labels)
    yield _counter("monitor_port_bytes", "Bytes of a service.", size, *labels)


def _connection_metrics(sample: Any) -> Iterator[Any]:
    events = {(kind.lower(),): times for kind, times in sample.connections.items()}
    yield _counter("monitor_connection_events", "What TCP sockets of this machine did.", events, "event")
    again = {(): sample.happened["SEGMENT_RETRANSMITTED"]}
    yield _counter("monitor_retransmits", "TCP segments that sockets of this machine sent again.", again)


def _alert_metrics(alerts: Any) -> Iterator[Any]:
    names = [rule.name for rule in alerts.rules]
    active = {(name,): sum(each.rule.name == name for each in alerts.active) for name in names}
    fired = {(name,): alerts.fired[name] for name in names}
    yield _gauge("monitor_alerts_active", "Alerts that last.", active, "rule")
    yield _counter("monitor_alerts_fired", "Alerts so far.", fired, "rule")


def _history_metrics(history: Any) -> Iterator[Any]:
    yield _gauge("monitor_history_ok", "1: the last period was recorded.", {(): float(not history.trouble)})
    yield _gauge("monitor_history_bytes", "Of the file and its log.", {(): history.bytes})
    yield _counter("monitor_history_periods", "Recorded.", {(): history.kept})
    yield _counter("monitor_history_lost_periods", "That could not be recorded.", {(): history.lost})


# ---- /api ----


def flow_json(row: Any) -> dict[str, Any]:
    """A flow, what it did in the period, and its process."""
    flow = row.flow
    told = {"state": flow.state, "rtt_us": flow.rtt_us, "process_name": row.process}
    period = ("is_new", "packets_out", "bytes_out", "packets_in", "bytes_in", "retransmits", "bytes_per_s")
    return {**asdict(flow), **told, "period": {name: getattr(row, name) for name in period}}


def port_json(row: Any) -> dict[str, Any]:
    """A service's port, and what it did in the period."""
    period = ("packets_in", "bytes_in", "packets_out", "bytes_out", "bytes_per_s")
    return {**asdict(row.port), "period": {name: getattr(row, name) for name in period}}


def alert_json(alert: Any) -> dict[str, Any]:
    """An alert with its evidence."""
    names = ("subject", "value", "peak", "evidence", "since", "fired", "ended")
    return {"rule": alert.rule.name, "says": str(alert.rule), **{name: getattr(alert, name) for name in names}}


def status_json(sample: Any, alerts: Any = None, history: Any = None) -> dict[str, Any]:
    """Totals, and how the monitor itself is."""
    told = {
        "at": sample.at,
        "period_s": sample.seconds,
        "flows": len(sample.flows),
        "flows_evicted": sample.evicted,
        "untracked": {name.lower(): times for name, times in sample.untracked.items()},
        "happened": {name.lower(): times for name, times in sample.happened.items()},
        "connections": {name.lower(): times for name, times in sample.connections.items()},
        "events_left_out": sample.left_out,
    }
    if alerts is not None:
        told["alerts"] = {"active": len(alerts.active), "fired": alerts.fired, "left_out": alerts.left_out}
    if history is not None:
        names = ("kept", "lost", "bytes", "trouble")
        told["history"] = {"path": str(history.path), **{name: getattr(history, name) for name in names}}
    return told


def snapshot_json(sample: Any, alerts: Any = None, history: Any = None, *, top: int, by: str) -> dict[str, Any]:
    """One period, whole: what `--json` prints."""
    return {
        **status_json(sample, alerts, history),
        "top_flows": [flow_json(each) for each in sample.flows.top(top, by)],
        "top_ports": [port_json(each) for each in sample.ports.top(top)],
        "interfaces": [asdict(each) for each in sample.interfaces],
        "events": [asdict(each) for each in sample.events],
        "active_alerts": [alert_json(each) for each in alerts.active] if alerts is not None else [],
    }


class Refused(Exception):
    """A question that has no answer: the status and a sentence."""


class Question:
    """The parameters of a request; what it does not know is refused."""

    def __init__(self, query: str, known: Sequence[str]) -> None:
        self._said = dict(parse_qsl(query, keep_blank_values=True))
        for name in self._said:
            if name not in known:
                raise Refused(400, f"{name!r} cannot be asked for here; {', '.join(known) or 'nothing'} can")

    def number(self, name: str, default: float, most: float = math.inf) -> float:
        """Not below 0, and no more than `most`."""
        try:
            value = float(self._said.get(name, default))
        except ValueError:
            value = math.nan
        if not value >= 0:
            raise Refused(400, f"{name} is no number: {self._said[name]!r}")
        return min(value, most)

    def one_of(self, name: str, known: Sequence[str]) -> str:
        """By default the first."""
        value = self._said.get(name, known[0])
        if value not in known:
            raise Refused(400, f"{name} is one of {', '.join(known)}, not {value!r}")
        return value

    def address(self, name: str) -> str:
        """As the history has it; "" where it was not said."""
        if name not in self._said:
            return ""
        try:
            return str(ip_address(self._said[name]))
        except ValueError as error:
            raise Refused(400, f"{name}: {error}") from error


class Exporter:
    """A server on loopback, or another address if told; a context manager. `port` 0 takes a free one."""

    def __init__(self, port: int = 0, host: str = LOOPBACK, *, alerts: Any = None, history: Any = None) -> None:
        from prometheus_client import CollectorRegistry

        self.sample: Any = None
        self._alerts, self._history = alerts, history
        self._active: list[Any] = []
        self._recent: deque[Any] = deque(maxlen=RECENT_EVENTS)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        server = type("Server", (Server,), {"address_family": 10 if ":" in host else 2})
        try:
            self._server = server((host, port), _handler(self))
        except OSError as error:
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise LabError(
                f"serve metrics and JSON on {where}", kernel=error.strerror or str(error), mend="another --listen"
            ) from error
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def show(self, sample: Any) -> None:
        """What is served from now on."""
        self._active = [alert_json(each) for each in self._alerts.active] if self._alerts is not None else []
        self._recent.extend(sample.events)
        self.sample = sample

    def collect(self) -> Iterator[Any]:
        """For the registry."""
        return metrics(self.sample, self._alerts, self._history)

    def answer(self, target: str, accepted: str) -> tuple[int, str, bytes]:
        """Status, type of content and content."""
        url = urlsplit(target)
        try:
            if url.path == "/metrics":
                return self._metrics(accepted)
            return 200, "application/json", json.dumps(self._asked(url.path, url.query)).encode()
        except Refused as refused:
            status, why = refused.args
            return status, "application/json", json.dumps({"error": why}).encode()

    def _metrics(self, accepted: str) -> tuple[int, str, bytes]:
        from prometheus_client.exposition import choose_encoder

        encode, kind = choose_encoder(accepted)
        return 200, kind, encode(self._registry)

    def _asked(self, path: str, query: str) -> Any:
        name = path.removeprefix("/api/")
        if path.startswith("/api/history/"):
            return self._history_of(name.removeprefix("history/"), query)
        questions: Mapping[str, Callable[[str], Any]] = {
            "flows": self._flows,
            "ports": self._ports,
            "interfaces": self._interfaces,
            "events": self._events,
            "alerts": self._alerts_now,
            "status": self._status,
        }
        if not path.startswith("/api/") or name not in questions:
            there = ", ".join(
                ["/metrics", *(f"/api/{each}" for each in questions), *map("/api/history/{}".format, KEPT)]
            )
            raise Refused(404, f"there are {there}")
        if self.sample is None:
            raise Refused(503, "nothing has been seen yet")
        return questions[name](query)

    def _flows(self, query: str) -> Iterable[Any]:
        asked = Question(query, ("limit", "by"))
        by = asked.one_of("by", ("rate", "bytes", "packets", "rtt", "retransmits", "last"))
        return [flow_json(each) for each in self.sample.flows.top(int(asked.number("limit", 1000, MOST_ROWS)), by)]

    def _ports(self, query: str) -> Iterable[Any]:
        limit = Question(query, ("limit",)).number("limit", 1000, MOST_ROWS)
        return [port_json(each) for each in self.sample.ports.top(int(limit))]

    def _interfaces(self, query: str) -> Iterable[Any]:
        Question(query, ())
        return [asdict(each) for each in self.sample.interfaces]

    def _events(self, query: str) -> Iterable[Any]:
        Question(query, ())
        return [asdict(each) for each in list(self._recent)]

    def _alerts_now(self, query: str) -> Iterable[Any]:
        Question(query, ())
        return self._active

    def _status(self, query: str) -> Any:
        Question(query, ())
        return status_json(self.sample, self._alerts, self._history)

    def _history_of(self, what: str, query: str) -> Any:
        if what not in KEPT:
            raise Refused(404, f"of history there are {', '.join(KEPT)}")
        if self._history is None:
            raise Refused(404, "no history is kept: start the monitor with --history FILE")
        asked = Question(query, ("since", "until", "limit", *KEPT[what]))
        now = time.time()
        period = {"since": asked.number("since", now - 3600), "until": asked.number("until", now)}
        port = int(asked.number("port", 0, 65535)) if "port" in KEPT[what] else 0
        address = asked.address("address") if "address" in KEPT[what] else ""
        limit = int(asked.number("limit", 1000, MOST_ROWS))
        try:
            return self._history.ask(what, **period, limit=limit, address=address, port=port)
        except sqlite3.Error as error:
            late = "interrupted" in str(error)
            raise Refused(503, "that took too long: ask for a shorter time" if late else str(error)) from error

    def __enter__(self) -> Exporter:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


KEPT: Mapping[str, Sequence[str]] = {
    "periods": (),
    "flows": ("address", "port"),
    "ports": ("port",),
    "events": (),
    "alerts": (),
}
"""What the history is asked for, and by what besides its time."""


class Server(ThreadingHTTPServer):
    """A thread for each client, none of which is waited for at the end."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news; anything else is a bug, and is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _handler(exporter: Exporter) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = STALLED_S
        server_version, sys_version = "monitor_traffic", ""

        def do_GET(self) -> None:
            status, kind, content = exporter.answer(self.path, self.headers.get("Accept", ""))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *words: Any) -> None:
            """Nothing: the terminal is the view's."""

    return Handler
