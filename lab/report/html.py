"""Writes the report: one HTML file, complete in itself, that opens without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import lab
from lab.errors import StoreError
from lab.report.bills import bill_bar
from lab.report.bills import remarks as bill_remarks
from lab.report.calibrated import FILE, read_calibration
from lab.report.curves import embedded, sample_limit
from lab.report.distribution import distribution_table
from lab.report.drawing import safe_svg
from lab.report.failure import explained
from lab.report.figures import metric_name
from lab.report.forest import forest
from lab.report.measured import Measured, dots
from lab.report.outcome import Test
from lab.report.page import Page, environment_facts, page_of
from lab.report.provenance import machine, provenance
from lab.report.quantity import count, plain, quantity, seconds
from lab.report.rates import losses, rate_rows
from lab.report.read import read_runs
from lab.report.trend_plot import trend_plot
from lab.report.words import shown

if TYPE_CHECKING:
    from jinja2 import Environment


NUMBER = re.compile(r"[\d,.]*\d")
STYLES = ("vendor/uPlot.min.css", "templates/report.css", "templates/numbers.css")


def write(runs: Path, out: Path) -> Path:
    """Reads every stored run in the folder `runs` and writes the page `out`; gives `out`.

    The machine's calibration is looked for beside that folder, where `lab calibrate` puts it.

    StoreError when the page cannot be written. Runs that cannot be read are named on the page.
    """
    text = render(page_of(read_runs(runs), read_calibration(runs.parent / FILE)))
    hidden = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with hidden.open("x", encoding="utf-8", errors="replace") as file:  # never through a link that waits there
            file.write(text)
        hidden.replace(out)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise StoreError(
            f"write the report {out}: the file could not be written",
            kernel=error.strerror or str(error),
            mend="name another file with --out, or free some space",
        ) from error
    return out


def render(page: Page) -> str:
    """The whole page as text."""
    scripts = [_file("vendor/uPlot.iife.min.js"), _file("templates/report.js")]
    style = "".join(map(_file, STYLES))
    return (
        _templates()
        .get_template("report.html.j2")
        .render(
            page=page,
            policy=_policy(scripts),
            style=Markup(style),
            scripts=[Markup(script) for script in scripts],
            data=_json(_data(page)),
            version=lab.__version__,
        )
    )


def _file(name: str) -> str:
    return resources.files("lab.report").joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """Nothing is loaded from anywhere, and only our own scripts run: a run's text cannot, even if it got through."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    nothing = "default-src 'none'; base-uri 'none'; form-action 'none'"
    return f"{nothing}; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


def _data(page: Page) -> dict[str, Any]:
    most = sample_limit(each.measurement for each in page.measured)
    return {
        each.key: {
            **embedded(each.measurement, most),
            "nodeid": each.latest.result.nodeid,
            "run": each.latest.header.id,
        }
        for each in page.measured
    } | {
        each.key: {
            **each.comparison.as_dict(),
            "program": program.name,
            "nodeid": each.latest.result.nodeid,
            "run": each.latest.header.id,
        }
        for program, several in page.compared
        for each in several
    }


def _json(data: Mapping[str, Any]) -> Markup:
    """JSON that no text in it can end: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(data, separators=(",", ":"), default=str, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _drawing(svg: object) -> Markup:
    """The picture of a note; nothing where it has none that is safe to show."""
    return (safe_svg(svg) if isinstance(svg, str) else None) or Markup("")


def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader  # 60 ms, which `lab --help` need not pay

    templates = Environment(
        loader=PackageLoader("lab.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters.update(
        shown=_shown,
        seconds=seconds,
        quantity=quantity,
        count_of=count,
        metric_name=metric_name,
        number_and_unit=_number_and_unit,
        trial_count=_trial_count,
        distribution_table=distribution_table,
        forest=forest,
        bill_bar=bill_bar,
        rate_rows=rate_rows,
        losses=losses,
        remarks=_remarks,
        sentence=_sentence,
        breakable=_breakable,
        provenance=provenance,
        machine=machine,
        dots=dots,
        trend_plot=trend_plot,
        loads=_loads,
        map_names=_map_names,
        diff=_diff,
        drawing=_drawing,
        explained=explained,
        facts=environment_facts,
    )
    return templates


def _shown(value: object) -> str:
    from jinja2 import Undefined

    return "" if isinstance(value, Undefined) else shown(value)


def _number_and_unit(text: str) -> Markup:
    number, _, unit = text.partition(" ")
    return Markup('{} <span class="unit">{}</span>').format(number, unit)


def _breakable(name: str) -> Markup:
    """A name that may be broken behind its underscores, and nowhere else."""
    return Markup("_<wbr>").join(name.split("_"))


def _sentence(text: str) -> str:
    """A remark as a sentence of its own: NDR 0.24 Gbit/s."""
    begins_with_word = text[1:2].isalpha()
    return f"{text[:1].upper() if begins_with_word else text[:1]}{text[1:]}{'' if text.endswith('.') else '.'}"


def _remarks(several: Sequence[Measured]) -> list[str]:
    """What was remarked of these costs, bills left out: those stand in the table.

    Of remarks that differ only in their numbers the first stands for all.
    """
    first: dict[str, str] = {}
    for each in several:
        for remark in bill_remarks(each.measurement):
            alike = NUMBER.sub("", remark)
            first.setdefault(alike, remark if len(several) == 1 else f"{remark} ({each.measurement.subject})")
    return list(first.values())


def _trial_count(measured: Measured) -> str:
    return plain(sum(len(trial.samples) for trial in measured.measurement.trials))


def _loads(times_ms: list[float]) -> str:
    return quantity(median(times_ms), "ms") if times_ms else "not told"


def _map_names(maps: object) -> str:
    """Maps are noted as names, or as facts with a name."""
    if isinstance(maps, list | tuple):
        return ", ".join(_shown(each.get("name", "")) if isinstance(each, Mapping) else _shown(each) for each in maps)
    return ", ".join(map(str, maps)) if isinstance(maps, Mapping) else _shown(maps)


def _diff(text: object, test: Test) -> Markup:
    """Lines that start with + or - set off, as in a diff; everything else as it came."""
    kinds = {"+": "added", "-": "removed"}
    lines = test.cut(text if isinstance(text, str) else _shown(text)).splitlines()
    looks_like_one = {line[:1] for line in lines} >= {"+", "-"}
    return Markup("\n").join(
        Markup('<span class="{}">{}</span>').format(kinds[line[0]], line)
        if looks_like_one and line[:1] in kinds
        else Markup("{}").format(line)
        for line in lines
    )
