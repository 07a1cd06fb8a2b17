"""Runs the script of a failure once more: on a network as it was, and each frame by PROG_RUN."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab.bpf.loading import Wishes, load_file
from lab.bpf.map import Table
from lab.errors import LabError, RunError, StoreError
from lab.failure.frame import read_frame, without_id
from lab.model.action import Direction, Mode
from lab.replay.folder import Failure
from lab.replay.outcome import Outcome, compared, steady
from lab.replay.script import topology_from_dict, unplain

if TYPE_CHECKING:
    from lab.bpf.program import Program
    from lab.traffic.network import Network
    from lab.traffic.recorder import Recorder

INGRESS = ("xdp", "ingress")
ENUMS: dict[str, Any] = {"mode": Mode, "direction": Direction}


@dataclass
class Replayed:
    """What a replay has shown."""

    outcomes: list[Outcome] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    verdicts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(program and place, verdict, frame) of each frame by PROG_RUN."""
    remarks: list[str] = field(default_factory=list)
    pcapng: bytes = b""

    @property
    def again(self) -> bool:
        """Everything came as at the failure."""
        return all(each.is_same for each in self.outcomes)


def replay(failure: Failure, *, now: bool = False) -> Replayed:
    """The whole script on a network, if it had one, and then once more by PROG_RUN with maps of their own.

    `now` compiles the programs' sources as they are today, to see whether a change has mended it. LabError where the
    script cannot be run at all; a step that cannot be done is a remark.
    """
    done = Replayed(remarks=[*failure.script["remarks"], *_not_known(failure)])
    with ExitStack() as stack:
        net, recorder = _network(failure, stack, done)
        first = _Stage(failure, now, net, recorder, done)
        stack.callback(first.close)
        for number, step in enumerate(failure.script["steps"]):
            first.do(number, step)
        _judge(failure, now, first, done)
        if recorder is not None and net is not None:
            from lab.traffic.recording import recording

            done.losses = [
                f"{each.frames:,} {each.kind} at {each.interface}: {each.reason}" for each in recorder.losses()
            ]
            done.pcapng = recording([each.name for each in net.interfaces], recorder.records(0))
        if first.entered:
            second = _Runs(failure, now, net, first.entered, done)
            stack.callback(second.close)
            for number, step in enumerate(failure.script["steps"]):
                second.do(number, step)
    done.remarks = list(dict.fromkeys(done.remarks))
    return done


def _not_known(failure: Failure) -> Iterator[str]:
    for kind in dict.fromkeys(str(step.get("do")) for step in failure.script["steps"]):
        if not hasattr(_Stage, f"_do_{kind}"):
            yield f"this lab does not know what a step {kind!r} is"


def _network(failure: Failure, stack: ExitStack, done: Replayed) -> tuple[Network | None, Recorder | None]:
    if failure.script["topology"] is None:
        return None, None
    from lab.traffic.recorder import Recorder

    net = stack.enter_context(_brought_up(failure))
    try:
        recorder = Recorder(departures=True)
    except LabError as error:
        done.remarks.append(f"frames are not recorded: {error.what}")
        return net, None
    stack.callback(recorder.close)
    return net, stack.enter_context(recorder.watching(net))


def _brought_up(failure: Failure) -> Network:
    from lab.traffic.network import Network

    try:
        return Network(topology_from_dict(failure.script["topology"]))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"replay {failure.id}: its topology cannot be read ({error!r})") from error


class _Actor:
    """Loads and writes as the script says; what else a step is, the subclasses know. A method `_do_X` does a step X."""

    def __init__(self, failure: Failure, now: bool, net: Network | None, done: Replayed) -> None:
        self.failure, self.now, self.net, self.done = failure, now, net, done
        self.programs: list[Program] = []
        self._stack = ExitStack()

    def close(self) -> None:
        """Detaches and unloads."""
        self._stack.close()

    def do(self, number: int, step: Mapping[str, Any]) -> None:
        """One step; one that cannot be done is a remark, and the rest goes on. Nothing can without a program."""
        kind = step.get("do")
        act = getattr(self, f"_do_{kind}", None)
        if act is None:
            return
        try:
            act(number, step)
        except (LabError, OSError) as error:
            if kind == "load":
                raise
            self.done.remarks.append(f"step {number} ({kind}): {str(error).partition(chr(10))[0]}")
        except (LookupError, TypeError, ValueError) as error:
            self.done.remarks.append(f"step {number} ({kind}): it cannot be understood: {error!r}")

    def table(self, found: Sequence[Any]) -> Table:
        """The map that a step is about."""
        table: Table = self.programs[found[0]].maps[found[1]]
        return table

    def program(self, found: Sequence[Any]) -> Program:
        """The program that a step is about."""
        program: Program = self.programs[found[0]].programs[found[1]]
        return program

    def _do_load(self, _: int, step: Mapping[str, Any]) -> None:
        share = {name: self.table(found) for name, found in step["share"].items()}
        wishes = Wishes(step["program"], unplain(step["knobs"]), step["max_entries"], share, step.get("cflags", ()))
        program = load_file(self.failure.object_file(len(self.programs), now=self.now), wishes)
        self._stack.callback(program.close)
        self.programs.append(program)

    def _do_write(self, _: int, step: Mapping[str, Any]) -> None:
        table, key = self.table(step["map"]), bytes.fromhex(step["key"])
        if "refers_to" in step:
            if step["refers_to"] is not None:
                table[table.key_layout.decode(key)] = self.program(step["refers_to"])
            return
        if "interface" in step:
            table[table.key_layout.decode(key)] = self.net.interface(step["interface"]) if self.net else 0
            return
        table.write_raw(key, bytes.fromhex(step["value"]), 1)

    def _do_write_many(self, _: int, step: Mapping[str, Any]) -> None:
        keys, values = bytes.fromhex(step["keys"]), bytes.fromhex(step["values"])
        self.table(step["map"]).write_raw(keys, values, step["count"])

    def _do_delete(self, _: int, step: Mapping[str, Any]) -> None:
        table = self.table(step["map"])
        del table[table.key_layout.decode(bytes.fromhex(step["key"]))]

    def _do_clear(self, _: int, step: Mapping[str, Any]) -> None:
        self.table(step["map"]).clear()

    def _do_write_global(self, _: int, step: Mapping[str, Any]) -> None:
        self.programs[step["object"]].globals.write_raw(step["name"], bytes.fromhex(step["value"]))


class _Stage(_Actor):
    """Does everything on the network, and keeps the frames that entered an interface with a program."""

    def __init__(
        self, failure: Failure, now: bool, net: Network | None, recorder: Recorder | None, done: Replayed
    ) -> None:
        super().__init__(failure, now, net, done)
        self.recorder = recorder
        self.attached: dict[int, tuple[Sequence[Any], str, Any]] = {}
        """Attachment to program, interface and the live attachment."""
        self.entered: dict[int, list[tuple[Sequence[Any], str, bytes]]] = {}
        """Step to the frames that a program met then: which program, where, and the frame as it came."""

    def _do_attach(self, _: int, step: Mapping[str, Any]) -> None:
        options = {name: _option(name, each) for name, each in step["options"].items()}
        made = self.program(step["program"]).attach(self._target(step["target"]), **options)
        self._stack.callback(made.detach)
        self.attached[step["attachment"]] = step["program"], step["target"] if _is_ingress(step) else "", made

    def _target(self, name: str | None) -> Any:
        if name is None or self.net is None:
            return None
        return self.net.interface(name) if "/" in name else self.net[name]

    def _do_detach(self, _: int, step: Mapping[str, Any]) -> None:
        if step["attachment"] in self.attached:
            self.attached.pop(step["attachment"])[2].detach()

    def _do_send(self, number: int, step: Mapping[str, Any]) -> None:
        from lab.traffic.stream import Stream

        net = self._only_net()
        given: dict[str, Any] = {
            name: tuple(each) if isinstance(each, list) else each for name, each in step["stream"].items()
        }
        stream, begun = Stream(**given), self._position()
        delivery = net.send(stream, canary=False)
        then = f"{step['received']:,} of {step['offered']:,} arrived"
        self._came(stream.name, then, f"{delivery.received:,} of {delivery.offered:,} arrived")
        self._keep(number, begun)

    def _do_exchange(self, number: int, step: Mapping[str, Any]) -> None:
        net = self._only_net()
        frames, begun = [bytes.fromhex(each) for each in step["frames"]], self._position()
        received = net.exchange(frames, at=step["at"], count=step["count"], canary=False)
        came = {name: [bytes(each).hex() for each in every] for name, every in received.items()}
        self._came(f"{len(frames)} frame(s) from {step['at']}", _came_in(step["received"]), _came_in(came))
        self._keep(number, begun)

    def _only_net(self) -> Network:
        if self.net is None:
            raise LabError("the scenario had several networks, or one that is not described")
        return self.net

    def _do_run(self, _: int, step: Mapping[str, Any]) -> None:
        program, frame = self.program(step["program"]), bytes.fromhex(step["frame"])
        context, ingress = bytes.fromhex(step["context"]) or None, self._ingress(step["ingress"])
        with _one_cpu():
            result = program.run(frame or None, repeat=step.get("repeat", 1), context=context, ingress=ingress)
        self._ran(program, frame, step["result"], result)

    def _ingress(self, name: str | None) -> Any:
        return self._target(name) if self.net is not None else None

    def _do_run_many(self, _: int, step: Mapping[str, Any]) -> None:
        program, frames = self.program(step["program"]), [bytes.fromhex(each) for each in step["frames"]]
        with _one_cpu():
            results = program.run_many(frames)
        for frame, then, result in zip(frames, step["results"], results, strict=True):
            self._ran(program, frame, then, result)

    def _ran(self, program: Program, frame: bytes, then: Sequence[Any], result: Any) -> None:
        summary, verdict = read_frame(frame).summary, verdict_of(result)
        same = result.number == then[0]
        changed = "" if result.frame.hex() == then[1] else ", another frame"
        self._came(f"{program.name}: {summary}", verdict if same else f"verdict {then[0]}", f"{verdict}{changed}")

    def _came(self, what: str, then: str, now: str) -> None:
        self.done.outcomes.append(Outcome(what, then, now))

    def _position(self) -> int:
        return self.recorder.position if self.recorder else 0

    def _keep(self, number: int, begun: int) -> None:
        """A frame enters an interface when the other end of its veth sends it."""
        if self.recorder is None or self.net is None:
            return
        sent = [each for each in self.recorder.records(begun) if each.kind == "sent" and each.raw]
        for program, name, _ in self.attached.values():
            if name and self.net.interface(name).kind == "veth":
                peer = self.net.interface(name).peer.name
                found = [(program, name, each.raw) for each in sent if each.interface == peer]
                self.entered.setdefault(number, []).extend(found)


class _Runs(_Actor):
    """Does the loads and writes once more, and at each sending runs the frames that met a program then."""

    def __init__(
        self,
        failure: Failure,
        now: bool,
        net: Network | None,
        entered: Mapping[int, list[tuple[Sequence[Any], str, bytes]]],
        done: Replayed,
    ) -> None:
        super().__init__(failure, now, net, done)
        self.entered = entered

    def _do_send(self, number: int, _: Mapping[str, Any]) -> None:
        for found, name, frame in self.entered.get(number, ()):
            program = self.program(found)
            verdict = verdict_of(self._result(program, name, frame))
            self.done.verdicts[f"{program.name} at {name}", verdict, read_frame(frame).summary] += 1

    _do_exchange = _do_send

    def _result(self, program: Program, name: str, frame: bytes) -> Any:
        """As if it came from there; where the kernel wants more for that, from nowhere."""
        assert self.net is not None
        try:
            return program.run(frame, ingress=self.net.interface(name))
        except RunError:
            return program.run(frame, ingress=self.net[name.partition("/")[0]])


@contextmanager
def _one_cpu() -> Iterator[None]:
    """The same for all runs of a replay: what a program keeps a CPU comes out alike each time."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _option(name: str, value: Any) -> Any:
    """What was an enum is one again."""
    return ENUMS[name][value] if name in ENUMS else unplain(value)


def verdict_of(result: Any) -> str:
    """Its name, or the number where the hook gives it none."""
    try:
        return str(result.action.name)
    except LabError:
        return str(result.number)


def _is_ingress(step: Mapping[str, Any]) -> bool:
    return "/" in (step["target"] or "") and any(word in step["how"].lower() for word in INGRESS)


def _came_in(received: Mapping[str, Sequence[str]]) -> str:
    """What came where; of equal counts with other bytes, that too."""
    parts = [f"{len(frames):,} at {name} (bytes {_mark(frames)})" for name, frames in received.items() if frames]
    return ", ".join(parts) or "none came in"


def _mark(frames: Sequence[str]) -> str:
    """Few letters that stand for the frames, but for their IPv4 ids."""
    import zlib

    return f"{zlib.crc32(b''.join(without_id(bytes.fromhex(each)) for each in frames)):08x}"


def _judge(failure: Failure, now: bool, stage: _Stage, done: Replayed) -> None:
    """Compares the maps too. What is other at each replay says nothing: where anything differs, all is done twice."""
    held = {name: lines for name, lines in _contents(stage).items() if name in failure.maps}
    twice = held
    if not done.again or any(failure.maps[name] != lines for name, lines in held.items()):
        second, twice = _once_more(failure, now)
        done.outcomes, remarks = steady(done.outcomes, second.outcomes)
        done.remarks += remarks
    for name, lines in held.items():
        what = f"map {name.partition('/')[2]}"
        found = compared(what, *map("; ".join, (failure.maps[name], lines, twice[name])))
        if found is None:
            done.remarks.append(f"{what}: it holds something else at each replay, and is not compared")
        else:
            done.outcomes.append(found)


def _once_more(failure: Failure, now: bool) -> tuple[Replayed, dict[str, list[str]]]:
    """What comes of another replay, and what the maps hold then."""
    done = Replayed()
    with ExitStack() as stack:
        net = stack.enter_context(_brought_up(failure)) if failure.script["topology"] is not None else None
        stage = _Stage(failure, now, net, None, done)
        stack.callback(stage.close)
        for number, step in enumerate(failure.script["steps"]):
            stage.do(number, step)
        return done, _contents(stage)


def _contents(stage: _Stage) -> dict[str, list[str]]:
    from lab.bpf.content import content_of

    return {
        f"{number}/{name}": list(content_of(table).whole)
        for number, program in enumerate(stage.programs)
        for name, table in program.maps.items()
        if isinstance(table, Table)
    }
