"""What each kernel offers of the features that the lab knows: asked in a machine, written as a document."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from lab.errors import LabError
from lab.features import FEATURES, came_before
from lab.matrix.kernel import Kernel

LIMIT_S = 180
SIGNS = {"yes": "yes", "no": "-", "unknown": "?"}


@dataclass(frozen=True)
class Offer:
    """A feature's answer on one kernel ("yes", "no", "unknown"), and the kernel's words."""

    answer: str
    detail: str = ""


def ask(kernel: Kernel) -> dict[str, Offer]:
    """Boots it and probes every feature; LabError, with the reason, where its machine was lost."""
    path = kernel.vmlinuz if kernel.vmlinuz.name.startswith("vmlinuz-") else kernel.modules
    with tempfile.TemporaryDirectory(prefix="bpflab-vm-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.matrix.worker", str(path), "-m", "lab.cli", "features", "--json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LAB_VM_FOLDER": folder},
            text=True,
        )
        try:
            assert process.stdout and process.stderr
            said = process.stdout.read()  # its input stays open: the machine would take its end for a farewell
            reason = process.stderr.read()
            process.wait(LIMIT_S)
        finally:
            process.kill()
            process.communicate()
    try:
        return {name: Offer(*each) for name, each in json.loads(said).items()}
    except ValueError as error:
        raise LabError(f"ask {kernel.release} for its features", kernel=reason.strip()) from error


def unexpected(columns: Mapping[str, Mapping[str, Offer]]) -> list[str]:
    """A sentence for each feature that a kernel lacks though it is younger than the feature."""
    return [
        f"{release}: no {name}, which came with {FEATURES[name].since or 'every version'} ({offer.detail})"
        for release, offers in columns.items()
        for name, offer in offers.items()
        if offer.answer != "yes" and came_before(FEATURES[name], release)
    ]


def document(columns: Mapping[str, Mapping[str, Offer]]) -> str:
    """docs/features.md."""
    names = list(next(iter(columns.values())))
    lines = [
        "# What each kernel offers",
        "",
        "Written by `lab features --matrix`: every feature was tried on every kernel, no version was looked at.",
        "`-` means not there; the reasons stand below the table.",
        "",
        f"| feature | gives | since | {' | '.join(columns)} |",
        f"| --- | --- | --- |{' --- |' * len(columns)}",
    ]
    for name in names:
        feature = FEATURES[name]
        answers = " | ".join(SIGNS[offers[name].answer] for offers in columns.values())
        lines.append(f"| `{name}` | {feature.gives} | {feature.since} | {answers} |")
    reasons = [
        f"- `{name}` on {release}: {_one_line(offers[name].detail)}"
        for release, offers in columns.items()
        for name in names
        if offers[name].answer != "yes"
    ]
    return "\n".join([*lines, "", "## What is missing, in the kernels' words", "", *reasons, ""])


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip() or "no reason given"
