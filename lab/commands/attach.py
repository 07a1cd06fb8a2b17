"""`lab attach`: a program on the interfaces of this machine, until Ctrl-C."""

from __future__ import annotations

import signal
from typing import Any

import click

from lab.host import seen
from lab.host.companion_options import options_of
from lab.host.options import Stopped, knob_parameter, opened, place_parameters, program_parameter, until_told_to_stop
from lab.host.place import Place
from lab.host.subject import Subject, attached, find_subject

HELP = "Loads a program, attaches it, and detaches it at Ctrl-C."
EXAMPLES = """\b
Examples:
  sudo lab attach xdp_filter --interface eth0
  sudo lab attach ./mine.bpf.c --interface eth0 --interface eth1 --mode generic
  sudo lab attach tc_redirect_port -i eth0 --netns blue
"""


class AttachGroup(click.Group):
    """Each program is a subcommand of its own, with its companion's options; they may also come before its name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Moves the program's name to the front."""
        place = 0
        while place < len(args) and args[place].startswith("-") and args[place] not in ("-h", "--help"):
            place += 1 if "=" in args[place] else 2
        if place < len(args):
            args = [args[place], *args[:place], *args[place + 1 :]]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The programs of the project and those that ship."""
        from pathlib import Path

        from lab.program_list import program_folders, programs_in

        return [each.stem for each in programs_in(program_folders(Path.cwd()))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of a stem or a path; LoadError, with stems that look alike, when there is none."""
        return attach_command(find_subject(cmd_name), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options are the same for all: they are shown instead."""
        with formatter.section("Options of every program"):
            rows = [each.get_help_record(ctx) for each in (*place_parameters(), knob_parameter(), program_parameter())]
            formatter.write_dl([row for row in rows if row])


def attach_command(subject: Subject, named: str) -> click.Command:
    """`lab attach <stem>` with the options that its companion's load and attach have."""
    functions = [each for each in map(subject.function, ("load", "attach")) if each]

    def run(**values: Any) -> None:
        wishes = {"knobs": values.pop("knobs"), "only": values.pop("only")}
        with until_told_to_stop(), opened(values) as place:
            _stay(subject, place, {**wishes, "options": values})

    return click.Command(
        named,
        params=[*place_parameters(), knob_parameter(), program_parameter(), *options_of(functions)],
        callback=run,
        help=HELP,
    )


def _stay(subject: Subject, place: Place, wishes: dict[str, Any]) -> None:
    options = wishes["options"]
    with attached(subject.source or subject.stem, place, told=tell, **wishes) as program:
        try:
            click.echo("Ctrl-C detaches it.")
            while True:
                signal.pause()
        except Stopped:
            said = (
                subject.call("summary", program, options=options)
                if subject.function("summary")
                else seen.summary(program)
            )
    click.echo(f"\ndetached {subject.stem}; it saw: {said}")


def tell(attachment: Any) -> None:
    """One line on standard error: what is where, and how."""
    where = f" to {attachment.target}" if attachment.target else ""
    about = f", program {attachment.facts['program_id']}" if "program_id" in attachment.facts else ""
    why = f" (no native XDP: {attachment.facts['fallback']})" if "fallback" in attachment.facts else ""
    click.echo(f"attached {attachment.program}{where}: {attachment.how}{about}{why}", err=True)


command = AttachGroup(
    "attach",
    help=HELP + " PROGRAM is a stem, as `lab list` shows them, or a path to a .bpf.c or .bpf.o.",
    epilog=EXAMPLES,
    subcommand_metavar="PROGRAM [OPTIONS]",
)
