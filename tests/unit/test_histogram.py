"""Histograms: small, exact to a thousandth, and readable by others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from lab.bench import histogram
from lab.model import statistics

LATENCIES = some.lists(some.integers(1, histogram.LONGEST_NS), min_size=1, max_size=300)


@given(LATENCIES, some.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_right_to_a_thousandth(samples: list[int], fraction: float) -> None:
    """What comes out of the text is the nearest-rank quantile of what went in."""
    found = histogram.quantiles(histogram.encode(samples), {"it": fraction})["it"]
    assert found == pytest.approx(statistics.quantile(samples, fraction), rel=0.001)


def test_many_samples_take_little_room() -> None:
    """200,000 latencies of three orders of magnitude fit into 8 kB of text, and are all counted."""
    samples = [500 + (each * each) % 500_000 for each in range(200_000)]
    text = histogram.encode(samples)
    assert len(text) < 8192
    assert histogram.decode(text).get_total_count() == len(samples)


def test_what_does_not_fit_is_put_at_the_ends() -> None:
    """Nothing is dropped: a negative difference counts as 1 ns, a minute as 10 s."""
    whole = histogram.decode(histogram.encode([-5, 0, 60_000_000_000]))
    assert whole.get_total_count() == 3
    assert whole.get_min_value() == 1
    assert whole.get_max_value() == pytest.approx(histogram.LONGEST_NS, rel=0.001)


def test_two_histograms_add_up() -> None:
    """Merged, they are the histogram of both."""
    both = histogram.merged([histogram.encode([100] * 3), histogram.encode([900])])
    assert histogram.decode(both).get_total_count() == 4
    assert histogram.quantiles(both, {"p50": 0.5, "p99": 0.99}) == {"p50": 100, "p99": 900}


def test_the_table_is_the_one_that_plotters_read() -> None:
    """Values in µs beside their share, and the number of samples below them."""
    table = histogram.percentile_table(histogram.encode([1000, 2000, 3000, 4000]))
    assert "1.000 0.000000000000          1" in table
    assert "TotalCount     =        4.000" in table


@pytest.mark.parametrize("text", ["", "abc", "!!", "HISTFAAAA", histogram.encode([1, 2, 3])[:-40]])
def test_other_text_is_refused(text: str) -> None:
    """Half a histogram is none."""
    with pytest.raises(ValueError, match="not an HDR histogram"):
        histogram.decode(text)
