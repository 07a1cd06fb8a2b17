"""Everything that `lab doctor` looks at, gathered; printing it is another matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.doctor import kernel, machine
from lab.doctor.check import Check
from lab.doctor.scenarios import Scenario, scenarios_in


@dataclass(frozen=True)
class Examination:
    """`checks` of the machine, required ones first; `features` of the kernel; the scenarios of the project."""

    description: Mapping[str, object]
    checks: tuple[Check, ...]
    features: tuple[Check, ...]
    scenarios: tuple[Scenario, ...]

    @property
    def blocking(self) -> list[Check]:
        """What must be mended before anything runs."""
        return [check for check in (*self.checks, *self.features) if check.blocks]

    @property
    def costs(self) -> dict[str, list[str]]:
        """The scenarios that are skipped here, with the features that each lacks or that nobody could tell of."""
        missing = {check.name for check in (*self.checks, *self.features) if check.answer != "yes"}
        lacking = {scenario.nodeid: [name for name in scenario.needs if name in missing] for scenario in self.scenarios}
        return {nodeid: names for nodeid, names in lacking.items() if names}

    def as_dict(self) -> dict[str, Any]:
        """For --json: stable names, the same facts."""
        return {
            "schema": 1,
            "usable": not self.blocking,
            "machine": dict(self.description),
            "checks": [asdict(check) for check in self.checks],
            "features": [asdict(check) for check in self.features],
            "scenarios": {"found": len(self.scenarios), "lost": self.costs},
        }


def examine(project: Path) -> Examination:
    """Looks at this machine for the scenarios of `project`; what it tries is gone afterwards."""
    return Examination(
        description=machine.describe(),
        checks=tuple(sorted((*machine.look(), *kernel.look_at_basics()), key=lambda check: not check.required)),
        features=tuple(kernel.look_at_features()),
        scenarios=tuple(scenarios_in(project / "scenarios")),
    )
