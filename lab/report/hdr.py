"""The curve of an HDR histogram (hdrhistogram.org), as a latency trial stores one of all its samples."""

from __future__ import annotations

from typing import Any

LONGEST_TEXT = 65_536
"""Characters: a histogram of latencies has some 300, and one made to fill memory has more."""
MOST_POINTS = 400
"""Below p99; beyond it every point is kept, so that the tail is drawn whole."""
TAIL = 0.99


def curve_of(text: object) -> dict[str, list[float]] | None:
    """Values in ns and the share of all samples that are at most this long; None for what is no histogram.

    >>> curve_of(encode([100, 200, 200, 300]))
    {'share': [0.25, 0.75, 1.0], 'value': [100, 200, 300]}
    """
    if not isinstance(text, str) or len(text) > LONGEST_TEXT:
        return None
    steps = _steps(text)
    if not steps:
        return None
    total = steps[-1][1]
    body = [step for step in steps if step[1] < TAIL * total]
    kept = body[:: max(1, len(body) // MOST_POINTS)] + steps[len(body) :]
    return {"share": [round(count / total, 7) for _, count in kept], "value": [value for value, _ in kept]}


def _steps(text: str) -> list[tuple[int, int]]:
    """Each value that was recorded, and how many samples are at most that."""
    import binascii
    import zlib

    from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
    from hdrh.histogram import HdrHistogram

    refused: tuple[type[Exception], ...] = (
        *(binascii.Error, zlib.error, ValueError, TypeError, IndexError, OverflowError, MemoryError),
        *(HdrCookieException, HdrHistogramSettingsException, HdrLengthException),
    )
    try:
        whole: Any = HdrHistogram.decode(text.encode())
        steps = [
            (whole.get_highest_equivalent_value(step.value_iterated_to), step.total_count_to_this_value)
            for step in whole.get_recorded_iterator()
        ]
    except refused:
        return []
    return steps if steps and steps[-1][1] > 0 else []
