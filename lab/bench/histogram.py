"""Latencies kept small: an HDR histogram of all of them, to a thousandth of each value (hdrhistogram.org).

A histogram takes a few kilobytes at most however many samples there are (of latencies 300 bytes are usual), any tool of
that family reads it, and two of them add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST_NS = 10_000_000_000
DIGITS = 3


def encode(samples_ns: Sequence[float] | NDArray[Any]) -> str:
    """The histogram as text: compressed and in base64, as HdrHistogram's log format V2 has it.

    Values below 1 ns count as 1, and those over 10 s as 10 s.
    """
    import numpy
    from hdrh.histogram import HdrHistogram

    made = HdrHistogram(1, LONGEST_NS, DIGITS)
    values = numpy.clip(numpy.rint(numpy.asarray(samples_ns)), 1, LONGEST_NS).astype(numpy.int64)
    for value, count in zip(*numpy.unique(values, return_counts=True), strict=True):
        made.record_value(int(value), int(count))
    return str(made.encode().decode())


def decode(text: str) -> Any:
    """The `hdrh.histogram.HdrHistogram` that `encode` wrote; ValueError when it is none."""
    import binascii
    import zlib

    from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
    from hdrh.histogram import HdrHistogram

    refused = (binascii.Error, zlib.error, HdrCookieException, HdrHistogramSettingsException, HdrLengthException)
    try:
        return HdrHistogram.decode(text.encode())
    except refused as error:
        raise ValueError(f"not an HDR histogram in base64: {error}") from error


def merged(texts: Sequence[str]) -> str:
    """The histogram of all samples of several."""
    whole = decode(texts[0])
    for text in texts[1:]:
        whole.add(decode(text))
    return str(whole.encode().decode())


def quantiles(text: str, fractions: Mapping[str, float]) -> dict[str, float]:
    """Nearest-rank quantiles in ns by name, each to a thousandth.

    >>> quantiles(encode([100, 200, 300]), {"p50": 0.5})
    {'p50': 200.0}
    """
    whole = decode(text)
    count = whole.get_total_count()
    ranks = {name: max(1, ceil(share * count)) for name, share in fractions.items()}
    return {name: float(whole.get_value_at_percentile(100 * rank / count)) for name, rank in ranks.items()}


def percentile_table(text: str) -> str:
    """The percentile distribution as HdrHistogram's plotter reads it (.hgrm), in µs."""
    from io import BytesIO

    out = BytesIO()
    decode(text).output_percentile_distribution(out, 1000)
    return out.getvalue().decode()
