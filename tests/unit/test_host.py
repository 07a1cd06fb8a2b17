"""Options made of a companion's functions, knobs read by type, and what is shown of maps."""

from __future__ import annotations

import ipaddress
import json
from enum import IntEnum
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from lab.bpf.record import PerCpu, record_class
from lab.errors import LabError, LoadError
from lab.host import showing
from lab.host.companion_options import chosen, options_of
from lab.host.knobs import knob_values
from lab.host.options import place_options, seconds
from lab.host.place import Place
from lab.host.plain import cell, is_zero, plain, visible
from lab.model.table import Table
from lab.program_list import header_part, programs_in, read_companion

Count = record_class("count", ("packets", "bytes"))


def load(bpf, *, rules: Path | None = None, **knobs):
    """Loads it.

    rules: a file of rules
    """


def view(program, *, top: int = 10, by: Literal["packets", "bytes"] = "bytes", names: bool = False):
    """top: rows shown"""


def watch(program, *, top: int = 99, only: tuple[str, ...] = (), share: float = 0.5):
    """Nothing of its options."""


def values(*arguments: str) -> dict[str, object]:
    """What a command with the options of all three is given."""
    given: dict[str, object] = {}
    command = click.Command("c", params=list(options_of([load, view, watch])), callback=lambda **got: given.update(got))
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    return given


def test_keyword_only_parameters_are_options() -> None:
    """Types, defaults, choices, flags and repetition come from the signature; **knobs and positions are none."""
    assert values() == {"rules": None, "top": 10, "by": "bytes", "names": False, "only": (), "share": 0.5}
    given = values("--rules", "r.yaml", "--top", "3", "--by", "packets", "--names", "--only", "a", "--only", "b")
    assert given == {
        "rules": Path("r.yaml"),
        "top": 3,
        "by": "packets",
        "names": True,
        "only": ("a", "b"),
        "share": 0.5,
    }


def test_what_may_be_repeated_has_its_default() -> None:
    """--only said once or more replaces it; None and () are no value at all."""

    def load(bpf, *, only: tuple[str, ...] = ("a", "b"), any: tuple[str, ...] | None = None):
        pass

    given: dict[str, object] = {}
    command = click.Command("c", params=list(options_of([load])), callback=lambda **got: given.update(got))
    CliRunner().invoke(command, [], catch_exceptions=False)
    assert given == {"only": ("a", "b"), "any": ()}
    CliRunner().invoke(command, ["--only", "c"], catch_exceptions=False)
    assert given == {"only": ("c",), "any": ()}


def test_a_function_is_given_what_it_takes() -> None:
    """An option of two functions goes to both, the others to those that have them."""
    given = {"top": 3, "by": "bytes", "only": ("a",)}
    assert chosen(view, given) == {"top": 3, "by": "bytes"}
    assert chosen(watch, given) == {"top": 3, "only": ("a",)}


def test_help_comes_from_the_docstring() -> None:
    """The line that begins with the parameter's name; none is no error."""
    helps = {each.name: each.help for each in options_of([load, view, watch])}
    assert (helps["rules"], helps["top"], helps["share"]) == ("a file of rules", "rows shown", "")


def test_a_type_that_no_option_has_is_named() -> None:
    """The sentence says which parameter of which function."""

    def view(program, *, table: dict[str, int] = {}):  # noqa: B006
        pass

    with pytest.raises(LoadError, match="table"):
        options_of([view])


def test_a_command_of_its_own_is_given_a_place() -> None:
    """`@place_options`: the function has an open Place, and --knob's pairs as a dict."""
    seen: list[object] = []

    @click.command()
    @place_options
    @click.option("--serve", is_flag=True)
    def command(place: Place, knobs: dict[str, str], serve: bool) -> None:
        seen.extend([[each.name for each in place.interfaces], knobs, serve])

    done = CliRunner().invoke(command, ["--serve", "-i", "lo", "-i", "lo", "-k", "a=b=c"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert seen == [["lo"], {"a": "b=c"}, True]


@pytest.mark.parametrize(("text", "meant"), [("500ms", 0.5), ("2", 2.0), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0)])
def test_times_are_written_with_units(text: str, meant: float) -> None:
    """ms, s, m, h or bare seconds."""
    assert seconds(None, None, text) == meant  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0", "-1", "soon", "1d", "", "0s", "1 s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Nor is nothing, which a live view could not wait for."""
    with pytest.raises(click.BadParameter, match="500ms, 1s, 2m"):
        seconds(None, None, text)  # type: ignore[arg-type]


KNOBS = """
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
enum colour { RED, BLUE };
const volatile __u16 port = 1;
const volatile __be32 source = 0;
const volatile bool strict = 0;
const volatile char label[8] = "";
const volatile enum colour colour = RED;
const volatile __s8 offset = 0;
SEC("xdp")
int knobs(struct xdp_md *context)
{
	bpf_printk("%d", port);
	return port + source + strict + label[0] + colour + offset ? XDP_PASS : XDP_DROP;
}
char _license[] SEC("license") = "GPL";
"""


def test_knobs_are_read_by_their_type(tmp_path: Path) -> None:
    """A number, a truth, an address, an enumerator; text stays text where the type is text, whatever it looks like."""
    source = tmp_path / "knobs.bpf.c"
    source.write_text(KNOBS)
    given = {"port": "0x50", "source": "10.0.0.1", "strict": "yes", "label": "80", "colour": "BLUE", "offset": "-3"}
    read = {"port": 80, "source": "10.0.0.1", "strict": True, "label": "80", "colour": "BLUE", "offset": -3}
    assert knob_values("knobs", source, given) == read


def test_knobs_without_a_source_are_guessed() -> None:
    """Macros of a program in BCC style: numbers where they look so."""
    assert knob_values("x", None, {"PORT": "80", "NAME": "eth0", "RATE": "0.5"}) == {
        "PORT": 80,
        "NAME": "eth0",
        "RATE": 0.5,
    }


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "json_value", "text"),
    [
        (Count((2, 120)), {"packets": 2, "bytes": 120}, "packets=2 bytes=120"),
        (PerCpu([Count((2, 120)), Count((1, 60))]), {"packets": 3, "bytes": 180}, "packets=3 bytes=180"),
        (Colour.RED, "RED", "RED"),
        (ipaddress.ip_address("::1"), "::1", "::1"),
        (ipaddress.ip_address("::ffff:10.0.0.1"), "10.0.0.1", "10.0.0.1"),
        (b"\x01\xff", "01ff", "01ff"),
        ((1, 2), [1, 2], "[1, 2]"),
        (1234567, 1234567, "1234567"),
        (0.123456, 0.123456, "0.123"),
        (1234.5, 1234.5, "1234"),
        (None, None, ""),
    ],
)
def test_values_as_json_and_as_words(value: object, json_value: object, text: str) -> None:
    """Records by field, enums by name, per-CPU values summed."""
    assert plain(value) == json_value
    assert json.loads(json.dumps(plain(value))) == json_value
    assert cell(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nginx", "nginx"),
        ("Größe 中", "Größe 中"),
        ("a\x1b[2J\x1b]0;title\x07b", "a\\x1b[2J\\x1b]0;title\\x07b"),
        ("paid\rfree", "paid\\rfree"),
        ("abc\u202edef", "abc\\u202edef"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_a_terminal_obeys_no_cell(text: str, shown: str) -> None:
    """Escape sequences, returns and direction marks are there to read, in a table as in a record."""
    assert cell(text) == visible(text) == shown
    assert cell({"comm": text}) == f"comm={shown}"


def test_lines_of_events_may_keep_their_lines() -> None:
    """What a companion writes itself stays, an escape beside it does not."""
    assert visible("one\n\ttwo\x1b", but="\n\t") == "one\n\ttwo\\x1b"


def test_an_entry_never_written_is_zero() -> None:
    """As far as one can tell from its value."""
    assert is_zero(PerCpu([Count((0, 0))])) and is_zero(b"\0\0") and is_zero(ipaddress.ip_address("0.0.0.0"))
    assert not is_zero(PerCpu([Count((0, 0)), Count((0, 1))])) and not is_zero("x")


def test_tables_in_a_pipe_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers to the right, one line a row; as JSON raw values by title and column."""
    table = Table("sources", ("source", "packets"), [("10.0.0.1", 12345), (ipaddress.ip_address("::"), 3)], "1 more")
    showing.show(table)
    assert capsys.readouterr().out == "sources\nsource    packets\n10.0.0.1    12345\n::              3\n1 more\n"
    assert showing.as_json([table]) == {
        "sources": [{"source": "10.0.0.1", "packets": 12345}, {"source": "::", "packets": 3}]
    }


COMPANION = '''"""bcc_probe: probes by BCC.

More of it.
"""

HOOKS = ("tracepoint/sock/inet_sock_set_state", "raw_tp/sys_enter")

def load(bpf, **knobs): ...
async_view = 3
    view = "not at the top"
'''


def test_a_companion_without_a_source_is_a_program(tmp_path: Path) -> None:
    """HOOKS make it one: listed with its hooks and its docstring's first sentence, and nothing is imported."""
    (tmp_path / "bcc_probe.py").write_text(COMPANION)
    (tmp_path / "other.py").write_text('"""other: is none."""\n')
    (found,) = programs_in([tmp_path])
    assert (found.stem, found.summary) == ("bcc_probe", "probes by BCC")
    assert found.sections == ("tracepoint/sock/inet_sock_set_state", "raw_tp/sys_enter")
    assert not found.has_command
    assert read_companion(tmp_path / "bcc_probe.py").names == {"HOOKS", "load", "async_view"}


def test_a_part_of_the_header_block(tmp_path: Path) -> None:
    """From its title to the empty line."""
    source = tmp_path / "x.bpf.c"
    source.write_text("/* SPDX */\n/*\n * x: y.\n *\n * KNOBS (a)\n *   one 1\n *\n * MAPS\n */\n")
    assert header_part(source, "KNOBS") == " KNOBS (a)\n   one 1"
    assert header_part(source, "NONE") == ""


def test_no_such_interface_lists_those_that_are() -> None:
    """Without root and before anything else."""
    from lab.host import open_place

    with pytest.raises(LabError) as refused, open_place(["eth7"]):
        pass
    assert refused.value.what == "there is no interface 'eth7' here"
    assert "lo" in refused.value.mend
