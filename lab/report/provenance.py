"""Where a figure comes from: by which method, on which machine and core, from which commit, in which run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from lab.model.run import Environment
from lab.report.quantity import count
from lab.report.read import Latest


class Sourced(Protocol):
    """A figure: a `Measured` or a `Compared`."""

    @property
    def latest(self) -> Latest:
        """The result that it stands in."""

    @property
    def method(self) -> str:
        """In words."""

    @property
    def noise(self) -> Mapping[str, Any]:
        """What disturbed it, the "core" it ran on, and what its "path" was set to."""


def machine(environment: Environment) -> str:
    """ "Linux 6.18.5, AMD EPYC 9B14, 2 CPUs, BPF JIT on"."""
    jit = f"BPF JIT {environment.bpf_jit}" if environment.bpf_jit else ""
    cpus = count(environment.cpus, "CPU")
    return ", ".join(filter(None, (f"Linux {environment.kernel}", environment.cpu, cpus, jit)))


def provenance(several: Sequence[Sourced]) -> list[str]:
    """Sentences that hold for all of these figures together, each said once."""
    cores = _once(str(each.noise.get("core", "")) for each in several)
    machines = _once(machine(each.latest.header.environment) for each in several)
    paths = _once(_path(each.noise.get("path")) for each in several)
    runs = _once(f"{each.latest.header.id} of commit {_commit(each.latest)}" for each in several)
    return [
        f"Method: {'; '.join(_once(each.method for each in several))}.",
        f"Machine: {'; '.join(machines)}{'; on ' if cores else ''}{'; '.join(cores)}.",
        *(f"Path: {path}." for path in paths[:1]),
        f"Run {'; '.join(runs[:3])}{f' and {len(runs) - 3} more' if len(runs) > 3 else ''}.",
    ]


def _path(told: object) -> str:
    """What the instrument noted, in one line; a run from elsewhere may have anything there."""
    return "; ".join(map(str, told)) if isinstance(told, list | tuple) else ""


def _commit(latest: Latest) -> str:
    environment = latest.header.environment
    return (environment.commit[:8] or "unknown") + "+" * environment.dirty


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, texts)))
