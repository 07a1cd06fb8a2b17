"""What a page draws of raw trials."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from lab.model.measurement import Trial
from lab.report.curves import arms
from lab.report.read import read_runs
from tests.unit.sample_run import cost, run_of, scenario, store


def test_the_yardstick_is_no_trial_of_the_program() -> None:
    """The reference arm of a cost is not drawn among what the program did."""
    measured = cost("xdp_filter", random.Random(1), 1)
    with_yardstick = replace(measured, trials=(*measured.trials, Trial("reference", (170.0, 171.0))))
    assert arms(with_yardstick) == arms(measured)


def test_noise_that_is_no_mapping_is_set_aside(tmp_path: Path) -> None:
    """A stored run whose noise is a word is named as broken; the page goes on without it."""
    measured = replace(cost("xdp_filter", random.Random(1), 1), noise="loud")  # type: ignore[arg-type]
    store(run_of(scenario(measurements=(measured,))), tmp_path)
    assert len(read_runs(tmp_path).broken) == 1
