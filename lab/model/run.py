"""A stored session: what ran, on which machine, from which commit, and all that came out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.model.measurement import Measurement

SCHEMA = 1


@dataclass(frozen=True)
class Environment:
    """The machine and the commit; two runs compare only where these are alike."""

    kernel: str
    cpu: str
    cpus: int
    memory_bytes: int
    commit: str
    dirty: bool
    bpf_jit: str
    tools: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One test of one kind ("scenario", "benchmark" or "harness") and all that it noted.

    `notes` maps a note's kind to its data in order: "topology" {name, mermaid, svg}; "program" {name, section,
    type, instructions, verified_instructions, xlated_bytes, jited_bytes, stack_bytes, load_ms, maps};
    "attachment" {program, target, how}; "map_assertion" {map, matcher, expected, actual, held, waited_ms};
    "delivery" {stream, offered, received, lost, reordered, duplicated}; "verdict" {program, row, expected, actual};
    "cable" {host, here, there, kernel, cpu, ...: the other host's}; "failure" {headline, findings [{title, lines,
    shown}], replay, folder}; "evidence" {title, text, svg (where there is a picture)}.
    """

    nodeid: str
    kind: str
    program: str
    title: str
    outcome: str
    reason: str
    duration_s: float
    notes: Mapping[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True)
class Run:
    """One pytest session, as it stands in reports/runs/<id>.json."""

    id: str
    started: str
    duration_s: float
    command: tuple[str, ...]
    environment: Environment
    results: tuple[Result, ...]
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        """The run that `as_dict` wrote; ValueError for a schema that this version does not know."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {data.get('schema')} is not {SCHEMA}, the one this version reads")
        results = tuple(_result(entry) for entry in data["results"])
        return cls(
            id=data["id"],
            started=data["started"],
            duration_s=data["duration_s"],
            command=tuple(data["command"]),
            environment=Environment(**data["environment"]),
            results=results,
        )


def _result(entry: Mapping[str, Any]) -> Result:
    measurements = tuple(Measurement.from_dict(each) for each in entry.get("measurements", ()))
    return Result(**{**entry, "measurements": measurements})
