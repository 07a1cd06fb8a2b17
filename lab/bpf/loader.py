"""Loads programs, and closes what it loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.bpf.find import find
from lab.bpf.loading import Wishes, load_file
from lab.bpf.map import Map
from lab.bpf.program import Program


class Loader:
    """Loads programs, and closes all of them in reverse when it ends; the fixture `bpf` is one.

    `near` is the folder where the search for a stem begins; see `lab.bpf.find.find`.
    """

    def __init__(self, near: Path | None = None) -> None:
        self._near = near
        self._stack = ExitStack()

    def load(
        self,
        source: str | os.PathLike[str],
        /,
        *,
        program: str | None = None,
        max_entries: Mapping[str, int] | None = None,
        share: Mapping[str, Map] | None = None,
        cflags: Sequence[str] = (),
        **knobs: Any,
    ) -> Program:
        """A loaded program, as `lab.bpf.load` gives it; closed with this loader at the latest."""
        wishes = Wishes(program, knobs, max_entries or {}, share or {}, cflags)
        loaded = load_file(find(source, self._near), wishes)
        self._stack.callback(loaded.close)
        return loaded

    def load_bcc(self, source: str | os.PathLike[str], /, fn: str, section: str = "", **options: Any) -> Program:
        """The function `fn` of a program in BCC style, a text or a path, as `lab.bpf.bcc.load` gives it."""
        from lab.bpf import bcc

        loaded = bcc.load(source, fn, section, **options)
        self._stack.callback(loaded.close)
        return loaded

    def close(self) -> None:
        """Closes everything, the newest first."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
