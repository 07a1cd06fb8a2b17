"""The plugin is loaded wherever the lab is installed: sessions that have nothing to do with it notice nothing."""

from __future__ import annotations

import sys

import pytest

pytest_plugins = ["pytester"]

OF_NEURONS = """
import pytest

@pytest.fixture
def net():
    return ["input", "hidden", "output"]

@pytest.fixture
def bench():
    return lambda work: work()

def test_layers(net, bench, request):
    request.addfinalizer(lambda: open(__file__).__enter__())
    assert bench(lambda: len(net)) == 3

@pytest.mark.parametrize("net", ["10.0.0.0/8"])
def test_prefix(net):
    assert net.endswith("/8")
"""


@pytest.fixture
def without_rights(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> None:
    """In the sessions that a test starts."""
    pytester.makeconftest("from lab.kernel import capabilities\ncapabilities.lacking = lambda: ['CAP_NET_ADMIN']")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_fixtures_of_the_same_name_are_left_alone(
    pytester: pytest.Pytester, without_rights: None, workers: str
) -> None:
    """No root is asked for, no leak looked for, no run stored."""
    pytester.makepyfile(OF_NEURONS)
    pytester.runpytest_subprocess("-n", workers).assert_outcomes(passed=2)
    assert not (pytester.path / "reports").exists()


def test_an_override_that_asks_for_the_labs_is_the_labs(pytester: pytest.Pytester, without_rights: None) -> None:
    """A project's `bpf` that changes the lab's needs what the lab's needs."""
    pytester.makepyfile("import pytest\n\n@pytest.fixture\ndef bpf(bpf):\n    return bpf\n\ndef test_it(bpf): pass")
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "namespaces and BPF programs need root, or CAP_NET_ADMIN" in "\n".join(result.outlines + result.errlines)


def test_examples_of_another_project_are_not_stored(pytester: pytest.Pytester) -> None:
    """Folders of these names are everywhere; without scenarios/ beside them only the lab's fixtures count."""
    for name in ("examples", "benchmarks"):
        (pytester.mkdir(name) / f"test_{name}.py").write_text("def test_it(): pass")
    pytester.runpytest_subprocess().assert_outcomes(passed=2)
    assert not (pytester.path / "reports").exists()


def test_scenarios_of_another_project_are_not_stored(pytester: pytest.Pytester) -> None:
    """Others call theirs so too (of behaviour, of load): those that import nothing of the lab leave no file."""
    (pytester.mkdir("scenarios") / "test_login.py").write_text("def test_it(): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*bpflab: run*")
    assert not (pytester.path / "reports").exists()


def test_objects_of_strangers_are_not_asked(pytester: pytest.Pytester) -> None:
    """A proxy that may not be touched outside of its application lies in a module with a fixture `net`."""
    pytester.makepyfile(
        """
        import pytest

        class Proxy:
            def __getattribute__(self, name):
                raise RuntimeError("working outside of the application")

        request = Proxy()

        @pytest.fixture
        def net():
            return 1

        def test_it(net):
            assert net
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_marker_of_the_same_name_is_left_alone(pytester: pytest.Pytester) -> None:
    """A project that describes a marker `needs` has its own."""
    pytester.makeini("[pytest]\nmarkers =\n    needs(device): our own")
    pytester.makepyfile("import pytest\n\n@pytest.mark.needs('gpu')\ndef test_it(): pass")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_without_rights_the_other_tests_run(pytester: pytest.Pytester, without_rights: None, workers: str) -> None:
    """One test that needs root does not end a session of ordinary tests, nor a worker of pytest-xdist."""
    pytester.makepyfile("def test_ordinary(): pass\n\ndef test_needy(net): pass")
    result = pytester.runpytest_subprocess("-n", workers, "--no-lab-run")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*test_needy: namespaces and BPF programs need root, or CAP_NET_ADMIN*"])


def test_tests_that_another_plugin_runs_are_left_alone(pytester: pytest.Pytester) -> None:
    """Some have a loop of their own, in which pytest_runtest_protocol is never called."""
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtestloop(session):
            for item in session.items:
                runtestprotocol(item, nextitem=None)
            return True
        """
    )
    pytester.makepyfile("def test_it(): pass\n\ndef test_fails(): assert 1 == 2")
    pytester.runpytest_subprocess().assert_outcomes(passed=1, failed=1)


def test_what_other_plugins_hold_is_no_leak(pytester: pytest.Pytester) -> None:
    """A watchdog of pytest-timeout begins before the setup of a test and ends behind its teardown."""
    pytester.makeconftest(
        """
        import threading
        import pytest

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtest_protocol(item):
            watchdog = threading.Timer(60, print)
            watchdog.start()
            try:
                return (yield)
            finally:
                watchdog.cancel()
                watchdog.join()
        """
    )
    pytester.makepyfile("def test_one(): pass\n\ndef test_other(): pass\n\ndef test_third(): pass")
    pytester.runpytest_subprocess("--lab-leaks=all").assert_outcomes(passed=3)


def test_nothing_heavy_is_imported(pytester: pytest.Pytester) -> None:
    """A session of others' tests imports no library but pytest because of the plugin."""
    pytester.makepyfile(
        "import sys\n\n"
        "def test_it():\n"
        "    heavy = {'pyroute2', 'scapy', 'numpy', 'scipy', 'rich', 'jinja2'}\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:benchmark", "-p", "no:randomly"]
    pytester.run(*command).assert_outcomes(passed=1)
