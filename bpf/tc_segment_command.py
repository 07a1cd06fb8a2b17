"""`lab tc_segment`: runs it, and speaks to an instance that runs: its policy, its sessions, its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from lab.bpf.companion import load_module

STEM, PROGRAM = "tc_segment", "segment_ingress"
FIELDS = ("action", "direction", "from", "to", "protocol", "ports", "source_ports", "types", "priority")
LISTS = ("from", "to", "protocol", "ports", "source_ports", "types")


def _companion() -> Any:
    return load_module(Path(__file__).with_name(f"{STEM}.py"))


@contextmanager
def _instance(program_id: int) -> Iterator[Any]:
    from lab.bpf.running import running

    with running(PROGRAM, STEM, program_id) as found:
        yield _companion().Segment(found.maps)


class _Commands(click.Group):
    """With `run`, which is made when it is asked for: it asks the companion, which makes this."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """`run` first."""
        return ["run", *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """`run` is what `lab <stem>` is for other programs."""
        if name != "run":
            return super().get_command(ctx, name)
        from lab.commands.program import showing_command
        from lab.host.subject import find_subject

        made = showing_command(find_subject(Path(__file__).with_name(f"{STEM}.bpf.c")))
        made.name = "run"
        return made


@click.group(cls=_Commands)
def command() -> None:
    """Lets workloads talk as a policy says.

    `run` attaches it with a policy, until Ctrl-C. The others speak to the instance that runs; --id says which of
    several.
    """


which = click.option(
    "--id", "program_id", type=int, default=0, metavar="PROGRAM", help="Of several instances, this one."
)


@command.command()
@which
@click.option("--top", default=20, show_default=True, help="Sessions shown.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(program_id: int, top: int, as_json: bool) -> None:
    """Outcomes, rules and the latest sessions."""
    from lab.host import showing

    with _instance(program_id) as segment:
        tables = _companion().tables(segment, top)
    showing.show_json(tables) if as_json else showing.show(tables)


@command.command()
@which
@click.option("--listen", type=int, metavar="PORT", help="Serves them on this port of 127.0.0.1 until Ctrl-C.")
def metrics(program_id: int, listen: int | None) -> None:
    """Prometheus metrics, printed once or served."""
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server

    with _instance(program_id) as segment:
        registry = CollectorRegistry()
        registry.register(Collector(lambda: _companion().metrics(segment)))
        if listen is None:
            click.echo(generate_latest(registry).decode(), nl=False)
            return
        from lab.host.options import until_told_to_stop

        with until_told_to_stop():
            server, thread = start_http_server(listen, "127.0.0.1", registry)
            click.echo(f"http://127.0.0.1:{server.server_port}/metrics", err=True)
            try:
                while thread.is_alive():
                    time.sleep(1)
            finally:
                server.shutdown()


class Collector:
    """What prometheus_client asks at each scrape."""

    def __init__(self, families: Callable[[], Iterator[Any]]) -> None:
        self.collect = families


@command.group()
def policy() -> None:
    """The policy of the instance that runs; each change is applied whole, between two packets, or not at all."""


def _rule_options(function: Any) -> Any:
    texts = {
        "action": "allow, deny or log",
        "direction": "ingress, egress or both",
        "from": "a prefix, or a workload",
        "to": "a prefix, or a workload",
        "protocol": "tcp, udp, icmp, ..., or a number",
        "ports": "443, or 8000-8999",
        "source_ports": "the same",
        "types": "of ICMP",
        "priority": "the greater the stronger; 0",
    }
    for name, text in reversed(texts.items()):
        several = name in LISTS
        option = click.option(
            f"--{name.replace('_', '-')}",
            f"rule_{name}",
            multiple=several,
            help=text + "; may be said several times" * several,
        )
        function = option(function)
    return click.option("--log/--no-log", "rule_log", default=None, help="events of what it decides")(function)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """The fields that were said, as YAML has them."""
    given: dict[str, Any] = {}
    for name in FIELDS:
        value = values[f"rule_{name}"]
        if value:
            plain = [int(each) if each.isdigit() else each for each in (value if name in LISTS else [value])]
            given[name] = plain[0] if len(plain) == 1 else plain
    if values["rule_log"] is not None:
        given["log"] = values["rule_log"]
    return given


def _find(data: dict[str, Any], name: str) -> int:
    names = [each["name"] for each in data.get("rules") or ()]
    if name not in names:
        raise click.ClickException(f"there is no rule {name!r}; there are {', '.join(map(str, names)) or 'none'}")
    return names.index(name)


@policy.command()
@click.argument("name")
@click.option("--first", is_flag=True, help="Before the other rules, instead of behind them.")
@_rule_options
@which
def create(program_id: int, name: str, first: bool, **values: Any) -> None:
    """A new rule."""
    rule = {"name": name, **_given(values)}

    def add(data: dict[str, Any]) -> None:
        data["rules"].insert(0 if first else len(data["rules"]), rule)

    with _instance(program_id) as segment:
        segment.change(add)


@policy.command("read")
@click.argument("name")
@which
def read_rule(program_id: int, name: str) -> None:
    """A rule, as YAML."""
    with _instance(program_id) as segment:
        data = segment.policy().data
    click.echo(_companion().dump(data["rules"][_find(data, name)]), nl=False)


@policy.command()
@click.argument("name")
@_rule_options
@which
def update(program_id: int, name: str, **values: Any) -> None:
    """Other values for some fields of a rule; its place and its counters stay."""

    def change(data: dict[str, Any]) -> None:
        data["rules"][_find(data, name)].update(_given(values))

    with _instance(program_id) as segment:
        segment.change(change)


@policy.command()
@click.argument("name")
@which
def delete(program_id: int, name: str) -> None:
    """Takes a rule away."""
    with _instance(program_id) as segment:
        segment.change(lambda data: data["rules"].pop(_find(data, name)))


@policy.command("list")
@which
def list_rules(program_id: int) -> None:
    """The rules, the strongest first, with what they have counted."""
    from lab.host import showing
    from lab.model.table import Table

    with _instance(program_id) as segment:
        rules, counts = segment.policy().rules, segment.rule_counts()
    rows = [
        (rule.name, rule.action, rule.priority, counts[rule.name].sessions, counts[rule.name].packets) for rule in rules
    ]
    showing.show(Table("rules", ("rule", "action", "priority", "sessions", "packets"), rows))


@policy.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@which
def import_policy(program_id: int, file: Path) -> None:
    """Puts a file's policy into force, instead of all there was; nothing, if anything in it is wrong."""
    wanted = _companion().read(file.read_text(), str(file))
    with _instance(program_id) as segment:
        segment.apply(wanted)


@policy.command()
@which
def export(program_id: int) -> None:
    """The policy in force as YAML; remarks of the file it came from are not kept."""
    with _instance(program_id) as segment:
        click.echo(segment.text, nl=False)


@policy.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def validate(file: Path) -> None:
    """Says what is wrong with a file, by line and column; needs no instance, and no root."""
    found = _companion().read(file.read_text(), str(file))
    click.echo(f"{file}: {len(found.rules)} rules")
