"""From evidence to findings, in the order of their weight: what the reader should see first comes first. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from lab.failure.diagnosis import diagnose
from lab.failure.evidence import UNTOLD, Counted, Evidence, Loss, MapContent, Sending, Verdict
from lab.failure.finding import Finding
from lab.failure.frame import TCP

SHOWN_SENDINGS, SHOWN_DIFFERENCES, SHOWN_ENTRIES, SHOWN_VERDICTS = 6, 8, 6, 8


def findings(evidence: Evidence) -> list[Finding]:
    """Everything that was found; never empty where anything is known."""
    losses = tuple(map(_loss, evidence.losses))
    every = (
        Finding("Likely", tuple(diagnose(evidence))),
        Finding("The verifier said", evidence.verifier),
        Finding("Frames are not what was expected", evidence.frame_differences, SHOWN_DIFFERENCES),
        Finding("Maps", tuple(_accused_maps(evidence)), SHOWN_ENTRIES),
        Finding("On the way", tuple(_ways(evidence)), SHOWN_SENDINGS),
        Finding("Sent and arrived", tuple(_frames(evidence)), SHOWN_DIFFERENCES),
        Finding("Verdicts", tuple(_verdicts(evidence)), SHOWN_VERDICTS),
        Finding("Not looked at", evidence.remarks),
        Finding("Lost in the whole scenario", losses, 0 if evidence.sendings else SHOWN_SENDINGS),
        Finding("Other maps, as they were", tuple(_other_maps(evidence)), 0),
        Finding("Interfaces", tuple(map(_counted, evidence.counters)), 0),
        Finding("The verifier's whole log", tuple(evidence.verifier_log.splitlines()), 0),
    )
    return [each for each in every if each.lines]


def headline(evidence: Evidence, found: list[Finding]) -> str:
    """The one sentence that says most: a guess, a refusal, a difference, a loss; or else the error."""
    for each in found:
        if each.title in ("Likely", "The verifier said", "Frames are not what was expected"):
            return each.lines[0].strip()
    if evidence.map_differences:
        return next(_accused_maps(evidence))
    for sending in evidence.sendings:
        if sending.accused and sending.lost:
            return ": ".join(line.strip() for line in list(_way(sending))[:2])
    return evidence.error


def _ways(evidence: Evidence) -> Iterator[str]:
    """Of each sending what became of it; those that the assertion speaks of first, then those that lost something."""
    ordered = sorted(evidence.sendings, key=lambda each: (not each.accused, not each.lost))
    for sending in ordered:
        yield from _way(sending)


def _way(sending: Sending) -> Iterator[str]:
    came = f"{sending.received:,} of {sending.offered:,} arrived" if sending.dst else f"{sending.received:,} came in"
    yield f"{sending.name}: {came}"
    for each in sending.losses:
        example = f": {each.example.summary}" if each.example else ""
        yield f"    {_loss(each)}{example}"
    told = sum(each.frames for each in sending.losses)
    if sending.lost and _is_not_connected(sending):
        yield "    so no connection was made, and no message was sent"
    elif sending.lost > told:
        rest = "all" if not told else f"{sending.lost - told:,}"
        last = list(sending.seen)[-1] if sending.seen else ""
        where = sending.reached or last
        yield f"    {rest} lost without a word; the last that counted any is {where or 'not even the sender'}"
    elif sending.lost and sending.seen:
        seen = ", ".join(f"{name} {count:,}" for name, count in sending.seen.items())
        yield f"    frames that came to a network stack: {seen}"


def _is_not_connected(sending: Sending) -> bool:
    """Of a TCP stream the first frames were lost: S, or the answer SA."""
    examples = (each.example for each in sending.losses if each.example)
    return not sending.received and any(each.protocol == TCP and "S" in each.kind for each in examples)


def _loss(loss: Loss) -> str:
    untold = "in XDP" if "xdp" in loss.place else "no reason given"
    words = {
        "dropped": f"dropped at {loss.interface}: {untold if loss.reason in UNTOLD else loss.reason}",
        "exception": f"verdict {loss.reason} at {loss.interface} could not be done, or is an error",
        "redirect refused": f"redirected at {loss.interface} to what takes no frames: {loss.reason}",
        "xmit refused": f"redirected or sent back (XDP_TX), and not taken by {loss.interface}: {loss.reason}",
    }
    place = f" (in {loss.place})" if loss.place else ""
    return f"{loss.frames:,} {words.get(loss.kind, loss.kind)}{place}"


def _frames(evidence: Evidence) -> Iterator[str]:
    for sending in evidence.sendings:
        if sending.differences and (sending.accused or sending.lost):
            yield f"{sending.name}, the first frame:"
            yield from (f"    {each}" for each in sending.differences)


def _accused_maps(evidence: Evidence) -> Iterator[str]:
    for name, lines in evidence.map_differences:
        yield from (f"map {name}: {' '.join(line.split())}" for line in lines)
    told = {name for name, _ in evidence.map_differences}
    for each in evidence.maps:
        if each.accused and each.name not in told:
            yield from _content(each)


def _other_maps(evidence: Evidence) -> Iterator[str]:
    for each in evidence.maps:
        if not each.accused:
            yield from _content(each)


def _content(content: MapContent) -> Iterator[str]:
    yield f"{content.name} ({content.kind} of {content.program}) held:"
    yield from (f"    {line}" for line in content.lines or ("nothing",))


def _verdicts(evidence: Evidence) -> Iterator[str]:
    """One line a verdict; ports that follow one another are one line."""
    rows = list(evidence.verdicts)
    while rows:
        first, last = rows.pop(0), ""
        frames = first.frames
        while rows and _follows(first, last, rows[0]):
            last = rows[0].frame.rpartition(":")[2]
            frames += rows.pop(0).frames
        number = f"{frames:,} x " if frames > 1 else ""
        yield f"{first.program}: {number}{first.verdict}  {first.frame}{f' to {last}' if last else ''}"


def _follows(first: Verdict, last: str, other: Verdict) -> bool:
    start, _, port = first.frame.rpartition(":")
    place, _, following = other.frame.rpartition(":")
    alike = (first.program, first.verdict, start) == (other.program, other.verdict, place)
    return alike and following.isdecimal() and (last or port) == str(int(following) - 1)


def _counted(counted: Counted) -> str:
    parts = [f"{counted.interface}: received {counted.rx_packets:,}, sent {counted.tx_packets:,}"]
    parts += [f"dropped in {counted.rx_dropped:,}"] if counted.rx_dropped else []
    parts += [f"dropped out {counted.tx_dropped:,}"] if counted.tx_dropped else []
    parts += [f"errors {counted.rx_errors + counted.tx_errors:,}"] if counted.rx_errors + counted.tx_errors else []
    return ", ".join(parts)
