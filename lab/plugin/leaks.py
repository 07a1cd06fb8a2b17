"""After each test: what it opened and did not give back, and who opened it.

A test that passed must leave this process as it found it: descriptors (files, sockets, programs, maps, attachments,
namespaces), threads, children, the namespace and the cgroup that it is in, and, coarsely, its memory. What fixtures
of a module or a session open is theirs until their scope ends, and so is what a test adds to them (a reader of a
module's ring buffer). What is left while the lab still closes things in the background is judged after a later test,
by its own name. Of a failed test nothing is asked: its traceback holds what it held.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Generator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pytest

from lab.errors import LeakError
from lab.kernel import belongings, closing
from lab.kernel.belongings import Thing
from lab.plugin.uses import fixtures_of

SETTLED_WITHIN_S = 1.0
"""A process that was killed, a thread that was told to end: they need a moment."""
MEMORY_BYTES = 256 << 20
"""Coarse: the first use of a compiler's library takes a hundred."""
OF_THE_LAB = ("lab-closer", "lab-spawner")
"""Threads that live as long as the process, once they are needed."""

Left = dict[Thing, str]
"""What was left, and that in words: with the kernel's ids, which tell it from a later one of the same number."""


@dataclass(frozen=True)
class Late:
    """What was there after a test or a scope, and what the lab had yet to close then."""

    by: str
    left: Left
    closing: frozenset[Future[object]]


class Leaks:
    """Looks before and after each test."""

    def __init__(self, *, every: bool) -> None:
        self._every = every
        """All tests, or those alone that use a fixture of the lab."""
        self._before: frozenset[Thing] | None = None
        self._memory_bytes = 0
        self._to_judge = False
        self._serving: dict[str, str] = {}
        """Longer-lived fixtures of the project by name, and the node at whose end they end."""
        self._adopted: dict[Thing, tuple[str, str]] = {}
        """What longer-lived fixtures opened: the node at whose end it must be gone, and who opened it."""
        self._late: list[Late] = []
        self._overdue: list[Late] = []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Before anything of the test is there."""
        self._before = None
        if self._every or fixtures_of(item):
            self._look_at_late()
            self._before, self._memory_bytes = belongings.now(), belongings.memory_bytes()
            self._to_judge = True
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """What a fixture opens that serves more than one test is not the test's."""
        if fixturedef.scope == "function":
            return (yield)
        if not str(fixturedef.func.__module__).startswith("_pytest."):
            self._serving[fixturedef.argname] = request.node.nodeid
        if self._before is None:
            return (yield)
        before = belongings.now()
        try:
            return (yield)
        finally:
            owner, by = request.node.nodeid, f"fixture {fixturedef.argname} of {request.node.nodeid or 'the session'}"
            self._adopted.update(dict.fromkeys(belongings.now() - before, (owner, by)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """One that failed, or was skipped half-way, holds what its traceback holds."""
        report = yield
        self._to_judge &= report.passed and not hasattr(report, "wasxfail")
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Behind the end of every fixture; a leak is an error of the test's teardown."""
        result = yield
        before, self._before = self._before, None
        alive = {node.nodeid for node in nextitem.listchain()} if nextitem else set()
        self._end_scopes(alive)
        if before is not None and self._to_judge:
            self._judge(item, *self._left(before))
        if nextitem is None and self._late:  # nothing comes in which to look again
            wait(closing.pending(), SETTLED_WITHIN_S)
            self._look_at_late()
        overdue, self._overdue = self._overdue, []
        if overdue:
            raise LeakError(_sentence(overdue), mend="close it where it is opened: `with`, or a fixture")
        if before is not None and self._to_judge:
            self._check_memory(item.nodeid)
        return result

    def _judge(self, item: pytest.Item, left: Left, under_way: frozenset[Future[object]]) -> None:
        """Whose it is: a longer-lived fixture's, or perhaps the background's, or else it was leaked.

        A fixture that the test uses may have opened nothing before (a pool starts its threads when it has work).
        """
        owners = {owner for owner, _ in self._adopted.values()}
        owners.update(self._serving[name] for name in getattr(item, "fixturenames", ()) if name in self._serving)
        if left and owners:
            self._adopted.update(dict.fromkeys(left, (max(owners, key=len), item.nodeid)))
        elif left and under_way:
            self._late.append(Late(item.nodeid, left, under_way))
        elif left:
            self._overdue.append(Late(item.nodeid, left, frozenset()))

    def _left(self, before: frozenset[Thing]) -> tuple[Left, frozenset[Future[object]]]:
        """What is there now and was not, looked at again for a while; and what the lab was closing just before."""
        deadline = time.monotonic() + SETTLED_WITHIN_S
        collected = False
        while True:
            under_way = closing.pending()
            left = [each for each in belongings.now() - before - self._adopted.keys() if not _stays(each)]
            if not left or under_way or time.monotonic() > deadline:
                return {each: str(each) for each in left}, under_way
            if not collected:
                gc.collect()  # what only a cycle of references holds is no leak yet
                collected = True
            time.sleep(0.005)

    def _end_scopes(self, alive: set[str]) -> None:
        """Fixtures that do not serve the next test have ended: what they opened must be gone, at the next look."""
        self._serving = {name: owner for name, owner in self._serving.items() if owner in alive}
        ended = [(by, each) for each, (owner, by) in self._adopted.items() if owner not in alive]
        self._adopted = {each: about for each, about in self._adopted.items() if about[0] in alive}
        under_way = closing.pending()
        there = belongings.now() if ended else frozenset()
        for by, group in groupby(sorted(ended), key=lambda each: each[0]):
            left = {each: str(each) for _, each in group if each in there}
            self._late.append(Late(by, left, under_way))

    def _look_at_late(self) -> None:
        """Once the lab has closed what it had to: what is there behind that, of an earlier test, was leaked by it.

        Not while it closes something: a thread that does holds descriptors for a moment, of the same names.
        """
        if not self._late or closing.pending():
            return
        closed = [late for late in self._late if all(job.done() for job in late.closing)]
        self._late = [late for late in self._late if late not in closed]
        there = belongings.now() if closed else frozenset()
        for late in closed:
            left = {each: words for each, words in late.left.items() if each in there and str(each) == words}
            if left:
                self._overdue.append(Late(late.by, left, frozenset()))

    def _check_memory(self, nodeid: str) -> None:
        if belongings.memory_bytes() - self._memory_bytes < MEMORY_BYTES:
            return
        gc.collect()
        grown = belongings.memory_bytes() - self._memory_bytes
        if grown >= MEMORY_BYTES:
            raise LeakError(f"{nodeid}: this process grew by {grown >> 20} MiB", mend="what keeps so much? tracemalloc")


def _stays(thing: Thing) -> bool:
    """Also the processes that multiprocessing starts once and keeps, with the pipe to each."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    if thing.kind == "thread":
        return thing.name.startswith(OF_THE_LAB)
    if thing.kind == "process":
        return thing.number in (getattr(tracker, "_pid", None), getattr(server, "_forkserver_pid", None))
    pipes = (getattr(tracker, "_fd", None), getattr(server, "_forkserver_alive_fd", None))
    return thing.kind == "descriptor" and thing.number in pipes


def _sentence(overdue: list[Late]) -> str:
    lines = []
    for late in overdue:
        count = len(late.left)
        lines += [f"{late.by} left {count} thing{'s' * (count != 1)} behind", *_by_origin(late.left)]
    return "\n".join(lines)


def _by_origin(things: Left) -> list[str]:
    """An object's program and maps are made at one place: that is said once."""
    places: dict[str, list[str]] = {}
    for each, words in things.items():
        places.setdefault(each.origin, []).append(words)
    lines = []
    for place, every in places.items():
        lines += sorted(every) + (["  opened", place] if place else [])
    return lines
