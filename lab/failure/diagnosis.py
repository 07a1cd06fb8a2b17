"""Guesses at what is wrong with a program, each only where the evidence has its shape. Pure.

They are said as what was seen; a guess that does not fit is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lab.failure.evidence import UNTOLD, Evidence, Loss, MapContent, Sending

SMALLEST = 256
"""Of the larger of two numbers that are each other's mirror image."""
WIDTHS = (2, 4, 8)
OF_A_PROTOCOL = re.compile(r"udp|tcp|icmp|ip_rcv|ipv?6_rcv")
"""In the name of the kernel's function."""
NOT_ATOMIC = ("array", "hash", "lru_hash")
"""Maps of which all CPUs share an entry."""


def diagnose(evidence: Evidence) -> list[str]:
    """Sentences, the surest first; mostly none or one."""
    every: tuple[Callable[[Evidence], Iterator[str]], ...] = (
        _wrong_checksum,
        _return_path,
        _lost_update,
        _byte_order,
        _off_by_one,
    )
    return list(dict.fromkeys(sentence for look in every for sentence in look(evidence)))


def _wrong_checksum(evidence: Evidence) -> Iterator[str]:
    for sending in evidence.sendings:
        for loss in sending.losses:
            if loss.example is None or not _may_be_of_a_checksum(loss):
                continue
            for name, found, right in loss.example.wrong_checksums:
                changed = [each for each in sending.differences if "chksum" not in each]
                why = f"; on the way it got another {_field(changed[0])}" if changed else ""
                yield (
                    f"wrong checksum: {name} has {found:#06x} where {right:#06x} is right, in the frames dropped at "
                    f"{loss.interface}{why}"
                )


def _may_be_of_a_checksum(loss: Loss) -> bool:
    """What a program drops may have a wrong checksum too, and was not dropped for it."""
    return "CSUM" in loss.reason or (loss.reason in UNTOLD and bool(OF_A_PROTOCOL.search(loss.place)))


def _field(line: str) -> str:
    """ "UDP.dport: 8080 at first, 9000 at last" -> "UDP.dport (8080 at first, 9000 at last)"."""
    name, _, values = line.partition(": ")
    return f"{name} ({values})"


def _return_path(evidence: Evidence) -> Iterator[str]:
    """What came back was dropped, of a stream that arrived at its other end."""
    for sending in evidence.sendings:
        for loss in sending.losses:
            if loss.example is None or not sending.lost or not _is_answer(evidence, sending, loss):
                continue
            came = next((seen for name, seen in sending.seen.items() if name.startswith(f"{sending.dst}/")), 0)
            yield (
                f"the return path is cut: {came:,} frames came to {sending.dst}, and {loss.frames:,} of its answers "
                f"were dropped at {loss.interface} ({loss.reason or loss.kind}): {loss.example.summary}"
            )


def _is_answer(evidence: Evidence, sending: Sending, loss: Loss) -> bool:
    assert loss.example is not None
    owners = evidence.owners
    there, back = owners.get(loss.example.src), owners.get(loss.example.dst)
    return bool(sending.dst) and there == sending.dst != sending.src and back == sending.src


def _lost_update(evidence: Evidence) -> Iterator[str]:
    """Fewer were counted than happened, in an entry that several CPUs share."""
    compared = evidence.comparison
    if compared is None or not _are_numbers(compared.left, compared.right) or not compared.left < compared.right:
        return
    arrived = sum(each.received for each in evidence.sendings)
    if compared.right not in (evidence.runs, arrived, sum(each.offered for each in evidence.sendings)):
        return
    for each in evidence.maps:
        if each.accused and each.kind in NOT_ATOMIC and _holds(each, compared.left):
            lost = compared.right - compared.left
            yield (
                f"lost updates: {compared.right:,} frames ran and map {each.name} counted {compared.left:,}, {lost:,} "
                f"too few. All CPUs share an entry of a map of type {each.kind}: add with __sync_fetch_and_add, or "
                f"make it percpu_{each.kind.removeprefix('lru_')}"
            )


def _holds(content: MapContent, number: int) -> bool:
    return any(number == each for _, value in content.entries for each in _numbers(value))


def _byte_order(evidence: Evidence) -> Iterator[str]:
    compared = evidence.comparison
    swapped = _swapped(compared.left, compared.right) if compared is not None else 0
    if compared is not None and swapped:
        yield f"wrong byte order: {compared.left:,} is {compared.right:,} with its {swapped} bytes swapped"
    for each in evidence.maps:
        for key in _expected_keys(evidence, each):
            for there, value in each.entries:
                if swapped := _swapped(there, key):
                    yield (
                        f"wrong byte order: map {each.name} has no entry {key}, but {there}: {_plain(value)}, and "
                        f"{there} is {key} with its {swapped} bytes swapped (bpf_ntohs or bpf_htons is missing)"
                    )


def _expected_keys(evidence: Evidence, content: MapContent) -> Iterator[int]:
    """Keys that were asked for and are not there."""
    if content.accused and isinstance(evidence.missing_key, int):
        yield evidence.missing_key
    for name, lines in evidence.map_differences:
        for line in lines if name == content.name else ():
            first, _, rest = line.partition(" ")
            key = rest.strip().partition(":")[0]
            if first == "missing" and key.isdecimal():
                yield int(key)


def _swapped(one: Any, other: Any) -> int:
    """How many bytes make one number of the other when they are turned round; 0 where none do."""
    if not _are_numbers(one, other) or one == other or min(one, other) < 0:
        return 0
    for width in WIDTHS:
        if max(one, other) >> 8 * width == 0:
            turned = int.from_bytes(one.to_bytes(width, "big"), "little")
            if turned == other and max(one, other) >= SMALLEST:
                return width
    return 0


def _off_by_one(evidence: Evidence) -> Iterator[str]:
    compared = evidence.comparison
    if compared is None:
        return
    left, right = _collection(compared.left), _collection(compared.right)
    if left is None or right is None:
        return
    for more, less, word in ((right, left, "lacks"), (left, right, "has")):
        extra = more - less
        if len(extra) == 1 and not less - more and _ends(more, *extra):
            (edge,) = extra
            side = "first" if edge == min(more) else "last"
            yield (
                f"off by one: what is compared {word} {edge}{'' if word == 'lacks' else ' too much'}, the {side} of "
                f"{min(more)} to {max(more)}: look at < and <= at that end of the range"
            )


def _ends(numbers: set[int], edge: int) -> bool:
    """An end of a row of consecutive numbers, three at least."""
    consecutive = len(numbers) > 2 and max(numbers) - min(numbers) == len(numbers) - 1
    return consecutive and edge in (min(numbers), max(numbers))


def _collection(value: Any) -> set[int] | None:
    if isinstance(value, Mapping):
        value = [key for key, there in value.items() if there]
    if not isinstance(value, set | frozenset | list | tuple | range):
        return None
    return set(value) if all(isinstance(each, int) for each in value) else None


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(each, int) and not isinstance(each, bool) for each in values)


def _numbers(value: Any) -> list[int]:
    if isinstance(value, tuple | list):
        return [number for each in value for number in _numbers(each)]
    return [value] if isinstance(value, int) else []


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
