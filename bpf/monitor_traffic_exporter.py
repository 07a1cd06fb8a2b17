"""The HTTP side of monitor_traffic: Prometheus metrics at /metrics, the flows as JSON at /api/flows.

It serves what it was last given (`Exporter.show`), and so never reads a map in a thread of its own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from wsgiref.simple_server import WSGIServer

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Sample:
    """What the maps held at one time; `flows` and `ports` are those of bpf/monitor_traffic.py."""

    flows: Sequence[Any] = ()
    ports: Sequence[Any] = ()
    layers: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    untracked: Mapping[str, int] = field(default_factory=dict)


def metrics(sample: Sample) -> Iterator[Any]:
    """The Prometheus families of a sample. A flow is no label: there are too many; states, ports and interfaces are."""
    from prometheus_client.core import GaugeMetricFamily

    flows = GaugeMetricFamily("monitor_flows", "Flows in the table.", labels=("protocol", "state"))
    for (protocol, state), count in _tally((each.protocol, each.state) for each in sample.flows).items():
        flows.add_metric((protocol, state), count)
    yield flows
    rtt = GaugeMetricFamily("monitor_srtt_max_seconds", "Largest smoothed RTT of a flow in the table.")
    rtt.add_metric((), max((each.srtt_us for each in sample.flows), default=0) / 1e6)
    yield rtt
    yield from _interface_metrics(sample)
    yield from _port_metrics(sample)


def _interface_metrics(sample: Sample) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily

    labels = ("interface", "layer")
    packets = CounterMetricFamily("monitor_interface_packets", "Packets that a layer saw.", labels=labels)
    size = CounterMetricFamily("monitor_interface_bytes", "Bytes that a layer saw.", labels=labels)
    for (interface, layer), count in sample.layers.items():
        packets.add_metric((interface, layer), count.packets)
        size.add_metric((interface, layer), count.bytes)
    untracked = CounterMetricFamily("monitor_untracked_packets", "Packets that are in no flow.", labels=("why",))
    for why, times in sample.untracked.items():
        untracked.add_metric((why.lower(),), times)
    yield from (packets, size, untracked)


def _port_metrics(sample: Sample) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily

    size = CounterMetricFamily("monitor_port_bytes", "Bytes of a service.", labels=("protocol", "port", "direction"))
    for each in sample.ports:
        size.add_metric((each.protocol, str(each.number), "in"), each.bytes_in)
        size.add_metric((each.protocol, str(each.number), "out"), each.bytes_out)
    yield size


def _tally(names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for each in names:
        found[each] = found.get(each, 0) + 1
    return found


class Exporter:
    """A server on loopback, or another address if told; a context manager. `port` 0 takes a free one."""

    def __init__(self, port: int = 0, host: str = LOOPBACK) -> None:
        from prometheus_client import CollectorRegistry, make_wsgi_app
        from prometheus_client.exposition import make_server

        self.sample = Sample()
        registry = CollectorRegistry()
        registry.register(self)
        self._metrics = make_wsgi_app(registry)
        self._server: WSGIServer = make_server(host, port, self._answer, handler_class=_quiet_handler())
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def show(self, sample: Sample) -> None:
        """What is served from now on."""
        self.sample = sample

    def collect(self) -> Iterator[Any]:
        """For the registry."""
        return metrics(self.sample)

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start)
            return answer
        if environ["PATH_INFO"] != "/api/flows":
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"there are /metrics and /api/flows\n"]
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps([{**asdict(each), "state": each.state} for each in self.sample.flows]).encode()]

    def __enter__(self) -> Exporter:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _quiet_handler() -> Any:
    from prometheus_client.exposition import _SilentHandler

    return _SilentHandler
