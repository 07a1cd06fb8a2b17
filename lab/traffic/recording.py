"""What the recorder saw as a pcapng file of all interfaces, with a comment where a frame ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lab.traffic.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW, Packet, pcapng_of
from lab.traffic.recorder import Seen


def recording(interfaces: Sequence[str], seen: Sequence[Seen]) -> bytes:
    """The file; a frame that came to a place and was dropped there is in it once, and the drop is its comment."""
    return b"".join(pcapng_of(interfaces, _packets(seen)))


def _packets(seen: Sequence[Seen]) -> Iterator[Packet]:
    ended = {id(came): drop for came, drop in _ends(seen)}
    told = {id(drop) for drop in ended.values()}
    for each in seen:
        if not each.raw or id(each) in told:
            continue
        end = each if each.kind == "dropped" else ended.get(id(each))
        yield Packet(
            each.interface,
            each.raw,
            each.time_ns,
            outgoing={"sent": True, "received": False}.get(each.kind),
            length=each.length,
            comment=comment(end) if end else "",
            link_type=LINKTYPE_ETHERNET if each.ethernet else LINKTYPE_RAW,
        )


def _ends(seen: Sequence[Seen]) -> Iterator[tuple[Seen, Seen]]:
    """A frame that came to an interface, and its drop there with the same bytes."""
    came: dict[int, Seen] = {}
    for each in seen:
        if each.kind == "received":
            came[each.skb] = each
        elif each.kind == "dropped":
            before = came.pop(each.skb, each)
            if before is not each and (before.interface, before.raw) == (each.interface, each.raw):
                yield before, each


def comment(drop: Seen) -> str:
    """ "last seen here: dropped, UDP_CSUM, in __udp4_lib_rcv"."""
    place = f", in {drop.place}" if drop.place else ""
    return f"last seen here: dropped, {drop.reason or 'no reason given'}{place}"
