"""The journal of each test: from the first line of its setup to the last of its teardown."""

from __future__ import annotations

import pytest

from lab.model.journal import Journal

_key = pytest.StashKey[Journal]()


def give_journal(item: pytest.Item, journal: Journal) -> None:
    """What is noted while the test runs is in this one."""
    item.stash[_key] = journal


def journal_of(item: pytest.Item) -> Journal:
    """That of a test that runs; one that nobody writes where another plugin runs it past pytest's protocol."""
    return item.stash.setdefault(_key, Journal())
