"""What is there to be seen when a test has failed, while its network and its programs still are: the evidence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import LabError, VerifierError
from lab.failure.evidence import Comparison, Counted, Evidence, Loss, MapContent, Sending, Verdict
from lab.failure.frame import Frame, read_frame
from lab.model.journal import Journal, Step

if TYPE_CHECKING:
    import pytest

    from lab.bpf.map import Table
    from lab.traffic.network import Network
    from lab.traffic.recorder import Recorder, Seen

MOST_MAPS, MOST_SENDINGS, MOST_VERDICTS = 24, 12, 64
WORD = re.compile(r"[A-Za-z_]\w*")
QUOTED = re.compile(r"""["']([^"']+)["']""")


@dataclass(frozen=True)
class Scene:
    """A failed test: what it noted, its network and its recorder where it had any, and the error."""

    journal: Journal
    error: pytest.ExceptionInfo[BaseException]
    file: Path
    comparison: Comparison | None = None
    net: Network | None = None
    recorder: Recorder | None = None

    def evidence(self) -> Evidence:
        """Everything that can still be seen; what cannot is a remark."""
        statement, local = self._statement()
        remarks: list[str] = []
        value = self.error.value
        refused = isinstance(value, VerifierError)
        return Evidence(
            error=self.error.exconly(tryshort=True).partition("\n")[0],
            statement=statement,
            missing_key=value.args[0] if isinstance(value, KeyError) and value.args else None,
            comparison=self.comparison,
            sendings=tuple(self._sendings(statement, local)),
            losses=tuple(_loss(each) for each in self.recorder.losses()) if self.recorder else (),
            counters=tuple(_counters(self.net)) if self.net else (),
            maps=tuple(self._maps(statement, local, remarks)),
            map_differences=tuple(self._map_differences()),
            frame_differences=tuple(self._frame_differences()),
            verdicts=tuple(self._verdicts()),
            runs=sum(each.about.get("repeat", 1) for each in self._steps("run")),
            verifier=tuple(str(value).splitlines()) if refused else (),
            verifier_log=value.log if isinstance(value, VerifierError) else "",
            owners=_owners(self.net) if self.net else {},
            remarks=tuple(remarks),
        )

    def _steps(self, kind: str) -> Iterator[Step]:
        return (each for each in self.journal.steps if each.kind == kind)

    def _statement(self) -> tuple[str, dict[str, Any]]:
        """The last line of the test's own file that ran, and the names that meant something there."""
        own = [each for each in self.error.traceback if Path(each.path) == self.file]
        if not own:
            return "", {}
        return str(own[-1].statement).strip(), dict(own[-1].frame.f_locals)

    # What was sent.

    def _sendings(self, statement: str, local: dict[str, Any]) -> Iterator[Sending]:
        named = [local[word] for word in WORD.findall(statement) if word in local]
        steps = [each for each in self.journal.steps if each.kind in ("send", "exchange")]
        for step in steps[-MOST_SENDINGS:]:
            about = step.about
            seen = self.recorder.records(about["begun"], about["ended"]) if self.recorder else []
            result = about["delivery"] if step.kind == "send" else about["received"]
            accused = any(each is result or (step.kind == "send" and each == result) for each in named)
            made = _of_stream(about, seen) if step.kind == "send" else _of_exchange(about)
            yield replace(
                made,
                seen=dict(Counter(each.interface for each in seen if each.kind == "received")),
                losses=tuple(_losses(seen)),
                accused=accused,
            )

    # What the maps held.

    def _maps(self, statement: str, local: dict[str, Any], remarks: list[str]) -> Iterator[MapContent]:
        named = {*QUOTED.findall(statement)}
        objects = [local[word] for word in WORD.findall(statement) if word in local]
        for number, stem, table in islice(self._tables(), MOST_MAPS):
            try:
                accused = table.name in named or any(each is table for each in objects)
                yield replace(_content(stem, table), accused=accused, number=number)
            except (LabError, OSError) as error:
                remarks.append(f"map {table.name}: {str(error).partition(chr(10))[0]}")

    def _tables(self) -> Iterator[tuple[int | None, str, Table]]:
        """The maps with keys of every program that was loaded and is not closed; a shared one once.

        With the number of the program, as a replay counts it, and its stem.
        """
        from lab.bpf.map import Table

        seen: set[int] = set()
        made_by_bcc = ((None, each) for each in self._steps("load_bcc"))
        for number, step in chain(enumerate(self._steps("load")), made_by_bcc):
            program = step.about["program"]
            for table in program.maps.values():
                if isinstance(table, Table) and table.fd >= 0 and id(table) not in seen:
                    seen.add(id(table))
                    yield number, program.stem, table

    def _map_differences(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        for note in self.journal.of("map_assertion"):
            if not note["held"]:
                yield note["map"], tuple(note["actual"].split("; "))

    # What was run and compared.

    def _frame_differences(self) -> Iterator[str]:
        for note in self.journal.of("evidence"):
            if note.get("title") == "frames":
                yield from str(note["text"]).splitlines()

    def _verdicts(self) -> Iterator[Verdict]:
        """Runs that look alike together, in the order of the first."""
        count: Counter[tuple[str, str, str]] = Counter()
        for step in self._steps("run"):
            about = step.about
            count[about["program"].name, _verdict(about["result"]), read_frame(about["frame"]).summary] += 1
        for step in self._steps("run_many"):
            about = step.about
            for frame, result in zip(about["frames"], about["results"], strict=True):
                count[about["program"].name, _verdict(result), read_frame(frame).summary] += 1
        for (program, verdict, frame), frames in islice(count.items(), MOST_VERDICTS):
            yield Verdict(program, verdict, frame, frames)


def _of_stream(about: dict[str, Any] | Any, seen: Sequence[Seen]) -> Sending:
    stream, delivery = about["stream"], about["delivery"]
    return Sending(
        name=stream.name,
        offered=delivery.offered,
        received=delivery.received,
        src=stream.src.partition("/")[0],
        dst=stream.dst.partition("/")[0],
        reached=delivery.reached,
        differences=tuple(_changes(seen)),
    )


def _of_exchange(about: Any) -> Sending:
    """What came in is compared with what was sent where the payload is the same."""
    received = about["received"]
    frames = about["frames"]
    return Sending(
        name=f"{len(frames)} frame{'s' if len(frames) != 1 else ''} from {about['at']}",
        offered=len(frames),
        received=sum(map(len, received.values())),
        differences=tuple(_exchanged(frames[0], received)) if frames else (),
    )


def _exchanged(sent: bytes, received: Any) -> Iterator[str]:
    from lab.traffic.expect import differences

    payload = read_frame(sent).payload
    for name, packets in received.items():
        for packet in packets:
            raw = bytes(packet)
            if raw == sent or not payload or read_frame(raw).payload != payload:
                continue
            yield from (f"{_reworded(line)} (at {name})" for line in differences(sent, raw))
            return


def _changes(seen: Sequence[Seen]) -> Iterator[str]:
    """What the first message had otherwise where it was seen last."""
    from lab.traffic.expect import differences

    lost = next((each for each in seen if each.kind == "dropped" and each.ethernet and each.raw), None)
    if lost is None:
        return
    end = read_frame(lost.raw)
    ethernet = (each for each in seen if each.ethernet and each.raw)
    first = next((each for each in ethernet if _is_same(read_frame(each.raw), end)), lost)
    yield from (_reworded(line) for line in differences(first.raw, lost.raw))


def _is_same(one: Frame, other: Frame) -> bool:
    """The same message: an answer to a ping has its payload and another kind."""
    return (one.protocol, one.kind, one.payload) == (other.protocol, other.kind, other.payload)


def _reworded(line: str) -> str:
    """ "UDP.dport: expected 8080, got 9000" -> "UDP.dport: 8080 at first, 9000 at last"."""
    return line.replace(": expected ", ": ", 1).replace(", got ", " at first, ", 1) + " at last"


def _losses(seen: Iterable[Seen]) -> Iterator[Loss]:
    """Those of one place and reason together."""
    found: dict[tuple[str, str, str, str], tuple[int, Frame | None]] = {}
    for each in seen:
        if each.kind != "received" and each.kind != "sent":
            key = (each.kind, each.interface, each.reason, each.place)
            count, example = found.get(key, (0, None))
            found[key] = count + 1, example or _frame_of(each)
    for (kind, interface, reason, place), (count, example) in found.items():
        yield Loss(kind, interface, reason, place, count, example)


def _frame_of(seen: Seen) -> Frame | None:
    if not seen.raw:
        return None
    frame = read_frame(seen.raw, ethernet=seen.ethernet, length=seen.length)
    return replace(frame, wrong_checksums=()) if seen.partial_checksum else frame


def _loss(loss: Any) -> Loss:
    return Loss(loss.kind, loss.interface, loss.reason, loss.place, loss.frames)


def _counters(net: Network) -> Iterator[Counted]:
    for namespace in net.namespaces:
        for short, each in namespace.counters().items():
            yield Counted(
                f"{namespace.name}/{short}",
                each.rx_packets,
                each.tx_packets,
                each.rx_dropped,
                each.tx_dropped,
                each.rx_errors,
                each.tx_errors,
            )


def _owners(net: Network) -> dict[str, str]:
    layout = net.topology.layout
    return {str(address.ip): each.namespace for each in layout.interfaces.values() for address in each.addresses}


def _content(stem: str, table: Table) -> MapContent:
    from lab.bpf.content import content_of

    found = content_of(table)
    return MapContent(table.name, stem, table.facts.type, found.entries, found.lines, found.whole)


def _verdict(result: Any) -> str:
    try:
        return str(result.action.name)
    except LabError:
        return str(result.number)
