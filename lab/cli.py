"""The command `lab`: a door that wires and prints, and turns every error into one sentence and an exit status.

Exit statuses: 0 done, 1 the answer is no (`lab doctor` found something required missing), 2 could not be done,
130 interrupted.
"""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab import __version__
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.program_list import Source

COMMANDS = {
    "attach": "Attach a program to this machine's interfaces, until Ctrl-C.",
    "bench": "What operations cost on this machine.",
    "blind": "Which scenarios would not notice that their program does nothing.",
    "calibrate": "What the instruments recover, on this machine, of known causes.",
    "compare": "Two programs, commits, knob settings or stored runs against each other.",
    "doctor": "What this kernel and machine can do, and what is missing.",
    "down": "End networks that are kept up.",
    "features": "What this kernel, or each of several, offers of what the lab uses.",
    "history": "Each figure through the stored runs, and where it changed.",
    "hosts": "Run scenarios on several machines at once, by ssh.",
    "list": "The programs at hand.",
    "matrix": "The scenarios on this kernel and on others, in virtual machines.",
    "new": "Write the files of a new program, which pass at once.",
    "replay": "Do a failed scenario again: the same frames through the same program.",
    "report": "Write reports/index.html from the stored runs.",
    "shell": "A shell, or a command, inside a namespace of a kept network.",
    "show": "Draw the networks that are kept up, and what is attached there.",
    "up": "Bring a scenario's topology up, and keep it.",
}

EXAMPLES = """\b
Examples:
  sudo lab doctor               is this machine ready, and what would a better one give?
  lab list                      what can be loaded by its name
  sudo pytest scenarios/        run the scenarios, store the run
  lab report --open             look at what was stored
"""


class LazyGroup(click.Group):
    """Lists its commands without importing them: `lab --help` takes as long as click does."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command `name` of the module lab.commands.<name>, or a program's: what its companion shows."""
        if cmd_name not in COMMANDS:
            found: click.Command | None = import_module("lab.commands.program").command_of(cmd_name)
            return found
        command = import_module(f"lab.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A word that is neither a command nor a program is met with those that look like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], [*COMMANDS, *(each.stem for each in _programs())])
            more = f"Did you mean {' or '.join(close)}?" if close else "`lab list` shows the programs."
            raise click.UsageError(f"{error.message} {more}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and sentences from COMMANDS and from the programs' texts, nothing imported."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        showing = [(each.stem, _cut(each.summary)) for each in _programs() if each.has_command]
        if showing:
            with formatter.section("Programs, attached and shown live"):
                formatter.write_dl(showing)


def _programs() -> list[Source]:
    from lab.program_list import program_folders, programs_in

    return programs_in(program_folders(Path.cwd()))


def _cut(sentence: str, most: int = 100) -> str:
    return sentence if len(sentence) <= most else f"{sentence[: most - 1].rsplit(' ', 1)[0]} …"


@click.group(cls=LazyGroup, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bpflab")
def lab() -> None:
    """Test and measure eBPF network programs on network namespaces."""


def main() -> None:
    """The console script."""
    _hold_standard_descriptors()
    for each in (sys.stdout, sys.stderr):
        if isinstance(each, TextIOWrapper):
            each.reconfigure(errors="replace")  # drawings, in a locale that has no lines
    sys.exit(run(sys.argv[1:]))


def _hold_standard_descriptors() -> None:
    """One that is closed (`lab show >&-`) would be the number of the next that is opened: print would write into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def run(arguments: list[str]) -> int:
    """Runs one command line and gives its exit status.

    A reader that went away (`lab list | head -1`) ends the process quietly, with status 1: click does that.
    """
    try:
        status = lab.main(arguments, prog_name="lab", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except LabError as error:
        click.echo(f"lab: {error}", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("lab: interrupted", err=True)
        return 130
    except OSError as error:
        words = error.strerror or str(error)
        click.echo(f"lab: {words}: {error.filename}" if error.filename else f"lab: {words}", err=True)
        return 2


if __name__ == "__main__":
    main()
