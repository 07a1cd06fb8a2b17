"""What user space does with tc_segment: puts policies into force, reads sessions and counters, serves metrics.

program = bpf.load("tc_segment", **sized(sessions=1_000_000))
segment = Segment(program.maps)
segment.apply(read(Path("shop.yaml").read_text(), "shop.yaml"))
attachments = [each.attach(interface) for each in program.programs.values()]
segment.apply(another)                 # at any time: between two packets
for session in segment.sessions():
    print(session)                     # tcp 10.0.0.1:40000 -> 10.0.0.2:5432 ESTABLISHED, by web-to-db
"""

from __future__ import annotations

import fcntl
import ipaddress
import mmap
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.bpf.companion import load_module
from lab.errors import LabError
from lab.model.table import Table

policies = load_module(Path(__file__).with_name("tc_segment_policy.py"))
Policy, PolicyError, Rule, read = policies.Policy, policies.PolicyError, policies.Rule, policies.read

WAYS, GROUP, PER_BUCKET, SPARE = 8, 1024, 4.8, 4
"""Sessions of a bucket; buckets under one lock; sessions a bucket, so that one in millions finds no room; of a few."""
SESSION_BYTES = 64
SKEW_MS = 60_000
"""As in the program: a time so little ahead is a clock that is, and not weeks ago."""
RULES, BITMAPS, RULE_SLOTS, FIRST_RULE, TEXT_BYTES = 1024, 4096, 4096, 3, 262_144
WORD_BITS, BITMAP_BYTES = 64, 128
DIRECTIONS = ("ingress", "egress")
STATES = (
    *("one_way", "one_way", "two_way", "opening", "opening", "opening", "established"),
    *("closing",) * 4,
    *("time_wait", "reset"),
)
"""Which timeout each enum flow_state has."""
OPENER, KNOWN = 0x80, 32
NOT_PACKETS = ("EVICTED", "EVENT_LOST")
PASSED = ("IN_SESSION", "OPENED", "RELATED", "STATELESS", "NEIGHBOUR", "FRAGMENT", "NOT_IP", "UNTRACKED")


def sized(sessions: int) -> dict[str, Any]:
    """Arguments for load(): room for so many sessions at once, about 110 bytes each, with a hash seed of its own."""
    buckets = -(-sessions // SPARE) if sessions < SPARE * GROUP else int(sessions / PER_BUCKET) + 1
    whole = -(-buckets // GROUP) * GROUP if buckets > GROUP else 1 << (buckets - 1).bit_length()
    return {
        "bucket_count": whole,
        "hash_seed": secrets.randbits(32),
        "max_entries": {"session_map": whole, "tag_map": whole},
    }


@dataclass(frozen=True)
class Session:
    """A session as it stood when it was read; `rules` let it through. `idle_s` since its last packet."""

    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    state: str
    rules: tuple[str, ...]
    idle_s: float

    def __str__(self) -> str:
        name = next((name for name, number in policies.PROTOCOLS.items() if number == self.protocol), self.protocol)
        ends = f"{_end(self.source, self.source_port)} -> {_end(self.destination, self.destination_port)}"
        return f"{name} {ends} {self.state}, by {', '.join(self.rules)}"


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Segment:
    """The maps of a program, loaded here or running elsewhere."""

    def __init__(self, maps: Mapping[str, Any]) -> None:
        self.maps = maps

    # The policy.

    @property
    def in_force(self) -> Any:
        """struct policy."""
        return self.maps["policy_map"][0][0]

    @property
    def text(self) -> str:
        """The policy in force, as YAML."""
        now = self.in_force
        return str(now.text[: now.text_bytes].decode())

    def policy(self) -> Any:
        """The policy in force."""
        return read(self.text, "the policy in force")

    def apply(self, policy: Any) -> None:
        """Puts a policy into force: written beside the one in force, then switched by one update.

        When it returns no packet sees the old one. LabError where it does not fit; nothing has changed then.
        """
        with _alone():
            self._apply(policy)

    def change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Reads the policy in force, has its data changed, and applies that; nobody else can in between."""
        with _alone():
            data = self.policy().data
            data = {**data, "rules": [dict(each) for each in data.get("rules") or ()]}
            change(data)
            self._apply(read(dump(data), "the new policy"))

    def _apply(self, policy: Any) -> None:
        old = self.in_force
        half = 1 - old.half if old.generation else 0
        text = dump(policy.data).encode()
        if len(text) > TEXT_BYTES:
            raise LabError(f"a policy of {len(text):,} bytes", mend=f"{TEXT_BYTES:,} at most: put prefixes together")
        masks = policies.compile_rules(policy.rules)
        slots, next_slot = self._slots(policy, old)
        self._write_tables(half, masks)
        self._write_rules(half, policy, slots)
        generation = old.generation + 1
        if not generation & 0xFFFF:
            self._forget_generations()
            generation += 1
        inner = self.maps["policy_map"].new_inner()
        inner[0] = {
            "generation": generation & 0xFFFFFFFF or 1,
            "half": half,
            "words": -(-len(policy.rules) // WORD_BITS),
            "text_bytes": len(text),
            "allows": bytes(policy.allows),
            "logs": bytes(policy.logs),
            "rechecks": policy.rechecks,
            "full": policy.full.upper(),
            "next_slot": next_slot,
            "idle_ms": [round(policy.timeouts_s[STATES[n]] * 1000) if n < len(STATES) else 0 for n in range(16)],
            "icmp_idle_ms": round(policy.timeouts_s["icmp"] * 1000),
            "text": text.ljust(TEXT_BYTES, b"\0"),
        }
        self.maps["policy_map"][0] = inner

    def _slots(self, policy: Any, old: Any) -> tuple[dict[str, int], int]:
        """The counters of each rule: those it had by its name, else the ones that are longest out of use."""
        had = self._slots_in_force() if old.generation else {}
        taken = {had[rule.name] for rule in policy.rules if rule.name in had} | set(had.values())
        slots, following, new = {}, max(old.next_slot, FIRST_RULE), []
        for rule in policy.rules:
            if rule.name in had:
                slots[rule.name] = had[rule.name]
                continue
            while following in taken:
                following = following + 1 if following + 1 < RULE_SLOTS else FIRST_RULE
            slots[rule.name] = following
            new.append(following)
            taken.add(following)
        self.maps["rule_stats"].update({slot: {} for slot in new})
        return slots, following

    def _slots_in_force(self) -> dict[str, int]:
        now = self.in_force
        rules = self.policy().rules
        return {rule.name: self.maps["rules"][now.half * RULES + place].slot for place, rule in enumerate(rules)}

    def _write_tables(self, half: int, masks: Any) -> None:
        numbers: dict[int, int] = {0: 0}

        def number_of(mask: int) -> int:
            return numbers.setdefault(mask, len(numbers))

        prefixes = {}
        for side, by_prefix in enumerate(masks.prefixes):
            for (address, length), mask in by_prefix.items():
                prefixes[32 + length, 2 * half + side, address.to_bytes(16, "big")] = number_of(mask)
        ports = [_by_port(by_port, number_of) for by_port in masks.ports]
        protocols = [struct.pack("=256H", *map(number_of, by_protocol)) for by_protocol in masks.protocols]
        room = self.maps["prefixes"].facts.max_entries // 2
        for what, count, most in (("prefixes", len(prefixes), room), ("combinations of rules", len(numbers), BITMAPS)):
            if count > most:
                raise LabError(f"the policy needs {count:,} {what}", mend=f"there is room for {most:,}")
        self._clear_prefixes(half)
        _write(
            self.maps["prefixes"],
            [(struct.pack("=II", *key[:2]) + key[2], struct.pack("=I", number)) for key, number in prefixes.items()],
        )
        words = [(half * BITMAPS + number, mask.to_bytes(BITMAP_BYTES, "little")) for mask, number in numbers.items()]
        _write(self.maps["bitmaps"], [(struct.pack("=I", place), raw) for place, raw in words])
        for side in (0, 1):
            key = struct.pack("=I", 2 * half + side)
            _write(self.maps["port_sets"], [(key, ports[side])])
            _write(self.maps["protocol_sets"], [(key, protocols[side])])

    def _clear_prefixes(self, half: int) -> None:
        """Those of the policy before the one in force."""
        from lab.kernel import bpf

        table = self.maps["prefixes"]
        for raw in list(bpf.map_keys(table.fd, table.facts.key_bytes)):
            if struct.unpack_from("=I", raw, 4)[0] >> 1 == half:
                bpf.map_delete(table.fd, raw)

    def _write_rules(self, half: int, policy: Any, slots: Mapping[str, int]) -> None:
        self.maps["rules"].update(
            {
                half * RULES + place: {"slot": slots[rule.name], "action": rule.action.upper(), "log": rule.log}
                for place, rule in enumerate(policy.rules)
            }
        )

    def _forget_generations(self) -> None:
        """Once in 65,535 policies: the numbers begin anew, and no session may pass for one that was judged."""
        with self.memory(mmap.PROT_READ | mmap.PROT_WRITE) as memory:
            sessions_in(memory)["generation"] = 0

    # What it has seen.

    @contextmanager
    def memory(self, protection: int = mmap.PROT_READ) -> Iterator[mmap.mmap]:
        """The session map itself, as sessions_in() reads it."""
        table = self.maps["session_map"]
        size = table.facts.value_bytes * table.facts.max_entries
        memory = mmap.mmap(table.fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, prot=protection)
        try:
            yield memory
        finally:
            memory.close()

    def _living(self) -> Any:
        """Copies of the sessions that are not over, as a structured array, and the ms since each was heard."""
        import numpy

        now = self.in_force
        with self.memory() as memory:
            every = sessions_in(memory)[: self.maps["session_map"].facts.max_entries * WAYS]
            found = every[every["let_through"] >> 8 != 0].copy()
            del every
        protocol = found["let_through"] & 0xFF
        states = numpy.where(protocol == 6, _tcp_states(found["sent"]), _other_states(found["sent"]))
        limits = numpy.asarray(now.idle_ms, dtype="i8")[states]
        limits[(protocol == 1) | (protocol == 58)] = now.icmp_idle_ms
        idle = (time.monotonic_ns() // 1_000_000 - found["heard_ms"].astype("i8")) & 0xFFFFFFFF
        idle[idle > (1 << 32) - SKEW_MS] = 0  # heard of after this clock was read
        kept = idle <= limits
        return found[kept], states[kept], idle[kept]

    def count_sessions(self) -> int:
        """How many there are now; some 50 ms for a million."""
        return len(self._living()[0])

    def sessions(self) -> list[Session]:
        """Those that are not over, the latest first."""
        found, states, idle = self._living()
        names = {slot: name for name, slot in self._slots_in_force().items()}
        names |= {1: "default", 2: "default"}
        flow_state = ("", "ONE_WAY", "TWO_WAY", *TCP_STATES)
        return [
            _session(each, flow_state[int(state)], int(ms), names)
            for each, state, ms in sorted(zip(found, states, idle, strict=True), key=lambda one: one[2])
        ]

    def outcomes(self) -> dict[tuple[str, str], Any]:
        """Packets and bytes by (outcome, direction)."""
        totals = {outcome.name: counts.total() for outcome, counts in self.maps["stats_map"].items()}
        return {(name, way): getattr(total, way) for name, total in totals.items() for way in DIRECTIONS}

    def rule_counts(self) -> dict[str, Any]:
        """Sessions, packets and bytes by rule; the defaults as "default ingress" and "default egress"."""
        slots = {**self._slots_in_force(), "default ingress": 1, "default egress": 2}
        return {name: self.maps["rule_stats"].total(slot) for name, slot in slots.items()}


TCP_STATES = (
    "SYN_SENT",
    "SYN_CROSSED",
    "SYN_RECEIVED",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "CLOSING",
    "LAST_ACK",
    "TIME_WAIT",
    "RESET",
)


def _tcp_states(sent: Any) -> Any:
    """Numbers of enum flow_state, as tcp_state() of lab/flow_state.h has them."""
    import numpy

    either, both = sent[:, 0] | sent[:, 1], sent[:, 0] & sent[:, 1]
    conditions = [either & 4, both & 16, both & 2, either & 2, both & 8, both & 1]
    acked_fin, acked_syn = (either & 16) != 0, (either & 8) != 0
    choices = [12, 11, numpy.where(acked_fin, 10, 9), numpy.where(acked_fin, 8, 7), 6, numpy.where(acked_syn, 5, 4)]
    return numpy.select([each != 0 for each in conditions], choices, 3)


def _other_states(sent: Any) -> Any:
    import numpy

    return numpy.where(sent[:, 0] & sent[:, 1] & KNOWN, 2, 1)


def sessions_in(memory: Any) -> Any:
    """A structured array of all places, those without a session too; what is written there is written to the map."""
    import numpy

    layout = numpy.dtype(
        {
            "names": ["lower", "upper", "lower_port", "upper_port", "let_through", "heard_ms", "generation", "sent"],
            "formats": ["16u1", "16u1", ">u2", ">u2", "<u4", "<u4", "<u2", "2u1"],
            "offsets": [0, 16, 32, 34, 36, 40, 44, 46],
            "itemsize": SESSION_BYTES,
        }
    )
    return numpy.frombuffer(memory, layout)


def _session(each: Any, state: str, idle_ms: int, names: Mapping[int, str]) -> Session:
    ends = ((_address(each["lower"]), int(each["lower_port"])), (_address(each["upper"]), int(each["upper_port"])))
    source, destination = ends if each["sent"][0] & OPENER else ends[::-1]
    slots = {int(each["let_through"]) >> shift & 0xFFF for shift in (8, 20)} - {0}
    rules = tuple(sorted(names.get(slot, "a former rule") for slot in slots))
    return Session(int(each["let_through"]) & 0xFF, *source, *destination, state, rules, idle_ms / 1000)


def _address(raw: Any) -> str:
    address = ipaddress.IPv6Address(raw.tobytes())
    return str(address.ipv4_mapped or address)


def _by_port(changes: Sequence[tuple[int, int]], number_of: Callable[[int], int]) -> bytes:
    ends = [*(port for port, _ in changes[1:]), 65536]
    return b"".join(
        struct.pack("=H", number_of(mask)) * (end - port) for (port, mask), end in zip(changes, ends, strict=True)
    )


def _write(table: Any, entries: Sequence[tuple[bytes, bytes]]) -> None:
    from lab.kernel import bpf

    for key, value in entries:
        bpf.map_update(table.fd, key, value)


def dump(data: Mapping[str, Any]) -> str:
    """A policy's data as YAML."""
    import yaml

    text: str = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True) if data else ""
    return text


@contextmanager
def _alone() -> Iterator[None]:
    """One change at a time, whichever process makes it. A folder's lock leaves no file behind."""
    folder = os.open("/run", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


# ---- For a person: lab tc_segment ----


def load(bpf: Any, *, policy: Path | None = None, room: int = 65_536, **knobs: Any) -> Any:
    """The program with its policy in force before it is attached.

    policy: a file of YAML
    room: sessions that there is room for
    """
    if policy is None:
        raise LabError("tc_segment without a policy would let nothing through", mend="--policy FILE")
    wanted = read(policy.read_text(), str(policy))
    program = bpf.load("tc_segment", **sized(room), **knobs)
    Segment(program.maps).apply(wanted)
    return program


def attach(program: Any, place: Any) -> Iterator[Any]:
    """Both directions of each interface."""
    for each in program.programs.values():
        yield from place.attach(each)


def view(program: Any, *, top: int = 20) -> list[Table]:
    """Outcomes, rules and the latest sessions.

    top: sessions shown
    """
    return tables(Segment(program.maps), top)


def tables(segment: Segment, top: int = 20) -> list[Table]:
    """The same of any instance."""
    outcomes = [(name.lower(), way, n.packets, n.bytes) for (name, way), n in segment.outcomes().items() if n.packets]
    rules = [(name, n.sessions, n.packets, n.bytes) for name, n in segment.rule_counts().items()]
    found = segment.sessions()
    sessions = [(str(each), round(each.idle_s, 1)) for each in found[:top]]
    return [
        Table("outcomes", ("outcome", "direction", "packets", "bytes"), outcomes),
        Table("rules", ("rule", "sessions", "packets", "bytes"), rules),
        Table(f"{len(found):,} sessions", ("session", "idle s"), sessions),
    ]


def summary(program: Any) -> str:
    """What was let through and what was not, in a sentence."""
    counts = Segment(program.maps).outcomes()
    passed = sum(n.packets for (name, _), n in counts.items() if name in PASSED)
    dropped = sum(n.packets for (name, _), n in counts.items() if name not in (*PASSED, *NOT_PACKETS))
    return f"{passed:,} packets passed, {dropped:,} dropped"


def metrics(segment: Segment) -> Iterator[Any]:
    """Prometheus families. A session is no label: there are too many; outcomes, directions and rules are."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ("outcome", "direction")
    packets = CounterMetricFamily("segment_packets", "Packets by what became of them.", labels=labels)
    size = CounterMetricFamily("segment_bytes", "Bytes by what became of them.", labels=labels)
    others = CounterMetricFamily("segment_happenings", "Sessions evicted, events lost.", labels=("what",))
    happened: dict[str, int] = {}
    for (name, way), count in segment.outcomes().items():
        if name in NOT_PACKETS:
            happened[name] = happened.get(name, 0) + count.packets
        else:
            packets.add_metric((name.lower(), way), count.packets)
            size.add_metric((name.lower(), way), count.bytes)
    for name, times in happened.items():
        others.add_metric((name.lower(),), times)
    opened = CounterMetricFamily("segment_rule_sessions", "Sessions that a rule let through.", labels=("rule",))
    hits = CounterMetricFamily("segment_rule_packets", "Packets of a rule.", labels=("rule",))
    for rule, each in segment.rule_counts().items():
        opened.add_metric((rule,), each.sessions)
        hits.add_metric((rule,), each.packets)
    sessions = GaugeMetricFamily("segment_sessions", "Sessions now.")
    sessions.add_metric((), segment.count_sessions())
    room = GaugeMetricFamily("segment_sessions_places", "Places for sessions; some 60 % can be used.")
    room.add_metric((), segment.maps["session_map"].facts.max_entries * WAYS)
    generation = GaugeMetricFamily("segment_policy_generation", "How often a policy was applied.")
    generation.add_metric((), segment.in_force.generation)
    yield from (packets, size, others, opened, hits, sessions, room, generation)


command = load_module(Path(__file__).with_name("tc_segment_command.py")).command
"""`lab tc_segment run`, and what speaks to an instance that runs."""
