"""The steps of a scenario as JSON: everything that a replay needs but the object files, which lie beside it.

Steps stand in the order in which they happened. Bytes are hexadecimal. What cannot be said so (a cgroup that a program
was attached to, a socket put into a map) is left out, and a remark says that it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.model.journal import Journal, Step

if TYPE_CHECKING:
    from lab.net.topology import Topology

MOST_BYTES = 16 << 20
"""Of frames and map entries; a scenario of more is not kept."""
DEVICES = ("devmap", "devmap_hash")
PROGRAM_REFERENCES = ("prog_array",)
REFERENCES = ("cgroup_array", "cpumap", "sockmap", "sockhash", "reuseport_sockarray", "xskmap", "array_of_maps")


class TooMuch(Exception):
    """The scenario did more than a replay can hold."""


class Script:
    """Collects steps; `as_dict` is the result, `objects` the files that belong to it."""

    def __init__(self, topology: Topology | None) -> None:
        self.topology = None if topology is None else topology_as_dict(topology)
        self.objects: list[Path] = []
        self.names: list[str] = []
        """Of the objects beside the script: a folder each, because the file's name chooses the entry program."""
        self.sources: list[str] = []
        self.steps: list[dict[str, Any]] = []
        self.remarks: list[str] = []
        self._programs: dict[int, int] = {}
        self._maps: dict[int, tuple[int, str]] = {}
        self._globals: dict[int, int] = {}
        self._attachments: dict[int, int] = {}
        self._bytes = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "topology": self.topology,
            "objects": self.names,
            "sources": self.sources,
            "steps": self.steps,
            "remarks": list(dict.fromkeys(self.remarks)),
        }

    def add(self, step: Step) -> None:
        """One step; of a kind that is not known here, nothing."""
        take = getattr(self, f"_{step.kind}", None)
        if take is None:
            return
        made = take(step.about)
        if made is not None:
            self.steps.append({"do": step.kind, **made})

    def _kept(self, raw: bytes) -> str:
        self._bytes += len(raw)
        if self._bytes > MOST_BYTES:
            raise TooMuch
        return raw.hex()

    def _load(self, about: Mapping[str, Any]) -> dict[str, Any]:
        program, wishes = about["program"], about["wishes"]
        number = len(self.objects)
        self.objects.append(Path(program.path))
        self.names.append(f"{number}/{program.stem}.bpf.o")
        self.sources.append(str(Path(about["source"]).resolve()))
        self._programs[id(program.maps)] = number
        self._globals[id(program.globals)] = number
        for name, each in program.maps.items():
            self._maps.setdefault(id(each), (number, name))
        share = {name: self._maps[id(each)] for name, each in wishes.share.items() if id(each) in self._maps}
        return {
            "program": wishes.program,
            "knobs": {name: plain(value) for name, value in wishes.knobs.items()},
            "max_entries": dict(wishes.max_entries),
            "share": share,
            "cflags": list(wishes.cflags),
        }

    def _load_bcc(self, _: Mapping[str, Any]) -> None:
        self.remarks.append("programs made by BCC are not loaded again: no object is left of them")

    def _write(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        table = about["map"]
        found, kind = self._maps.get(id(table)), table.facts.type
        if found is None or kind in REFERENCES:
            self.remarks.append(f"what was written into {table.name} ({kind}) means nothing in another run")
            return None
        made: dict[str, Any] = {"map": found, "key": self._kept(about["key"])}
        if kind in PROGRAM_REFERENCES:
            return {**made, "refers_to": self._program(about["given"])}
        if kind in DEVICES:
            thing = about["given"][0] if isinstance(about["given"], tuple) else about["given"]
            if name := getattr(thing, "name", None):
                return {**made, "interface": name}
            self.remarks.append(f"{table.name} was given an interface by its number, not as one of the network")
            return None
        return {**made, "value": self._kept(about["value"])}

    def _write_many(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        found = self._maps.get(id(about["map"]))
        if found is None:
            return None
        keys, values = self._kept(about["keys"]), self._kept(about["values"])
        return {"map": found, "keys": keys, "values": values, "count": about["count"]}

    def _delete(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        found = self._maps.get(id(about["map"]))
        return None if found is None else {"map": found, "key": self._kept(about["key"])}

    def _clear(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        found = self._maps.get(id(about["map"]))
        return None if found is None else {"map": found}

    def _write_global(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        found = self._globals.get(id(about["globals"]))
        return None if found is None else {"object": found, "name": about["name"], "value": about["value"].hex()}

    def _program(self, program: Any) -> tuple[int, str] | None:
        number = self._programs.get(id(getattr(program, "maps", None)))
        if number is None:
            self.remarks.append("a program that was loaded before the scenario, or by BCC, is not part of it")
        return None if number is None else (number, program.name)

    def _attach(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        target, program = about["target"], self._program(about["program"])
        if program is None:
            return None
        if target is not None and not hasattr(target, "netns_fd"):
            self.remarks.append(f"{program[1]} was attached to a {type(target).__name__}, which is gone")
            return None
        self._attachments[id(about["attachment"])] = number = len(self._attachments)
        options = {name: plain(value) for name, value in about["options"].items()}
        return {
            "program": program,
            "target": None if target is None else target.name,
            "options": options,
            "attachment": number,
            "how": about["attachment"].how,
        }

    def _detach(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        number = self._attachments.get(id(about["attachment"]))
        return None if number is None else {"attachment": number}

    def _send(self, about: Mapping[str, Any]) -> dict[str, Any]:
        delivery = about["delivery"]
        return {"stream": asdict(about["stream"]), "offered": delivery.offered, "received": delivery.received}

    def _exchange(self, about: Mapping[str, Any]) -> dict[str, Any]:
        received = {name: [self._kept(bytes(each)) for each in frames] for name, frames in about["received"].items()}
        frames = [self._kept(each) for each in about["frames"]]
        return {"frames": frames, "at": about["at"], "count": about["count"], "received": received}

    def _flood(self, about: Mapping[str, Any]) -> None:
        self.remarks.append(f"the flood from {about['source']} is not sent again")

    def _iperf3(self, about: Mapping[str, Any]) -> None:
        self.remarks.append(f"iperf3 from {about['client']} to {about['server']} is not run again")

    def _run(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        program = self._program(about["program"])
        if program is None:
            return None
        return {
            "program": program,
            "frame": self._kept(about["frame"]),
            "context": about["context"].hex(),
            "repeat": about["repeat"],
            "ingress": getattr(about["ingress"], "name", None),
            "result": self._result(about["result"]),
        }

    def _run_many(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        program = self._program(about["program"])
        if program is None:
            return None
        frames = [self._kept(each) for each in about["frames"]]
        return {"program": program, "frames": frames, "results": [self._result(each) for each in about["results"]]}

    def _result(self, result: Any) -> list[Any]:
        return [result.number, self._kept(result.frame)]


def script_of(journal: Journal, topology: Topology | None) -> Script:
    """All steps of a scenario; where they are too many, none, and a remark."""
    script = Script(topology or _topology_of(journal.steps))
    try:
        if journal.left_out:
            raise TooMuch
        for step in journal.steps:
            script.add(step)
    except TooMuch:
        script.steps, script.objects, script.names, script.sources = [], [], [], []
        script.remarks = [f"the scenario did more than a replay holds ({MOST_BYTES >> 20} MiB of frames and entries)"]
    return script


def _topology_of(steps: Iterable[Step]) -> Topology | None:
    """Of a scenario without `net`: that of the one network that it sent something through."""
    found: dict[int, Topology] = {id(net): net.topology for each in steps if (net := each.about.get("net"))}
    return next(iter(found.values())) if len(found) == 1 else None


def plain(value: Any) -> Any:
    """A knob or an option as JSON has it; of an enum its name."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def unplain(value: Any) -> Any:
    """What `plain` made, back again, but for enums: a name serves as one."""
    if isinstance(value, dict):
        return bytes.fromhex(value["bytes"]) if set(value) == {"bytes"} else {k: unplain(v) for k, v in value.items()}
    return [unplain(each) for each in value] if isinstance(value, list) else value


def topology_as_dict(topology: Topology) -> dict[str, Any]:
    """The description, without what follows from it; of one on a cable, the same on a veth."""
    from dataclasses import fields

    names = [each.name for each in fields(topology) if each.init and each.name != "cable"]
    return {name: _described(getattr(topology, name)) for name in names}


def _described(value: Any) -> Any:
    if isinstance(value, tuple) and value and hasattr(value[0], "__dataclass_fields__"):
        return [asdict(each) for each in value]
    return dict(value) if isinstance(value, Mapping) else value


def topology_from_dict(data: Mapping[str, Any]) -> Topology:
    """The Topology that `topology_as_dict` described; TopologyError or TypeError for anything else."""
    from lab.net.spec import Bridge, NamespaceSpec, Route, Veth, Vlan, Vxlan
    from lab.net.topology import Topology

    def several(kind: Any, rows: Iterable[Mapping[str, Any]]) -> tuple[Any, ...]:
        return tuple(kind(**{name: _tupled(each) for name, each in row.items()}) for row in rows)

    namespaces = [{**row, "routes": several(Route, row["routes"])} for row in data["namespaces"]]
    parts = {
        "namespaces": several(NamespaceSpec, namespaces),
        "veths": several(Veth, data["veths"]),
        "bridges": several(Bridge, data["bridges"]),
        "vlans": several(Vlan, data["vlans"]),
        "vxlans": several(Vxlan, data["vxlans"]),
    }
    return Topology(**{**data, **parts})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
