"""The first root of a kernel: a cpio archive in memory with process 1, the modules it needs and what it shall do.

Written by hand ("newc", Documentation/driver-api/early-userspace/buffer-format.rst): an entry is a header of
hexadecimal numbers, the name and the content, each padded to four bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from stat import S_IFCHR, S_IFDIR, S_IFREG

from lab.matrix.modules import Module

END = "TRAILER!!!"


def initramfs(
    init: Path, modules: Iterable[Module], plan: Sequence[str], argv: Sequence[str], environment: Mapping[str, str]
) -> bytes:
    """The archive: /init loads the modules in their order, carries out the plan and starts `argv`."""
    modules = list(modules)
    steps = [*(f"module /modules/{module.name}" for module in modules), *plan]
    return b"".join(
        [
            *(_entry(folder, S_IFDIR | 0o755) for folder in ("dev", "proc", "sys", "modules", "new")),
            _entry("dev/console", S_IFCHR | 0o600, device=(5, 1)),
            *(_entry(f"modules/{module.name}", S_IFREG | 0o400, module.content) for module in modules),
            _entry("init", S_IFREG | 0o500, init.read_bytes()),
            _entry("plan", S_IFREG | 0o400, "".join(f"{step}\n" for step in steps).encode()),
            _entry("argv", S_IFREG | 0o400, _words(argv)),
            _entry("environ", S_IFREG | 0o400, _words(f"{name}={value}" for name, value in environment.items())),
            _entry(END, 0),
        ]
    )


def _words(words: Iterable[str]) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)


def _entry(name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    encoded = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
