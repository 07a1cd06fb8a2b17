"""A page of its own for a session on several kernels: programs down, kernels across, reasons below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lab.model.run import Result

WORDS = {"passed": "passed", "failed": "failed", "error": "failed", "xpassed": "failed", "xfailed": "expected to fail"}
ORDER = ("failed", "lost", "passed", "expected to fail", "skipped")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c1e21 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .35rem .8rem; text-align: left;
border-bottom: 1px solid #d9dce1; vertical-align: top } td { font-variant-numeric: tabular-nums }
.failed, .lost { color: #a40000; font-weight: 600 } .skipped { color: #6b5900 } .passed { color: #1a6b2d }
pre { background: #f4f5f7; padding: .8rem; overflow-x: auto; font-size: 13px } summary { cursor: pointer }
td > span, td summary, thead th { white-space: nowrap } .wide { overflow-x: auto }
.wide th:first-child { position: sticky; left: 0; background: #fff } .reason { overflow-wrap: anywhere }
@media (max-width: 40rem) { body { margin: 1rem auto; font-size: 14px } th, td { padding: .3rem .4rem } }
@media (prefers-color-scheme: dark) { body { background: #15171a; color: #e4e6ea } pre { background: #22252a }
.wide th:first-child { background: #15171a } th, td { border-color: #33373d }
.failed, .lost { color: #ff7b72 } .skipped { color: #d9b94a } .passed { color: #6fcf87 } }
"""


@dataclass(frozen=True)
class Column:
    """A kernel: what it is called, what ran on it, and why its machine was lost ("" where it was not)."""

    name: str
    release: str
    results: Sequence[Result]
    lost: str = ""
    console: str = ""


def word_of(result: Result) -> str:
    """One of ORDER."""
    return WORDS.get(result.outcome, result.outcome)


def cells(columns: Sequence[Column]) -> dict[str, list[Counter[str]]]:
    """Of each program, and for each column in order, how many of its tests came to what."""
    programs = sorted({result.program for column in columns for result in column.results})
    return {
        program: [Counter(word_of(each) for each in column.results if each.program == program) for column in columns]
        for program in programs
    }


def write(columns: Sequence[Column], out: Path, title: str) -> Path:
    """The page; it needs nothing beside it."""
    page = Markup(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>{title}</title><style>{style}</style><h1>{title}</h1>{lost}{table}{failed}{skipped}</html>\n"
    ).format(
        title=title,
        style=Markup(STYLE),
        lost=_lost(columns),
        table=_table(columns),
        failed=_failed(columns),
        skipped=_skipped(columns),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8", errors="replace")
    return out


def _joined(parts: Sequence[Markup]) -> Markup:
    return Markup("").join(parts)


def _lost(columns: Sequence[Column]) -> Markup:
    form = Markup(
        "<p class=lost>{}: the machine was lost: {}</p><details><summary>its console</summary><pre>{}</pre></details>"
    )
    return _joined([form.format(each.release, each.lost, each.console) for each in columns if each.lost])


def _table(columns: Sequence[Column]) -> Markup:
    head = _joined([Markup("<th title='{}'>{}").format(each.release, each.name) for each in columns])
    row = Markup("<tr><th scope=row>{}{}")
    rows = [
        row.format(program, _joined([_cell(each) for each in counted])) for program, counted in cells(columns).items()
    ]
    return Markup("<div class=wide><table><thead><tr><th>program{}<tbody>{}</table></div>").format(head, _joined(rows))


def _cell(counted: Mapping[str, int]) -> Markup:
    form = Markup("<span class='{}'>{} {}</span>")
    said = [form.format(word, counted[word], word) for word in ORDER if counted.get(word)]
    return Markup("<td>{}").format(Markup("<br>").join(said) if said else "-")


def _failed(columns: Sequence[Column]) -> Markup:
    form = Markup("<details><summary class=failed>{} on {}</summary><pre>{}</pre></details>")
    found = [
        form.format(result.nodeid, column.release, result.reason)
        for column in columns
        for result in column.results
        if word_of(result) == "failed"
    ]
    return Markup("<h2>Failed</h2>{}").format(_joined(found)) if found else Markup("")


def _skipped(columns: Sequence[Column]) -> Markup:
    """Each reason once, with its kernel and the tests that were left out for it."""
    left_out: dict[tuple[str, str], list[str]] = {}
    for column in columns:
        for result in column.results:
            if word_of(result) == "skipped":
                left_out.setdefault((column.name, result.reason), []).append(result.nodeid)
    row = Markup("<tr><td>{}<td class=reason>{}<td><details><summary>{}</summary>{}</details>")
    rows = [
        row.format(kernel, reason, len(tests), Markup("<br>").join(tests))
        for (kernel, reason), tests in left_out.items()
    ]
    head = Markup("<h2>Skipped</h2><table><thead><tr><th>kernel<th>reason<th>tests<tbody>{}</table>")
    return head.format(_joined(rows)) if rows else Markup("")
