"""What monitor_traffic saw, period by period, in one SQLite file: bounded by age and size, and safe to kill.

One connection writes and reads. A period is one transaction in WAL mode: a process that is killed loses the period it
was in, and no more. What cannot be written is said in one sentence (`trouble`), counted, and tried again with the
next period: the monitor goes on.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

SCHEMA = 1
"""PRAGMA user_version; a file of another one is left alone."""
APPLICATION = 0x62706D74
"""PRAGMA application_id: "bpmt", so that nobody's own database is written to."""
FLOWS_A_PERIOD, PORTS_A_PERIOD = 200, 100
"""Rows of those that moved most bytes."""
SHARE_CUT = 0.1
"""Of the periods, the oldest go when the file is too large."""
BUSY_S = 0.2
PATIENCE_S, LOOKED_AT = 0.5, 10_000
"""A question takes no longer, because the next period waits for it; SQLite's steps between two looks at the clock."""
PAGES_CHECKPOINTED = 256
"""The log beside the file is some 1 MB, and is cut back to that."""
MOST_ROWS = 10_000
"""That one question is answered with."""
TABLES = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, at REAL NOT NULL, process INTEGER NOT NULL, interfaces TEXT NOT NULL);
CREATE TABLE periods (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, at REAL NOT NULL, seconds REAL NOT NULL, flows INTEGER NOT NULL,
    packets INTEGER NOT NULL, bytes INTEGER NOT NULL, retransmits INTEGER NOT NULL, opened INTEGER NOT NULL,
    connected INTEGER NOT NULL, accepted INTEGER NOT NULL, failed INTEGER NOT NULL, closed INTEGER NOT NULL);
CREATE INDEX periods_at ON periods (at);
CREATE TABLE flows (
    period INTEGER NOT NULL REFERENCES periods ON DELETE CASCADE, protocol TEXT NOT NULL, opener TEXT NOT NULL,
    opener_port INTEGER NOT NULL, answerer TEXT NOT NULL, answerer_port INTEGER NOT NULL, state TEXT NOT NULL,
    packets_out INTEGER NOT NULL, bytes_out INTEGER NOT NULL, packets_in INTEGER NOT NULL, bytes_in INTEGER NOT NULL,
    retransmits INTEGER NOT NULL, rtt_us INTEGER NOT NULL, process TEXT NOT NULL);
CREATE INDEX flows_period ON flows (period);
CREATE TABLE ports (
    period INTEGER NOT NULL REFERENCES periods ON DELETE CASCADE, protocol TEXT NOT NULL, port INTEGER NOT NULL,
    packets_in INTEGER NOT NULL, bytes_in INTEGER NOT NULL, packets_out INTEGER NOT NULL, bytes_out INTEGER NOT NULL);
CREATE INDEX ports_period ON ports (period);
CREATE TABLE events (
    period INTEGER NOT NULL REFERENCES periods ON DELETE CASCADE, at REAL NOT NULL, kind TEXT NOT NULL,
    local TEXT NOT NULL, remote TEXT NOT NULL, process INTEGER NOT NULL, name TEXT NOT NULL, srtt_us INTEGER NOT NULL,
    retransmits INTEGER NOT NULL, duration_s REAL NOT NULL);
CREATE INDEX events_period ON events (period);
CREATE TABLE alerts (
    period INTEGER NOT NULL REFERENCES periods ON DELETE CASCADE, at REAL NOT NULL, rule TEXT NOT NULL,
    subject TEXT NOT NULL, value REAL NOT NULL, evidence TEXT NOT NULL, over INTEGER NOT NULL);
CREATE INDEX alerts_period ON alerts (period);
"""
ASKED = {
    "periods": "SELECT * FROM periods WHERE at BETWEEN :since AND :until ORDER BY at DESC",
    "flows": "SELECT periods.at, periods.seconds, flows.* FROM flows JOIN periods ON periods.id = period "
    "WHERE periods.at BETWEEN :since AND :until AND (:address = '' OR :address IN (opener, answerer)) "
    "AND (:port = 0 OR :port IN (opener_port, answerer_port)) ORDER BY periods.at DESC, bytes_out + bytes_in DESC",
    "ports": "SELECT periods.at, periods.seconds, ports.* FROM ports JOIN periods ON periods.id = period "
    "WHERE periods.at BETWEEN :since AND :until AND (:port = 0 OR :port = port) "
    "ORDER BY periods.at DESC, bytes_in + bytes_out DESC",
    "events": "SELECT events.* FROM events JOIN periods ON periods.id = period "
    "WHERE periods.at BETWEEN :since AND :until ORDER BY periods.at DESC, events.at DESC",
    "alerts": "SELECT alerts.* FROM alerts JOIN periods ON periods.id = period "
    "WHERE periods.at BETWEEN :since AND :until ORDER BY periods.at DESC, alerts.at DESC",
}
"""What may be asked for, the latest first."""


class History:
    """A file of periods; `keep` adds one. A context manager.

    `age_s` and `size_bytes` bound it. Nothing that is wrong with the file raises: `trouble` says it.
    """

    def __init__(self, path: Path, *, age_s: float, size_bytes: int, interfaces: Sequence[str] = ()) -> None:
        self.path, self.trouble = path, ""
        self.kept = self.lost = 0
        """Periods since it was opened."""
        self._age_s, self._size_bytes, self._interfaces = age_s, size_bytes, interfaces
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._run = 0
        with self._lock, self._troubled():
            self._open()

    @property
    def bytes(self) -> int:
        """The file's, and its log's."""
        sizes = (Path(f"{self.path}{end}") for end in ("", "-wal"))
        return sum(each.stat().st_size for each in sizes if each.exists())

    def keep(self, sample: Any, changed: Iterable[Any] = ()) -> None:
        """A period, and the alerts that it changed, in one transaction."""
        with self._lock:
            self.lost += 1
            with self._troubled():
                self._write(sample, changed)
                self.kept, self.lost, self.trouble = self.kept + 1, self.lost - 1, ""
            if self.trouble:
                self._hang_up()

    def ask(self, what: str, *, since: float, until: float, limit: int, address: str = "", port: int = 0) -> list[Any]:
        """Rows of ASKED as dicts, the latest first; sqlite3.Error where it cannot be read, or takes too long."""
        asked = {"since": since, "until": until, "address": address, "port": port, "limit": min(limit, MOST_ROWS)}
        with self._lock:
            if self._connection is None:
                raise sqlite3.OperationalError(self.trouble or "the history is closed")
            late = time.monotonic() + PATIENCE_S
            self._connection.set_progress_handler(lambda: time.monotonic() > late, LOOKED_AT)
            try:
                found = self._connection.execute(f"{ASKED[what]} LIMIT :limit", asked)
                names = [column[0] for column in found.description]
                return [dict(zip(names, row, strict=True)) for row in found]
            finally:
                self._connection.set_progress_handler(None, 0)

    def close(self) -> None:
        """Puts the log into the file, where that can be done."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with self._troubled():
                    connection.close()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- The file ----

    @contextmanager
    def _troubled(self) -> Iterator[None]:
        """One sentence for whatever is wrong with the file or its disk."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self.trouble = f"history in {self.path}: {why}; not recorded, will be tried again"

    def _open(self) -> None:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # who talks to whom is private
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version, application = (_pragma(connection, name) for name in ("user_version", "application_id"))
        if not version and not application and not _pragma(connection, "schema_version"):
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        elif application != APPLICATION:
            raise sqlite3.DatabaseError("it is a database of something else")
        elif version != SCHEMA:
            raise sqlite3.DatabaseError(f"its schema is version {version}, and this monitor writes version {SCHEMA}")
        for setting in (
            "journal_mode = WAL",
            "synchronous = NORMAL",
            "foreign_keys = ON",
            f"wal_autocheckpoint = {PAGES_CHECKPOINTED}",
            f"journal_size_limit = {PAGES_CHECKPOINTED * 4096}",
        ):
            connection.execute(f"PRAGMA {setting}")
        if not version:
            connection.executescript(
                f"BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; COMMIT;"
            )
        started = connection.execute(
            "INSERT INTO runs (at, process, interfaces) VALUES (?, ?, ?)",
            (time.time(), os.getpid(), " ".join(self._interfaces)),
        )
        self._run = started.lastrowid or 0

    def _hang_up(self) -> None:
        """After a failure, which has been said: rolls back, and lets go of what may have gone bad."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    # ---- A period ----

    def _write(self, sample: Any, changed: Iterable[Any]) -> None:
        if self._connection is None:
            self._open()
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        period = self._add_period(connection, sample)
        _add(connection, "flows", ((period, *_flow_values(each)) for each in _moved(sample.flows.top(FLOWS_A_PERIOD))))
        _add(connection, "ports", ((period, *_port_values(each)) for each in _moved(sample.ports.top(PORTS_A_PERIOD))))
        booted = sample.at - time.monotonic()
        _add(connection, "events", ((period, *_event_values(each, booted)) for each in sample.events))
        _add(connection, "alerts", ((period, *_alert_values(each, sample.at)) for each in changed))
        connection.execute("DELETE FROM periods WHERE at < ?", (sample.at - self._age_s,))
        connection.execute("COMMIT")
        self._bound(connection)

    def _add_period(self, connection: sqlite3.Connection, sample: Any) -> int:
        grown = sample.grown
        numbers = (len(sample.flows), int(sample.flows.packets.sum()), int(sample.flows.bytes.sum()))
        names = ("SEGMENT_RETRANSMITTED", "FLOW_OPENED", "CONNECTED", "ACCEPTED", "FAILED", "CLOSED")
        values = (self._run, sample.at, sample.seconds, *numbers, *(grown[name] for name in names))
        added = connection.execute(f"INSERT INTO periods VALUES (NULL{', ?' * len(values)})", values)
        return added.lastrowid or 0

    def _bound(self, connection: sqlite3.Connection) -> None:
        """The oldest periods go until what is in use is small enough; a file that is too large is cut."""
        most = self._size_bytes // _pragma(connection, "page_size")
        while _pragma(connection, "page_count") - _pragma(connection, "freelist_count") > most:
            (periods,) = connection.execute("SELECT count(*) FROM periods").fetchone()
            if periods <= 1:
                break
            connection.execute(
                "DELETE FROM periods WHERE id IN (SELECT id FROM periods ORDER BY at LIMIT ?)",
                (max(1, int(periods * SHARE_CUT)),),
            )
        if _pragma(connection, "page_count") > most:
            with closing(connection.execute("PRAGMA incremental_vacuum")) as vacuum:
                vacuum.fetchall()


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _add(connection: sqlite3.Connection, table: str, values: Iterable[tuple[Any, ...]]) -> None:
    every = list(values)
    if every:
        connection.executemany(f"INSERT INTO {table} VALUES (?{', ?' * (len(every[0]) - 1)})", every)


def _moved(found: Iterable[Any]) -> Iterator[Any]:
    return (each for each in found if each.bytes_in or each.bytes_out)


def _flow_values(row: Any) -> tuple[Any, ...]:
    opener, answerer = row.flow.opener, row.flow.answerer
    ends = (opener.address, opener.port, answerer.address, answerer.port)
    numbers = (row.packets_out, row.bytes_out, row.packets_in, row.bytes_in, row.retransmits)
    return (row.flow.protocol, *ends, row.flow.state, *numbers, row.flow.rtt_us, row.process)


def _port_values(row: Any) -> tuple[Any, ...]:
    numbers = (row.packets_in, row.bytes_in, row.packets_out, row.bytes_out)
    return (row.port.protocol, row.port.number, *numbers)


def _event_values(event: Any, booted: float) -> tuple[Any, ...]:
    at, ends = booted + event.at_ns / 1e9, (event.local, event.remote)
    numbers = (event.srtt_us, event.retransmits, event.duration_ns / 1e9)
    return (at, event.kind, *ends, event.process, event.name, *numbers)


def _alert_values(alert: Any, at: float) -> tuple[Any, ...]:
    return (at, alert.rule.name, alert.subject, alert.value, alert.evidence, int(alert.ended is not None))
