"""Waits for a machine's end, and tells a machine that did its work from one that was lost."""

from __future__ import annotations

import re
import select
import signal
from pathlib import Path

from lab.matrix.machine import Machine

BOOT_S = 120.0
"""Until the first beat: about 6 s by software emulation on a machine with nothing else to do."""
SILENCE_S = 30.0
"""Between two beats: a second, or a few where many machines share a processor."""
STUCK = "stuck"
"""A file beside the console: whoever counts the tests writes why they go on no more, and ends this process."""
PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
ENDED = re.compile(r"init: the worker ended with status (-?\d+)")
GAVE_UP = re.compile(r"^init: (?!the worker)(.*)", re.MULTILINE)


def watch(machine: Machine, console: Path, *, boot_s: float = BOOT_S, silence_s: float = SILENCE_S) -> str:
    """Waits until the machine ends, or ends it when it is silent for too long; gives why it was lost, "" if it was not.

    A kernel that hangs sends no beat, whatever its worker does.
    """
    silent = _listen(machine, boot_s, silence_s)
    stuck = console.with_name(STUCK)
    if silent:
        machine.process.kill()
    status = machine.process.wait()
    if stuck.is_file():
        return stuck.read_text().strip()
    return _judgement(console.read_text(errors="replace") if console.exists() else "", status, silent)


def _listen(machine: Machine, boot_s: float, silence_s: float) -> str:
    """Hears the beats; "" when they end with the machine."""
    limit_s, heard = boot_s, False
    while True:
        ready, _, _ = select.select([machine.beats], [], [], limit_s)
        if not ready:
            return f"it hangs: no beat for {silence_s:g} s" if heard else f"it did not start within {boot_s:g} s"
        if not machine.beats.recv(64):
            return ""
        limit_s, heard = silence_s, True


def _judgement(said: str, status: int, silent: str) -> str:
    if panic := PANIC.search(said):
        return f"kernel panic: {panic.group(1).strip()}"
    if silent:
        return silent
    if ended := ENDED.search(said):
        return "" if ended.group(1) == "0" else f"its worker ended with status {ended.group(1)}"
    if gave_up := GAVE_UP.search(said):
        return f"it could not be set up: {gave_up.group(1).strip()}"
    return f"QEMU was killed ({signal.Signals(-status).name})" if status < 0 else f"QEMU ended with status {status}"
