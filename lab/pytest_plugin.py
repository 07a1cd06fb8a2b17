"""The pytest plugin: fixtures `net`, `bpf` and `bench`, the journal of each test, and the stored run.

Loaded by itself through the entry point pytest11. A session that uses none of it pays 30 ms for 300 tests: every room
is imported by the fixture that needs it, and who looks on is registered when a collected test uses the lab.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.errors import LabError, NeedsRoot, VerifierError
from lab.model.journal import journal, note
from lab.plugin.journal import give_journal, journal_of
from lab.plugin.uses import fixtures_of, knows_the_lab

if TYPE_CHECKING:
    from lab.bench.bench import Bench
    from lab.bpf.loader import Loader
    from lab.net.topology import Topology
    from lab.traffic.network import Network

FOLDERS = frozenset({"scenarios", "benchmarks", "examples"})
NEEDS = "needs(feature, ...): skip, with the reason, where the kernel lacks one of them"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the stored runs go."""
    group = parser.getgroup("bpflab", "bpflab: eBPF network programs")
    group.addoption("--lab-runs", metavar="DIR", help="store the run here (default: reports/runs of the project)")
    group.addoption("--no-lab-run", action="store_true", help="store no run")
    group.addoption("--lab-tell", metavar="FD", type=int, help="write `<outcome> <test>` here for each that ended")
    group.addoption("--keep-on-failure", action="store_true", help="keep the networks of failed tests up: `lab show`")
    which = ("off", "lab", "all")
    words = "after which tests to look for what they left open: none, those with a fixture of the lab (default), all"
    group.addoption("--lab-leaks", choices=which, default="lab", help=words)
    words = "every pair of namespaces on two hosts: eth1 here, eth2 of another that ssh reaches (docs/two-hosts.md)"
    group.addoption("--physical", metavar="eth1,ssh:HOST/eth2", help=words)
    group.addoption("--lab-blind", action="store_true", help="run each scenario with its programs blind: `lab blind`")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers; the process that prints also gathers the results."""
    config.addinivalue_line("markers", "topology(topology): bring up this one for `net`, not the module's TOPOLOGY")
    config.addinivalue_line("markers", "blind(reason): why `lab blind` may find it green though its program is blind")
    config.addinivalue_line("markers", NEEDS)
    if config.getoption("--keep-on-failure"):
        from lab.plugin.keep import Keeping

        config.pluginmanager.register(Keeping(), "bpflab-keeping")
    if config.getoption("--physical"):
        from lab.plugin import physical

        physical.register(config)
    if config.getoption("--lab-blind"):
        from lab.plugin.blind import Blind

        config.pluginmanager.register(Blind(), "bpflab-blind")
    if os.environ.get("LAB_VM") or config.getoption("tx", None) or config.getoption("--lab-tell") is not None:
        from lab.plugin import machine

        machine.register(config)
    if os.environ.get("LAB_HOST") or config.getoption("tx", None):
        from lab.plugin import host

        host.register(config)
    if not hasattr(config, "workerinput") and not config.getoption("--no-lab-run"):
        from lab.plugin.gatherer import Gatherer

        config.pluginmanager.register(Gatherer(config), "bpflab-gatherer")


@pytest.fixture
def net(request: pytest.FixtureRequest) -> Iterator[Network]:
    """The module's TOPOLOGY (or the marker's), up; gone when the test ends."""
    topology = _topology(request)
    from lab.traffic.network import Network

    with Network(topology) as network:
        yield network


@pytest.fixture
def bpf(request: pytest.FixtureRequest) -> Iterator[Loader]:
    """`bpf.load(stem_or_path, **knobs)`; everything loaded is closed when the test ends."""
    from lab.bpf.loader import Loader

    with Loader(near=request.path.parent) as loader:
        yield loader


@pytest.fixture
def bench() -> Bench:
    """`bench.added_latency`, `bench.rate`, `bench.cost`: measurements that are stored with the run."""
    from lab.bench.bench import Bench

    return Bench()


def _topology(request: pytest.FixtureRequest) -> Topology:
    from lab.net.topology import Topology

    marker = request.node.get_closest_marker("topology")
    topology = marker.args[0] if marker and marker.args else getattr(request.module, "TOPOLOGY", None)
    if not isinstance(topology, Topology):
        raise LabError(
            f"bring up `net` for {request.node.name}: {request.path.name} describes no topology",
            mend='TOPOLOGY = Topology.pair("client", "server") at its top, or @pytest.mark.topology(...)',
        )
    return topology


def pytest_collection_finish(session: pytest.Session) -> None:
    """Who looks on while tests run is registered where there is something to see.

    Without its capabilities nothing here can work: one sentence now is better than an error in each test. Where other
    tests are collected too they run. A worker of pytest-xdist that exits is a crash to pytest-xdist.
    """
    _register_lookers(session.config, used=any(map(fixtures_of, session.items)))
    if session.config.option.collectonly or hasattr(session.config, "workerinput"):
        return
    if session.items and all(map(fixtures_of, session.items)) and (error := _lacks_rights(session.items[0])):
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


def _register_lookers(config: pytest.Config, *, used: bool) -> None:
    leaks, plugins = config.getoption("--lab-leaks"), config.pluginmanager
    if (leaks == "all" or (used and leaks == "lab")) and not plugins.has_plugin("bpflab-leaks"):
        from lab.plugin.leaks import Leaks

        plugins.register(Leaks(every=leaks == "all"), "bpflab-leaks")
    if used and not plugins.has_plugin("bpflab-explainer"):
        from lab.plugin.failure import Explainer

        plugins.register(Explainer(), "bpflab-explainer")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what this kernel cannot do; with LAB_STRICT=1 it fails where the kernel is no older than the feature."""
    if fixtures_of(item) and (error := _lacks_rights(item)):
        pytest.fail(str(error), pytrace=False)
    wanted = [name for marker in item.iter_markers("needs") for name in marker.args]
    if not wanted or _is_marker_of_another(item.config):
        return
    from lab import features

    for name in wanted:
        state = features.state(name)
        if not state.there:
            (pytest.fail if features.is_strict() and not state.excused else pytest.skip)(state.sentence)


def _lacks_rights(item: pytest.Item) -> NeedsRoot | None:
    from lab.kernel import capabilities

    if not (lacking := capabilities.lacking()):
        return None
    return NeedsRoot(
        f"run {item.nodeid}: namespaces and BPF programs need root, or {', '.join(lacking)}",
        mend=f"sudo {Path(sys.prefix) / 'bin' / 'pytest'} {' '.join(item.config.args)}",
    )


def _is_marker_of_another(config: pytest.Config) -> bool:
    """Whether the project, or another plugin, has a marker `needs` of its own."""
    lines: list[str] = config.getini("markers")
    return any(re.match(r"needs\b", line) and line != NEEDS for line in lines)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keeps a journal from the first line of setup to the last of teardown."""
    with journal() as kept:
        give_journal(item, kept)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hands the journal to the report of the last phase: it crosses to the controller under pytest-xdist."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, VerifierError):
        note("evidence", {"title": "verifier log", "text": call.excinfo.value.log})
    if about := _about(item):
        notes: dict[str, list[Any]] = {}
        for each in journal_of(item).notes if report.when == "teardown" else ():
            notes.setdefault(each.kind, []).append(dict(each.data))
        vars(report)["lab"] = {"about": about, "notes": notes}  # each phase: a worker that dies sends no teardown
    return report


@cache
def _has_scenarios(project: Path) -> bool:
    return (project / "scenarios").is_dir()


def _about(item: pytest.Item) -> dict[str, str] | None:
    """Kind, program and title of a test whose result is stored; None for the tests of others.

    Those that know the lab, below scenarios/, benchmarks/ and examples/; in a project without scenarios/ (many have
    examples/) those that use a fixture of the lab.
    """
    root = item.config.rootpath
    if _has_scenarios(root):
        inside = not FOLDERS.isdisjoint(item.path.parts[len(root.parts) :])
        if not inside or not knows_the_lab(item):
            return None
    elif not fixtures_of(item):
        return None
    kind, _, stem = item.path.stem.partition("_")
    document = inspect.getdoc(getattr(item, "function", None)) or item.name.replace("_", " ")
    return {
        "kind": "benchmark" if kind == "bench" else "scenario",
        "program": stem,
        "title": " ".join(document.partition("\n\n")[0].split()),
    }
