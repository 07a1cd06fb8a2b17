"""`--keep-on-failure`: the network of a failed test stays up, with what is attached there, for a person to see."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from lab.errors import TrafficError
from lab.model import aftermath
from lab.net.network import Network

MOST = 5
SECTION = "the network is kept"


class Keeping:
    """Keeps the networks of the first failures of this process; further ones are taken down as always.

    A failure is what an assertion, pytest.fail or lost traffic raises. Where a test expects one of these
    (`pytest.raises`), the `with` blocks inside stay open until the test ends.
    """

    def __init__(self) -> None:
        self._made = 0
        self._told = 0
        aftermath.want(AssertionError, pytest.fail.Exception, TrafficError)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Between the failure and the teardown of the fixtures; what a passed test left open is closed."""
        report = yield
        if report.when == "call":
            left = aftermath.left()
            networks = dict.fromkeys(_networks(item, left)) if report.failed and self._made < MOST else {}
            for network in networks:
                self._keep(item.nodeid, network, report)
            if not networks:
                for each in left:
                    each.end()
        return report

    def _keep(self, title: str, network: Network, report: pytest.TestReport) -> None:
        from lab.keep.kept import keep

        kept = keep(title, network)
        network.abandon()
        self._made += 1
        report.sections.append((SECTION, f"lab show {kept.name}\nlab shell {kept.name} {next(iter(kept.namespaces))}"))
        if self._made == MOST:
            aftermath.want()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Under pytest-xdist the networks were kept in the workers."""
        self._told += sum(name == SECTION for name, _ in report.sections)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """How to look, and how to end it."""
        if self._told:
            what = "1 network is kept" if self._told == 1 else f"{self._told} networks are kept"
            terminalreporter.write_line(
                f"bpflab: {what}: `lab show`, `lab shell`, and `lab down` when you have seen it"
            )


def _networks(item: pytest.Item, left: list[aftermath.Left]) -> Iterator[Network]:
    """The fixture's, and those that the test brought up itself; what is left of an expected failure is down already."""
    values = [*getattr(item, "funcargs", {}).values(), *(each.thing for each in left)]
    for each in values:
        if isinstance(each, Network) and each.namespaces and each.here == each.namespaces:  # on a cable it cannot stay
            yield each
