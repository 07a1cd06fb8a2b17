"""`lab doctor` says what is there, what is missing, what that costs and how to mend it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.cli import run
from lab.doctor import machine
from lab.doctor.check import Check
from lab.doctor.examination import Examination
from lab.doctor.scenarios import Scenario, scenarios_in

MODULE = """
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.needs("tcx")]

@pytest.mark.needs("fentry", "kprobe")
@pytest.mark.parametrize("n", [1, 2])
def test_traced(net, n): ...

def test_plain(net): ...

def helper(): ...

@pytest.mark.needs("netkit")
class TestNetkit:
    pytestmark = pytest.mark.needs("tcx")

    def test_inside(self): ...
"""


REPOSITORY = Path(__file__).parents[2]


def examined() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "lab.cli", "doctor", "--json"], capture_output=True, text=True)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def examination(*checks: Check, features: tuple[Check, ...] = (), scenarios: tuple[Scenario, ...] = ()) -> Examination:
    return Examination({}, checks, features, scenarios)


def test_needs_are_read_from_functions_classes_and_modules(tmp_path: Path) -> None:
    """Markers of a function, its class and its module add up; what is no test is no scenario."""
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "test_hooks.py").write_text(MODULE)

    assert scenarios_in(folder) == [
        Scenario("scenarios/test_hooks.py::test_traced", ("tcx", "fentry", "kprobe")),
        Scenario("scenarios/test_hooks.py::test_plain", ("tcx",)),
        Scenario("scenarios/test_hooks.py::TestNetkit::test_inside", ("tcx", "netkit")),
    ]


def test_a_file_that_does_not_parse_costs_only_itself(tmp_path: Path) -> None:
    """A broken neighbour, or one that would fail on import, hides no scenario."""
    (tmp_path / "test_broken.py").write_text("def test_(:")
    (tmp_path / "test_sound.py").write_text("import nonexistent\ndef test_it(): ...")

    assert [scenario.nodeid.split("::")[1] for scenario in scenarios_in(tmp_path)] == ["test_it"]


def test_a_missing_feature_costs_the_scenarios_that_need_it() -> None:
    """What is absent is named, and so is what nobody could tell of: such a scenario is skipped as well."""
    seen = examination(
        features=(
            Check("tcx", "no", False, ""),
            Check("xdp", "yes", False, ""),
            Check("netkit", "unknown", False, ""),
        ),
        scenarios=(Scenario("a", ("xdp", "tcx")), Scenario("b", ("xdp",)), Scenario("c", ("netkit",))),
    )

    assert seen.costs == {"a": ["tcx"], "c": ["netkit"]}
    assert not seen.blocking


def test_a_missing_tool_costs_scenarios_too() -> None:
    """`needs` may name a tool, which is no feature of the kernel."""
    seen = examination(Check("iperf3", "no", False, ""), scenarios=(Scenario("a", ("iperf3",)), Scenario("b", ())))

    assert seen.costs == {"a": ["iperf3"]}


def test_every_name_a_scenario_needs_is_known() -> None:
    """The project's own scenarios ask for nothing that the doctor does not look at."""
    known = {check["name"] for part in ("checks", "features") for check in examined()[part]}

    wanted = {name for scenario in scenarios_in(REPOSITORY / "scenarios") for name in scenario.needs}

    assert wanted <= known


def test_only_what_is_required_blocks() -> None:
    """A missing required thing makes the machine unusable; a missing extra, or a doubt, does not."""
    clang = Check("clang", "no", True, "")
    seen = examination(clang, Check("iperf3", "no", False, ""), Check("namespaces", "unknown", True, ""))

    assert seen.blocking == [clang]
    assert seen.as_dict()["usable"] is False


def test_a_tool_that_is_missing_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an empty PATH every tool is missing, and each mend is a package of the project's list."""
    monkeypatch.setenv("PATH", str(tmp_path))
    packages = (REPOSITORY / "debian-packages.txt").read_text().splitlines()

    checks = {check.name: check for check in machine.look()}

    for tool in machine.TOOLS:
        assert checks[tool.command].answer == "no"
        assert checks[tool.command].mend == f"sudo apt-get install {tool.package}"
        assert tool.package in packages
    assert checks["clang"].blocks
    assert not checks["iperf3"].blocks


def test_json_holds_what_the_table_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` and the table agree on names and status; every check that is not a yes has a mend or a detail."""
    status = run(["doctor", "--json"])
    seen = json.loads(capsys.readouterr().out)
    assert run(["doctor"]) == status
    printed = capsys.readouterr().out

    assert seen["usable"] == (status == 0)
    for check in [*seen["checks"], *seen["features"]]:
        assert check["name"] in printed
        assert check["answer"] == "yes" or check["mend"] or check["detail"]


def test_without_privileges_the_doctor_says_so() -> None:
    """No capability at all: status 1, one last sentence with the mend, nothing on standard error."""
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run([*drop, sys.executable, "-m", "lab.cli", "doctor"], capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("Not ready: root: ")
    assert "Mend: " in done.stdout.splitlines()[-1]
    assert done.stderr == ""
