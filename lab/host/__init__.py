"""Programs on the interfaces of the machine itself: what `lab attach` and `lab <stem>` are built of."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.host.options import Stopped as Stopped
    from lab.host.options import place_options as place_options
    from lab.host.options import until_told_to_stop as until_told_to_stop
    from lab.host.place import Place as Place
    from lab.host.place import open_place as open_place
    from lab.host.subject import attached as attached

_HOME = {
    "Stopped": "lab.host.options",
    "Place": "lab.host.place",
    "attached": "lab.host.subject",
    "open_place": "lab.host.place",
    "place_options": "lab.host.options",
    "until_told_to_stop": "lab.host.options",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'lab.host' has no attribute {name!r}")
