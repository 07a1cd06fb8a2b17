"""Capacity: only sessions that are found afterwards count, and a full table is seen for what it does."""

from __future__ import annotations

from pathlib import Path as File

import pytest

from lab import Mode, Topology
from lab.bench.bench import Bench
from lab.bench.path import Path
from lab.bpf.loader import Loader
from lab.errors import MeasurementError
from lab.model.journal import journal
from lab.traffic import frames

PAIR = Topology.pair("client", "server")
PATH = Path(PAIR, source="client/eth0", at="server/eth0", sink="server/eth0", mode=Mode.NATIVE)
FRAME = frames.udp(PAIR, "client", "server", dst_port=9, payload=bytes(18))
SESSIONS = File(__file__).parents[1] / "bpf" / "sessions.bpf.c"
pytestmark = pytest.mark.needs("live_frames")


def test_sessions_are_opened_counted_and_refused(bpf: Loader, bench: Bench) -> None:
    """A plain hash map holds what it has room for: all old entries stay, and each new session is refused."""
    program = bpf.load(SESSIONS, program="refuse", max_entries={"refusing": 50_000})
    refused = program.globals
    found = bench.capacity(
        program, PATH, FRAME, held="refusing", sessions=50_000, counters=lambda: {"refused": refused["refused"]}
    )
    assert found.held.entries == found.held.entries_full == found.held.room == 50_000
    assert "50,000 of the 50,000 entries from before are still there" in found.held.remarks
    assert "counted meanwhile: refused 5,000" in found.held.remarks
    assert found.opened.p50 > 10_000
    assert sum(found.opened.trials[0].facts["offered"]) == 50_000
    assert found.held.trials[0].facts["memory_bytes"]["refusing"] > 50_000 * 16


def test_a_table_that_forgets_says_how_many(bpf: Loader, bench: Bench) -> None:
    """An LRU map takes every new session, and no more than its size are there; the rest of the old are gone."""
    program = bpf.load(SESSIONS, program="forget", max_entries={"forgetting": 20_000})
    found = bench.capacity(program, PATH, FRAME, held="forgetting", sessions=10_000, room=20_000)
    assert found.held.entries == 10_000
    assert found.held.entries_full <= 20_000
    assert program.globals["opened"] == 22_000
    (kept,) = (remark for remark in found.held.remarks if remark.endswith("entries from before are still there"))
    assert int(kept.split(" of ")[0].replace(",", "")) < 10_000


def test_sessions_in_an_array_are_its_entries_that_are_not_zero(bpf: Loader, bench: Bench) -> None:
    """An array has always all of its entries, so those count that the program wrote; nothing is said of old ones."""
    program = bpf.load(SESSIONS, program="list", max_entries={"listed": 8192})
    found = bench.capacity(program, PATH, FRAME, held="listed", sessions=1000, room=1)
    assert found.held.entries == 1000
    assert not any("still there" in remark for remark in found.held.remarks)


def test_sessions_may_be_counted_by_a_function(bpf: Loader, bench: Bench) -> None:
    """Where sessions are in no map by themselves, the caller tells how many there are; both figures are noted."""
    program = bpf.load(SESSIONS, program="forget")
    with journal() as kept:
        found = bench.capacity(program, PATH, FRAME, held=lambda: program.globals["opened"], sessions=3000)
    assert found.held.entries == 3000
    assert "room" not in found.held.summary
    assert [each["metric"] for each in kept.of("measurement")] == ["sessions_opened", "sessions_held"]


def test_no_session_is_no_capacity(bpf: Loader, bench: Bench) -> None:
    """Frames that open nothing in the named map give no figure."""
    program = bpf.load(SESSIONS, program="forget")
    with pytest.raises(MeasurementError, match="of 1,000 sessions offered none is held"):
        bench.capacity(program, PATH, FRAME, held="refusing", sessions=1000)
