"""Runs as the lab stores them, made up but true to life: what the tests of the report read."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lab.model import statistics
from lab.model.measurement import Limit, Measurement, Trial
from lab.model.run import Environment, Result, Run

PROGRAMS = ("xdp_balance", "xdp_filter", "tc_redirect_port", "xdp_track_flow")

TITLES = {
    "xdp_balance": (
        "Round robin gives each of three backends a third of the new flows.",
        "A flow stays on its backend while another backend comes and goes.",
        "Maglev moves at most 2 % of the flows of the backends that stay.",
        "A draining backend keeps its flows and gets no new one.",
        "Replies come back with the address of the service.",
        "Direct server return keeps the packet's addresses and changes the MAC.",
        "A weight of two gets twice the flows of a weight of one.",
        "IPv6 services are balanced like IPv4 ones.",
        "A fragment goes where its first fragment went.",
        "An unknown port passes to the stack untouched.",
        "Counters of a service and of its backends agree.",
    ),
    "xdp_filter": (
        "100 datagrams to 9000 vanish; 100 to 9001 arrive.",
        "The longest prefix decides, whatever the order of the rules.",
        "Rules change while traffic flows, and the change itself drops nothing.",
        "A port range includes both of its ends and nothing beyond.",
        "Default deny lets through only what a rule allows.",
        "100,000 prefixes are read back as they were written.",
        "IPv6 extension headers hide no port from a rule.",
        "Each rule counts its hits and bytes.",
        "A truncated header is dropped and counted as malformed.",
        "Two VLAN tags are looked through.",
        "TCP to an allowed port connects and transfers.",
    ),
    "tc_redirect_port": (
        "A TCP connection to 80 is answered by the server on 8080.",
        "An HTTP transfer of 1 MB arrives whole.",
        "The checksum is right after the change (RFC 1624, equation 3).",
        "A UDP checksum of zero stays zero.",
        "Replies carry the port that the client asked for.",
        "A UDP datagram over IPv6 keeps a valid checksum.",
        "Ports without a rule pass untouched.",
        "The program's counters equal the packets sent.",
        "A fragment after the first is not rewritten.",
        "ICMP errors about a rewritten flow reach its client.",
    ),
    "xdp_track_flow": (
        "SYN, SYN+ACK, ACK make a flow ESTABLISHED.",
        "FIN from both ends leads to TIME_WAIT.",
        "RST closes the flow and says so on the ring buffer.",
        "A half-open flow ages out before an established one.",
        "A simultaneous open ends in one flow.",
        "A retransmitted SYN makes no second flow.",
        "Both directions count into one entry.",
        "Pressure on the LRU map is counted, never silent.",
        "A million flows are tracked at once.",
        "UDP flows age out after their timeout.",
        "Packets and bytes equal what was sent.",
    ),
}

FAILURE = '''net = <lab.traffic.network.Network object at 0x7f2d5c>, bpf = <lab.bpf.loader.Loader object at 0x7f2d60>

    def test_rules_change_while_traffic_flows(net, bpf):
        """Rules change while traffic flows, and the change itself drops nothing."""
        program = bpf.load("xdp_filter")
        with program.attach(net["server"].interface("eth0")):
            stream = net.start(Stream.udp("client", "server", dst_port=9001, rate_pps=50_000, count=100_000))
            program.maps["deny_ports"].update({port: 1 for port in range(9100, 9200)})
>           assert stream.wait().lost == 0
E           AssertionError: assert 3 == 0
E            +  where 3 = Delivery(offered=100000, received=99997, reordered=0, duplicated=0, duration_s=2.0).lost
E            +    Delivery(offered=100000, received=99997, reordered=0, duplicated=0, duration_s=2.0) = wait()

scenarios/test_xdp_filter.py:88: AssertionError'''

EVIDENCE = (
    {
        "title": "map verdicts, expected and found",
        "text": "  {\n-   'XDP_PASS': Count(packets=100000, bytes=6000000),\n"
        "+   'XDP_PASS': Count(packets=99997, bytes=5999820),\n"
        "-   'XDP_DROP': Count(packets=0, bytes=0),\n+   'XDP_DROP': Count(packets=3, bytes=180),\n  }",
    },
    {
        "title": "server/eth0, last frames captured",
        "text": "\n".join(
            f"05:12:44.{n:06d} IPv4 10.0.0.1.40{n:03d} > 10.0.0.2.9001: UDP, length 18" for n in range(311, 323)
        ),
    },
)

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 420 110" width="420" height="110" font-size="12">
<title>client, server</title>
<g fill="none" stroke="currentColor"><rect x="8" y="25" width="120" height="60" rx="6"/>
<rect x="292" y="25" width="120" height="60" rx="6"/><line x1="128" y1="55" x2="292" y2="55"/></g>
<g fill="currentColor" text-anchor="middle"><text x="68" y="52" font-weight="600">client</text>
<text x="68" y="70">10.0.0.1/24</text><text x="352" y="52" font-weight="600">server</text>
<text x="352" y="70">10.0.0.2/24</text><text x="150" y="48">eth0</text><text x="270" y="48">eth0</text></g></svg>"""

ENVIRONMENT = Environment(
    kernel="6.18.5",
    cpu="AMD EPYC 9B14",
    cpus=2,
    memory_bytes=8_321_646_592,
    commit="65720ea0c1f2d3b4a5968778695a4b3c2d1e0f12",
    dirty=True,
    bpf_jit="on",
    tools={"python": "3.11.2", "pytest": "9.0.1", "scapy": "2.6.1"},
    settings={"net.core.bpf_jit_enable": "1", "kernel.bpf_stats_enabled": "0"},
)
STARTED = datetime(2026, 11, 21, 5, 12, 40, tzinfo=UTC)


def sample_run(seed: int = 0, *, minutes: int = 0, failing: bool = True, samples: int = 2000) -> Run:
    """Four programs with about twelve scenarios and a benchmark each, one scenario failing if wanted."""
    dice = random.Random(seed)
    started = STARTED + timedelta(minutes=minutes)
    results = [result for program in PROGRAMS for result in _results(program, dice, failing=failing, samples=samples)]
    return Run(
        id=f"{started:%Y%m%dT%H%M%S}-{seed:06x}",
        started=started.isoformat(),
        duration_s=round(sum(result.duration_s for result in results), 2),
        command=("pytest", "scenarios", "benchmarks", "-n", "2"),
        environment=ENVIRONMENT,
        results=tuple(results),
    )


def store(run: Run, folder: Path) -> Path:
    """The run as a file, as the plugin stores it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run.id}.json"
    path.write_text(json.dumps(run.as_dict()))
    return path


def scenario(program: str = "xdp_filter", name: str = "passes", **changes: Any) -> Result:
    """One passed scenario with nothing noted; `changes` replace its fields."""
    plain = Result(
        nodeid=f"scenarios/test_{program}.py::test_{name}",
        kind="scenario",
        program=program,
        title=f"{name.capitalize()}.",
        outcome="passed",
        reason="",
        duration_s=0.2,
    )
    return replace(plain, **changes)


def run_of(*results: Result, minutes: int = 0, **changes: Any) -> Run:
    """A run that holds these results."""
    return replace(sample_run(minutes, minutes=minutes, samples=50), results=results, **changes)


def latency(
    program: str, dice: random.Random, samples: int = 2000, *, added_ns: float = 900.0, mode: str = "native"
) -> Measurement:
    """Added latency with two arms, long tails in both, and the limit that the four programs promise."""
    without = _latencies(dice, samples, centre=5200)
    with_it = _latencies(dice, samples, centre=5200 + added_ns)
    difference = {
        name: round(statistics.quantile(with_it, fraction) - statistics.quantile(without, fraction), 1)
        for name, fraction in statistics.QUANTILES.items()
    }
    return Measurement(
        metric="added_latency",
        method="UDP round trips on two parallel paths, packets alternating, one thread",
        unit="ns",
        program=program,
        subject=f"60-byte frames, {mode}",
        headline="p99",
        summary={**difference, "n": float(samples)},
        interval=(difference["p99"] - 140, difference["p99"] + 160),
        trials=(Trial("without", without, {"attached": False}), Trial("with", with_it, {"attached": True})),
        limit=Limit("p99", 10_000.0),
    )


def rate(program: str, dice: random.Random, mode: str = "native") -> Measurement:
    """Packets per second without loss, ten trials."""
    trials = tuple(round(dice.gauss(2.4e6 if mode == "native" else 1.1e6, 3e4)) for _ in range(10))
    return Measurement(
        metric="rate",
        method="BPF_PROG_RUN with live frames on one core, all delivered",
        unit="packets/s",
        program=program,
        subject=f"60-byte frames, 65,536 flows, {mode}",
        headline="p50",
        summary=statistics.percentiles(trials),
        interval=statistics.median_interval(trials),
        trials=(Trial("with", trials, {"cpu": 1}),),
        limit=Limit("p50", 1_000_000.0, below=False),
    )


def cost(program: str, dice: random.Random, flows: int) -> Measurement:
    """ns per packet by BPF_PROG_RUN at one number of flows, five fresh loads."""
    centre = {1: 38.0, 65_536: 96.0, 1_048_576: 290.0}[flows] * dice.uniform(0.8, 1.3)
    trials = tuple(round(dice.gauss(centre, centre / 60), 2) for _ in range(5))
    return Measurement(
        metric="cost",
        method="BPF_PROG_RUN, an empty program's time subtracted, fresh loads",
        unit="ns/packet",
        program=program,
        subject="1 flow" if flows == 1 else f"{flows:,} flows",
        headline="p50",
        summary=statistics.percentiles(trials),
        interval=statistics.median_interval(trials),
        trials=(Trial("with", trials, {"flows": flows}),),
    )


def _latencies(dice: random.Random, samples: int, centre: float) -> tuple[float, ...]:
    def one() -> float:
        tail = dice.paretovariate(1.6) * 300 if dice.random() < 0.03 else 0.0
        return float(round(dice.gauss(centre, 210) + dice.expovariate(1 / 180) + tail))

    return tuple(one() for _ in range(samples))


def _results(program: str, dice: random.Random, *, failing: bool, samples: int) -> list[Result]:
    results = [_scenario(program, title, dice) for title in TITLES[program]]
    results += [
        _verdict(program, row, dice) for row in ("ipv4", "ipv4 options", "ipv6", "vlan", "qinq", "fragment", "short")
    ]
    if failing and program == "xdp_filter":
        results[2] = replace(
            results[2], outcome="failed", reason=FAILURE, notes={**results[2].notes, "evidence": list(EVIDENCE)}
        )
    if program == "xdp_track_flow":
        results[8] = replace(
            results[8], outcome="skipped", reason="needs 4 GB of free memory, 1.9 GB are free", notes={}
        )
    stem = f"benchmarks/bench_{program}.py::test_"
    measured = {
        "adds under 10 µs": [
            latency(program, dice, samples),
            latency(program, dice, samples, added_ns=310, mode="generic"),
        ],
        "packets per second without loss": [rate(program, dice), rate(program, dice, "generic")],
        "cost by number of flows": [cost(program, dice, flows) for flows in (1, 65_536, 1_048_576)],
    }
    for title, measurements in measured.items():
        results.append(
            Result(
                nodeid=stem + title.replace(" ", "_").replace("µ", "u"),
                kind="benchmark",
                program=program,
                title=f"{program} {title}.",
                outcome="passed",
                reason="",
                duration_s=round(dice.uniform(1.2, 3.5), 3),
                notes={"program": [_program_note(program, dice)]},
                measurements=tuple(measurements),
            )
        )
    return results


def _scenario(program: str, title: str, dice: random.Random) -> Result:
    count = dice.choice((100, 1000, 10_000))
    name = "_".join(word.strip(".,;:").lower() for word in title.split()[:6])
    return Result(
        nodeid=f"scenarios/test_{program}.py::test_{name}",
        kind="scenario",
        program=program,
        title=title,
        outcome="passed",
        reason="",
        duration_s=round(dice.uniform(0.08, 1.4), 3),
        notes={
            "topology": [{"name": "client and server", "mermaid": "graph LR\n  client --- server", "svg": SVG}],
            "program": [_program_note(program, dice)],
            "attachment": [{"program": program, "target": "server/eth0", "how": "xdp, native"}],
            "delivery": [
                {
                    "stream": "client → server, UDP 9000",
                    "offered": count,
                    "received": 0,
                    "lost": count,
                    "reordered": 0,
                    "duplicated": 0,
                },
                {
                    "stream": "client → server, UDP 9001",
                    "offered": count,
                    "received": count,
                    "lost": 0,
                    "reordered": 0,
                    "duplicated": 0,
                },
            ],
            "map_assertion": [
                {
                    "map": "verdicts",
                    "matcher": "total(XDP_DROP)",
                    "expected": f"packets={count}",
                    "actual": f"packets={count}, bytes={count * 60}",
                    "held": True,
                    "waited_ms": round(dice.uniform(0, 4), 2),
                }
            ],
        },
    )


def _verdict(program: str, row: str, dice: random.Random) -> Result:
    action = "XDP_PASS" if program.startswith("xdp") else "TC_ACT_OK"
    return Result(
        nodeid=f"scenarios/test_{program}.py::test_verdict_table[{row}]",
        kind="scenario",
        program=program,
        title="Each row of the verdict table gets its verdict.",
        outcome="passed",
        reason="",
        duration_s=round(dice.uniform(0.02, 0.06), 3),
        notes={
            "program": [_program_note(program, dice)],
            "verdict": [{"program": program, "row": row, "expected": action, "actual": action}],
        },
    )


def _program_note(program: str, dice: random.Random) -> dict[str, Any]:
    size = 400 + 230 * PROGRAMS.index(program)
    return {
        "name": program,
        "section": "tcx/ingress" if program.startswith("tc") else "xdp",
        "type": "sched_cls" if program.startswith("tc") else "xdp",
        "instructions": size,
        "verified_instructions": size * 7 + 31,
        "xlated_bytes": size * 8 + 120,
        "jited_bytes": size * 5 + 33,
        "stack_bytes": 96 + 16 * PROGRAMS.index(program),
        "load_ms": round(dice.uniform(9, 21), 2),
        "maps": ["verdicts", "deny_ports", "flows"],
    }


def with_headline(measurement: Measurement, headline: str) -> Measurement:
    """The same figures with another headline, and an interval that fits it."""
    value = measurement.summary[headline]
    return replace(measurement, headline=headline, interval=(value - 10, value + 10))


def with_limit(measurement: Measurement, limit: Limit) -> Measurement:
    """The same with a promise."""
    return replace(measurement, limit=limit)


def with_trials(measurement: Measurement, *trials: Trial) -> Measurement:
    """The same figures with other trials."""
    return replace(measurement, trials=trials)
