"""What processes say to each other here: JSON, and errors that stay the lab's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lab import errors
from lab.errors import LabError
from lab.net.cable import OutOfReach

_KINDS: dict[str, type[LabError]] = {
    "OutOfReach": OutOfReach,
    **{name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, LabError)},
}


def error_as_dict(error: Exception) -> dict[str, str]:
    """For JSON; any other error than the lab's is one of its type's name."""
    if isinstance(error, LabError):
        return {"kind": type(error).__name__, "what": error.what, "kernel": error.kernel, "mend": error.mend}
    return {"kind": "LabError", "what": f"{type(error).__name__}: {error}", "kernel": "", "mend": ""}


def error_of(data: Mapping[str, str], where: str = "") -> LabError:
    """The error that `error_as_dict` described, with the place that it came from before it."""
    kind = _KINDS.get(data["kind"], LabError)
    return kind(f"{where}{data['what']}", kernel=data["kernel"], mend=data["mend"])


def line(**words: Any) -> bytes:
    """One message."""
    return json.dumps(words, separators=(",", ":")).encode() + b"\n"
