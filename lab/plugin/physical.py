"""`--physical eth1,ssh:root@alpha/eth2`: every pair of namespaces is brought up on two hosts, and not on a veth.

What a test wants that two hosts cannot do (a topology of three namespaces, a program at the other end) is a skip with
the reason; with LAB_STRICT=1 it is a failure.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from lab.errors import LabError
from lab.net import cable
from lab.net.cable import Cable, OutOfReach


def register(config: pytest.Config) -> None:
    """Lays the cable for as long as pytest runs; a worker of pytest-xdist gets the option too, and they take turns."""
    if config.getoption("--keep-on-failure"):
        raise pytest.UsageError("--physical with --keep-on-failure: an interface on loan cannot be kept")
    try:
        cable.lay(Cable.of_option(config.getoption("--physical")))
    except LabError as error:
        raise pytest.UsageError(str(error)) from error
    config.add_cleanup(lambda: cable.lay(None))
    config.pluginmanager.register(Physical(), "bpflab-physical")


class Physical:
    """Turns what is out of reach into skips."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self) -> Generator[None, object, object]:
        """Fixtures that bring a network up."""
        with _skipped():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """The test itself."""
        with _skipped():
            return (yield)


@contextmanager
def _skipped() -> Generator[None, None, None]:
    from lab import features

    try:
        yield
    except OutOfReach as error:
        (pytest.fail if features.is_strict() else pytest.skip)(f"not on two hosts: {error.what}")
