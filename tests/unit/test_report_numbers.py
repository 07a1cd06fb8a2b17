"""Figures and what they stand on: comparisons, calibration, noise, distributions, bills, rates."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.bench import histogram
from lab.model.measurement import Limit
from lab.report.bills import bill_bar
from lab.report.compared import change
from lab.report.figures import telling_figure
from lab.report.hdr import curve_of
from lab.report.read import read_runs
from lab.report.text import summary
from tests.unit import sample_numbers as numbers
from tests.unit import sample_run as sample
from tests.unit.test_report_html import HOSTILE, Page, page_of


def with_calibration(tmp_path: Path, text: str, *runs: Any) -> Page:
    (tmp_path / "calibration.json").write_text(text)
    return page_of(tmp_path, *runs)


def places(page_text: str, kind: str) -> list[float]:
    """Where the lines of a class begin and end across, in percents."""
    lines = re.findall(rf'class="{kind}" x1="([\d.]+)%" x2="([\d.]+)%"', page_text)
    return [float(end) for line in lines for end in line]


# comparisons


def test_comparisons_stand_in_a_forest_plot(tmp_path: Path) -> None:
    """Each has its row with who met whom, the verdict and the interval in words, and its own place on one axis."""
    runs = (
        numbers.compared(
            numbers.comparison(),
            numbers.comparison(-0.05, "faster", subject="IPv6, 1 flow"),
            numbers.comparison(0.0, "no difference", subject="ICMP, 1 flow"),
        ),
    )
    page = page_of(tmp_path, *runs)

    assert [str(row["class"]).split()[1] for row in page.having("forest-row")] == [
        *("no-difference", "slower", "faster", "forest-axis")
    ]
    assert "3.1 % slower 99.99 %: +2.9 to +3.3 %" in page.text
    assert "5.0 % faster 99.99 %: −5.2 to −4.8 %" in page.text  # noqa: RUF001
    assert "no difference 99.99 %: −0.20 to +0.20 %" in page.text  # noqa: RUF001
    equal, slower, faster = (
        each for each in zip(*[iter(places((tmp_path / "index.html").read_text(), "reach"))] * 2, strict=True)
    )
    assert faster[1] < equal[0] < equal[1] < slower[0]


def test_comparisons_are_no_tests(tmp_path: Path) -> None:
    """They count as no benchmark, make no square, head no page, and make no result of the tests an older one."""
    run = sample.run_of(sample.scenario("xdp_filter"))
    page = page_of(tmp_path, run, numbers.compared(numbers.comparison()))

    assert "All 1 scenario of 1 program passed" in page.text
    assert "Comparisons: 1 slower." in page.text
    assert "Benchmarks:" not in page.text and "from older run" not in page.text
    assert len([square for square in page.having("square") if square.get("href")]) == 1
    assert "3.1 % slower than xdp_filter@main, IPv4, a miss, 1 flow" in page.text


def test_a_program_that_was_only_compared_has_its_place(tmp_path: Path) -> None:
    """Without any test the page is about the comparison, and does not call the program the lab itself."""
    page = page_of(tmp_path, numbers.compared(numbers.comparison()))

    assert page.text.count("1 comparison") >= 2
    assert "no program was loaded" not in page.text and "No results yet" not in page.text
    assert "xdp_filter against xdp_filter@main, IPv4, a miss, 1 flow: 3.1 % slower" in summary(tmp_path / "runs")


def test_the_newest_comparison_of_two_counts(tmp_path: Path) -> None:
    """The same two on the same workload are shown once, as the newest run has it; other workloads stay."""
    old = numbers.compared(numbers.comparison(), numbers.comparison(subject="fd00::1, 1 flow"), minutes=1)
    new = numbers.compared(numbers.comparison(0.0, "no difference"), minutes=2)
    page = page_of(tmp_path, old, new)

    assert "Comparisons: 1 slower, 1 no difference." in page.text
    assert read_runs(tmp_path / "runs").aside == ()


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "worse"},
        {"ratio": (1.0, 2.0)},
        {"base": "100"},
        {"trials": [{"arm": "A", "samples": ["x"]}]},
        {"noise": []},
        {"difference": (float("nan"), 0.0, 0.0)},
    ],
)
def test_a_comparison_that_is_none_is_named_and_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    """A note of a wrong verdict, shape or type makes its file a broken one, and the others are shown."""
    run = numbers.compared(numbers.comparison()).as_dict()
    run["results"][0]["notes"]["comparison"][0].update(change)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "20261121T060000-abcdef.json").write_text(json.dumps(run))
    page = page_of(tmp_path, sample.run_of(sample.scenario("xdp_filter")))

    assert "Could not read 20261121T060000-abcdef.json" in page.text
    assert not page.having("forest-row")


def test_a_comparison_of_an_older_version_is_read(tmp_path: Path) -> None:
    """One that was stored before the negligible difference was has no grey band, and all the rest."""
    run = numbers.compared(numbers.comparison()).as_dict()
    del run["results"][0]["notes"]["comparison"][0]["negligible"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / f"{run['id']}.json").write_text(json.dumps(run))

    assert "3.1 % slower" in page_of(tmp_path).text


def test_huge_differences_and_none_at_all_are_drawn(tmp_path: Path) -> None:
    """Factors stand on a logarithmic axis, and where A costs nothing the difference in ns is told instead."""
    several = numbers.compared(
        numbers.comparison(30.0, half=0.1),
        numbers.comparison(base=0.0, ratio=(1.0, 1.0, 1.0), subject="nothing at all"),
    )
    page = page_of(tmp_path, several)

    assert "20 times" in page.text
    assert "3.10 ns/packet slower" in page.text
    assert all(0 <= place <= 100 for place in places((tmp_path / "index.html").read_text(), "reach"))


def test_an_open_comparison_says_what_it_would_take(tmp_path: Path) -> None:
    """Inconclusive comes with its reason: noise, or the time that is missing."""
    several = numbers.compared(
        numbers.comparison(0.0, "inconclusive", to_be_sure_s=12.4, half=0.03),
        numbers.comparison(0.0, "inconclusive", subject="noisy", noise={"sentence": numbers.NOISY}),
    )
    page = page_of(tmp_path, several)

    assert "about 12 s more would settle it" in page.text
    assert numbers.NOISY in page.text


def test_changes_read_as_people_write_them() -> None:
    """Two digits that matter, a sign, and no signed zero."""
    assert [change(ratio) for ratio in (1.0312, 1.00042, 0.88, 2.5, 1.0)] == [
        *("+3.1 %", "+0.04 %", "−12 %", "+150 %", "0.00 %")  # noqa: RUF001
    ]


# calibration


def test_the_calibration_is_on_the_page(tmp_path: Path) -> None:
    """What was put in, what had to be found, what was, in words for held and missed; and what the lab sees here."""
    page = with_calibration(
        tmp_path, json.dumps(numbers.calibration().as_dict()), sample.run_of(sample.scenario("xdp_filter"))
    )

    assert "2 of 3 bars reached" in page.text
    assert "On this machine the lab sees a slowdown of 1 % of 401 ns in 300 ms: 3 of 3 times." in page.text
    assert re.search(r"10 s at over 1 M packets/s\s*none lost\s*3 lost\s*missed", page.text)
    assert "put in: 4.10 ns" in page.text
    assert "an injected delay of 1 µs recovered, median: off by" in page.text
    assert "Another machine" not in page.text


def test_a_calibration_of_another_machine_is_said_to_be_one(tmp_path: Path) -> None:
    """Another kernel is named: what the lab saw there says nothing of figures from here."""
    other = replace(numbers.calibration(), environment=replace(sample.ENVIRONMENT, kernel="5.10.0"))
    page = with_calibration(tmp_path, json.dumps(other.as_dict()), sample.run_of(sample.scenario("xdp_filter")))

    assert "Another machine than that of the newest run: kernel: 5.10.0 and 6.18.5." in page.text


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"schema": 9}',
        '{"schema": 1}',
        json.dumps({**numbers.calibration().as_dict(), "bars": [{"what": 1, "bar": "", "reached": "", "held": True}]}),
        json.dumps({**numbers.calibration().as_dict(), "bars": [{"what": "", "bar": "", "reached": "", "held": "no"}]}),
        json.dumps({**numbers.calibration().as_dict(), "started": "yesterday"}),
    ],
)
def test_a_calibration_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, the page is written, without a calibration and with its name."""
    page = with_calibration(tmp_path, text, sample.run_of(sample.scenario("xdp_filter")))

    assert "Could not read calibration.json" in page.text
    assert "bars reached" not in page.text


@pytest.mark.parametrize("data", [{}, {"true_ns": "x"}, {"true_ns": 1, "difference_ns": [1, None], "verdict": 3}])
def test_bars_without_numbers_are_told_in_words(tmp_path: Path, data: dict[str, Any]) -> None:
    """A bar whose data is of another shape stands in the table, and nothing is drawn of it."""
    whole = numbers.calibration().as_dict()
    whole["bars"] = [{**bar, "data": data} for bar in whole["bars"]]
    page = with_calibration(tmp_path, json.dumps(whole))

    assert "+1 % on a 400 ns program" in page.text
    assert "put in:" not in page.text and "On this machine the lab sees" not in page.text


# noise


def test_a_noisy_figure_keeps_and_breaks_no_limit(tmp_path: Path) -> None:
    """It says what disturbed it, and its limit is undecided, whether the figure is below or above."""
    noisy = numbers.latency(noise=numbers.NOISY)
    above = replace(noisy, limit=Limit("p99", 100.0), subject="the other")
    page = page_of(tmp_path, numbers.benchmark(noisy, above))

    assert "Limits kept: 0 of 2, 2 undecided." in page.text
    assert page.text.count("undecided") >= 3
    assert numbers.NOISY in page.text and "2 figures of 2 were too noisy" in page.text
    assert "broken" not in page.text
    assert telling_figure(above).sentence.endswith(f"limit below 100 ns: undecided; {numbers.NOISY}")


def test_noise_stands_beside_figures_of_few_trials_too(tmp_path: Path) -> None:
    """In the plot itself, where the figure is, and its limit is undecided there."""
    noisy = replace(numbers.overhead(), noise={"sentence": numbers.NOISY}, limit=Limit("mean", 100.0))
    page_of(tmp_path, numbers.benchmark(noisy))
    (row,) = re.findall(r'<div class="dot-row">.*?</div>', (tmp_path / "index.html").read_text())

    assert numbers.NOISY in row and "mean below 100 ns/call: undecided" in row


def test_a_quiet_figure_decides(tmp_path: Path) -> None:
    """The neighbour case: the same figure without noise breaks its limit, and there is no warning."""
    page = page_of(tmp_path, numbers.benchmark(replace(numbers.latency(), limit=Limit("p99", 100.0))))

    assert "1 limit broken" in page.text
    assert not page.having("noise")


# distributions


def test_a_latency_shows_all_its_arms(tmp_path: Path) -> None:
    """Each arm with the number of all its samples, what is added with its stored intervals, and its parts."""
    page = page_of(tmp_path, numbers.benchmark(numbers.latency()))

    for arm in ("with the program", "with an empty program", "without, once more"):
        assert arm in page.text
    assert page.text.count("20,000") == 4
    assert re.search(r"added\s*700 ns ?690 to 710 ns", page.text)
    assert "650 to 750 ns" in page.text
    assert re.search(r"of it the hook\s*600 ns", page.text) and re.search(r"of it the program\s*100 ns", page.text)


def test_curves_are_of_the_histogram(tmp_path: Path) -> None:
    """The page draws all samples, not the part that was stored as it is, to a thousandth."""
    measurement = numbers.latency()
    page = page_of(tmp_path, numbers.benchmark(measurement))
    (embedded,) = page.data.values()

    whole = histogram.quantiles(str(measurement.trials[0].facts["histogram"]), {"p50": 0.5, "p999": 0.999})
    curve = embedded["curves"]["with"]
    drawn = {
        name: next(v for v, s in zip(curve["value"], curve["share"], strict=True) if s >= share)
        for name, share in (("p50", 0.5), ("p999", 0.999))
    }
    assert drawn == whole
    assert whole["p999"] > 10 * whole["p50"]


@pytest.mark.parametrize("text", [None, 7, "", "HISTFAAA", "x" * 100_000, "HISTFAAAABt4nJNpmSzMwMDAxAABzFCaEUoz"])
def test_what_is_no_histogram_gives_no_curve(text: object) -> None:
    """Text of another kind, cut short or endless is no histogram; the stored samples are drawn instead."""
    assert curve_of(text) is None


# costs, bills, rates


def test_a_cost_is_drawn_by_its_loads(tmp_path: Path) -> None:
    """A dot is what a load added to the floor: neither the floor itself nor a turn that was interrupted."""
    page = page_of(tmp_path, numbers.benchmark(numbers.cost()))
    text = (tmp_path / "index.html").read_text()

    assert text.count('class="trial"') == 2
    axis = [int(tick) for tick in re.findall(r'text-anchor="end">([\d]+)</text>', text)]
    assert max(axis) == 150
    assert "mean of the loads" in page.text


def test_a_bill_is_a_bar_that_adds_up(tmp_path: Path) -> None:
    """Two kinds of calls and the program's own code fill the bar, and the words stand beside it."""
    shares = [float(share) for share in re.findall(r'width="([\d.]+)%"', bill_bar(numbers.cost()))]
    page = page_of(tmp_path, numbers.benchmark(numbers.cost()))

    assert shares == [67.8, 12.71, 19.49]
    assert "2 hash lookups, 1 ktime_get_ns = 95 of 118 ns" in page.text


@pytest.mark.parametrize("bill", [None, "x", [], [{"ns": "1"}], [{"what": "x", "ns": -1}], [3], {"ns": 1}])
def test_what_is_no_bill_draws_none(bill: object) -> None:
    """Facts come from anywhere: what has another shape is passed over."""
    measured = numbers.cost()
    trial = replace(measured.trials[0], facts={"flows": 1, "bill": bill})
    assert bill_bar(replace(measured, trials=(trial,))) == ""


def test_a_rate_shows_its_parts_and_its_losses(tmp_path: Path) -> None:
    """NDR with the bounds of its search, MRR and path as trials, the generator in words, a dot for each trial."""
    page = page_of(tmp_path, numbers.benchmark(numbers.rate()))
    text = (tmp_path / "index.html").read_text()

    assert "no-drop rate 2.40 M packets/s searched down to: 2.40 to 2.50 M packets/s" in page.text
    assert "95 %: 2.40 to 2.50 M packets/s" not in page.text
    assert re.search(r"generator into a sink, median of 3 trials: 12 M packets/s, off the scale", page.text)
    assert (text.count('class="lossless"'), text.count('class="lossy"')) == (2, 1)
    assert "2 % lost or late" in text


def test_overhead_is_a_headline(tmp_path: Path) -> None:
    """A tracer's overhead stands in the overview, and not "not measured"."""
    page = page_of(tmp_path, numbers.benchmark(numbers.overhead()))

    assert [str(value["href"])[1] for value in page.having("value") if value.get("href")] == ["m"]
    assert "212 ns/call" in page.text and "not measured" not in page.text
    assert "Overhead, getppid: mean 212 ns/call" in summary(tmp_path / "runs")


def test_method_machine_and_run_stand_beside_every_figure(tmp_path: Path) -> None:
    """Of each kind of figure: how, on which machine and core, and in which run of which commit."""
    kinds = (numbers.latency(), numbers.cost(), numbers.rate(), numbers.overhead())
    for number, measurement in enumerate(kinds):
        folder = tmp_path / str(number)
        page = page_of(folder, numbers.benchmark(measurement))
        method = measurement.method.replace("_", " ")
        assert f"Method: {method}. Machine: Linux 6.18.5, AMD EPYC 9B14, 2 CPUs, BPF JIT on" in page.text
        assert "of commit 65720ea0+." in page.text
    assert f"Method: prog run duet. Machine: Linux 6.18.5, AMD EPYC 9B14, 2 CPUs, BPF JIT on; on {numbers.CORE}." in (
        page_of(tmp_path / "compared", numbers.compared(numbers.comparison())).text
    )


@pytest.mark.parametrize("path", [["client/eth0: tso off", "server/eth0: gro off"], [3, None], "text", 7, {}])
def test_what_a_path_was_set_to_is_told_where_it_can_be(tmp_path: Path, path: Any) -> None:
    """A list of sentences stands beside the figure; whatever else is there breaks no page."""
    measured = replace(numbers.rate(), noise={"core": numbers.CORE, "sentence": "", "path": path})
    page = page_of(tmp_path, numbers.benchmark(measured))

    assert ("Path: client/eth0: tso off; server/eth0: gro off." in page.text) == (
        path != "text" and "client" in str(path)
    )
    assert "Method: live frames." in page.text


def test_another_commit_forbids_no_comparison(tmp_path: Path) -> None:
    """Results of two commits are said to be such; that their numbers do not compare is said of machines only."""
    other = replace(sample.ENVIRONMENT, commit="1234567890")
    runs = sample.run_of(sample.scenario("a"), environment=other), sample.run_of(sample.scenario("b"), minutes=5)

    page = page_of(tmp_path, *runs)
    assert "The results shown are of different commits" in page.text and "do not compare" not in page.text


# text that would like to be more


def test_text_of_comparisons_and_calibrations_stays_text(tmp_path: Path) -> None:
    """Names, subjects, sentences and noise that are written as a script add no element that runs or loads."""
    hostile = numbers.comparison(
        a=HOSTILE,
        b=HOSTILE,
        subject=HOSTILE,
        sentence=HOSTILE,
        method=HOSTILE,
        noise={"sentence": HOSTILE, "core": HOSTILE},
    )
    calibration = numbers.calibration()
    bars = tuple(replace(bar, what=HOSTILE, bar=HOSTILE, reached=HOSTILE) for bar in calibration.bars)
    cost = replace(numbers.cost(noise=HOSTILE), subject=HOSTILE, remarks=(f"pays for {HOSTILE}", HOSTILE))
    page = with_calibration(
        tmp_path,
        json.dumps(replace(calibration, bars=bars).as_dict()),
        numbers.compared(hostile, program=HOSTILE),
        numbers.benchmark(cost, replace(numbers.rate(), subject=HOSTILE)),
    )

    assert HOSTILE in "".join(page.words)
    assert len(page.scripts) == 3
    assert not [
        tag for tag, attributes in page.elements if tag == "img" or "onerror" in attributes or "onload" in attributes
    ]


def test_the_page_with_everything_is_written_whole(tmp_path: Path) -> None:
    """Everything at once: names to link to are unique, and every link leads to one."""
    several = (numbers.latency(), numbers.cost(), numbers.cost(flows=65_536, noise=numbers.NOISY), numbers.rate())
    page = with_calibration(
        tmp_path,
        json.dumps(numbers.calibration().as_dict()),
        numbers.benchmark(*several),
        numbers.compared(numbers.comparison()),
    )
    names = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    links = {
        str(attributes["href"])[1:]
        for _, attributes in page.elements
        if str(attributes.get("href", "")).startswith("#")
    }

    assert len(names) == len(set(names))
    assert links <= set(names)
