"""Iterator programs: run once for each object of a kind (`iter/tcp`, `iter/task`, ...), when user space asks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lab.bpf.attach.hooks import TRACE_ITER
from lab.bpf.attach.link import make_link, refusal
from lab.errors import AttachError
from lab.kernel import bpf

if TYPE_CHECKING:
    from lab.bpf.attachment import Attachable

CHUNK_BYTES = 65_536
MEND = "a kernel since 5.8 with CONFIG_DEBUG_INFO_BTF"


def iterate(program: Attachable) -> bytes:
    """Runs the program over all there is, once, and gives what it wrote with bpf_seq_write().

    Sockets are those of the calling thread's network namespace: `net["server"].run(iterate, program)`.
    """
    if program.expected_attach_type != TRACE_ITER:
        raise AttachError(
            f"iterate {program.name}: its section {program.section} is no iterator", mend='SEC("iter/tcp")'
        )
    try:
        link = make_link(program, 0, TRACE_ITER)
    except OSError as error:
        raise refusal(program, "", program.section, error, mend=MEND) from error
    with link.undo:
        file = bpf.iter_create(link.fd)
        try:
            return b"".join(iter(lambda: os.read(file, CHUNK_BYTES), b""))
        finally:
            os.close(file)
