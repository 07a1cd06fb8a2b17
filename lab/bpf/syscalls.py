"""System calls by name, as the machine's own headers number them (asm/unistd.h); nothing is typed in here.

>>> numbers()["connect"]
42
"""

from __future__ import annotations

import re
import subprocess
from functools import cache

from lab.errors import BuildError, FeatureMissing

DEFINED = re.compile(r"^#define (__NR\w*) (\w+)$", re.MULTILINE)
MEND = "sudo apt-get install clang linux-libc-dev"


@cache
def numbers() -> dict[str, int]:
    """Name -> number, of this architecture: about 360, and none that is younger than the headers.

    FeatureMissing without clang, which reads them; BuildError where there are none.
    """
    try:
        done = subprocess.run(
            ("clang", "-E", "-dM", "-x", "c", "-"), input="#include <asm/unistd.h>\n", capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise FeatureMissing("read the names of the system calls: clang is not installed", mend=MEND) from error
    if done.returncode:
        raise BuildError("read the names of the system calls: asm/unistd.h", kernel=done.stderr.strip(), mend=MEND)
    found = dict(DEFINED.findall(done.stdout))
    named = {name.removeprefix("__NR_"): _number(found, name) for name in found if name.startswith("__NR_")}
    return {name: number for name, number in named.items() if number is not None and name not in ("syscalls",)}


@cache
def names() -> dict[int, str]:
    """Number -> name."""
    return {number: name for name, number in numbers().items()}


def _number(found: dict[str, str], name: str) -> int | None:
    """Some architectures define one by another: __NR_fcntl is __NR3264_fcntl."""
    value = found[name]
    while value in found:
        value = found[value]
    return int(value, 0) if value[:1].isdigit() else None
