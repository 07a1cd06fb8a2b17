"""Ring buffers and perf buffers; tests/bpf/events.bpf.c sends one event of each for a frame."""

from __future__ import annotations

import os
import threading

import pytest

from lab.errors import MapError, WaitTimeout

FRAME = b"\x12\x34" + bytes(58)


@pytest.fixture
def program(bpf):
    return bpf.load("events").programs["send_events"]


def test_events_are_structs_named_after_their_map(program):
    """events holds struct event; wire order is converted; order is kept."""
    for _ in range(3):
        program.run(FRAME)
    events = program.maps["events"].events(count=3)
    assert [event.number for event in events] == [1, 2, 3]
    assert events[0] == {"number": 1, "first_bytes": 0x1234, "rest": bytes(4)}


def test_a_struct_can_be_named_and_without_one_events_are_bytes(program):
    """records holds struct other_record, which no rule could find."""
    program.run(FRAME)
    assert program.maps["records"].events("other_record", count=1)[0].twice == 2
    assert program.maps["untyped"].events() == [(1).to_bytes(4, "little")]
    with pytest.raises(MapError, match="no struct event_of_mine") as caught:
        program.maps["events"].events("event_of_mine")
    assert "const struct event_of_mine *unused" in caught.value.mend


def test_an_event_shorter_than_its_struct_is_refused(program):
    """Four bytes are no struct other_record."""
    program.run(FRAME)
    with pytest.raises(MapError, match="4 bytes are no struct other_record of 8"):
        program.maps["untyped"].events("other_record")


def test_what_was_not_asked_for_waits(program):
    """Two of five, then the rest."""
    for _ in range(5):
        program.run(FRAME)
    events = program.maps["events"]
    assert [event.number for event in events.events(count=2)] == [1, 2]
    assert [event.number for event in events.events()] == [3, 4, 5]
    assert events.drain() == []


def test_events_are_waited_for(program):
    """A reader that comes first gets the event that is sent later, also one without a wake-up."""
    later = threading.Timer(0.05, program.run, [FRAME])
    later.start()
    try:
        assert program.maps["events"].events(count=1, within_s=10)[0].number == 1
    finally:
        later.join()


def test_too_few_events_are_an_error_that_shows_those_that_came(program):
    """And they are not lost."""
    program.run(FRAME)
    events = program.maps["events"]
    with pytest.raises(WaitTimeout, match=r"2 events of events; 1 came: event\(number=1"):
        events.events(count=2, within_s=0.01)
    assert events.drain()[0].number == 1
    with pytest.raises(WaitTimeout, match="1 event of events; 0 came"):
        events.events(within_s=0)


def test_a_full_ring_buffer_refuses_and_the_program_knows(program):
    """4,096 bytes hold 170 events of 16 + 8 bytes; the program counts the others."""
    for _ in range(200):
        program.run(FRAME)
    got = len(program.maps["events"].drain())
    assert got + program.globals["refused"] == 200
    assert program.globals["refused"] > 0


@pytest.fixture
def one_cpu():
    """A perf buffer belongs to a CPU, and so do its losses."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_perf_events_are_read_and_losses_are_counted(program, one_cpu):
    """What comes after listen() is there; what does not fit is counted."""
    perf = program.maps["perf_events"]
    program.run(FRAME)
    perf.listen()
    program.run(FRAME)
    assert [event.number for event in perf.events("event", count=1)] == [2]
    assert perf.lost == 0
    program.run(FRAME, repeat=60_000)
    got = len(perf.drain("event"))
    program.run(FRAME)  # the kernel reports a loss with the next event that fits
    got += len(perf.drain("event"))
    assert got + perf.lost == 60_001
    assert perf.lost > 0


def test_a_closed_buffer_is_an_error(bpf):
    """Its memory is gone."""
    program = bpf.load("events")
    events = program.maps["events"]
    events.listen()
    program.close()
    with pytest.raises(MapError, match="its program is closed"):
        events.drain()
