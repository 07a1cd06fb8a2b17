"""Programs in BCC style: C text that bcc.BPF compiles, on the same networks and with the same assertions.

program = bcc.load(TEXT, fn="count", section="xdp", PORT=9000)     # PORT is a macro of the text
with program.attach(net.interface("server/eth0"), mode=Mode.NATIVE):
    net.send(...)
program.maps["flows"].eventually().has(("10.0.0.1", 9000), {"packets": 100})

A compile takes 0.2 s, in a thread of its own: BCC changes the working directory meanwhile, and reads tracefs.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.bpf import bcc_headers, blind, sections, verifier
from lab.bpf.bcc_events import event_types
from lab.bpf.btf import Btf, read_btf
from lab.bpf.globals import Globals
from lab.bpf.map import Map
from lab.bpf.map_kinds import open_map
from lab.bpf.names import program_type
from lab.bpf.object_file import MapTypes
from lab.bpf.program import Facts, Loaded, Maps, Program
from lab.errors import BuildError, FeatureMissing, LoadError, NeedsRoot, VerifierError
from lab.kernel import bpf, capabilities, libbpf, mounts
from lab.model.journal import note, step
from lab.project import shipped_bpf

BTF_GET_FD_BY_ID = 19
STATISTICS, WHOLE_LOG = 4, 5
"""Log levels of the verifier: the figures of its last lines, and every step with them."""
LOG_BYTES = {STATISTICS: 1 << 16, WHOLE_LOG: 1 << 24}
BTF_IN_MAP = 64
"""Offset of btf_id in struct bpf_map_info; the ids of the key's and the value's type follow."""
NAMED_SECTIONS = {
    "kprobe__": "kprobe/",
    "kretprobe__": "kretprobe/",
    "tracepoint__": "tracepoint/",
    "raw_tracepoint__": "raw_tp/",
}
"""BCC attaches functions with these names by itself; here the attachment is the caller's, as everywhere."""
TEXT = "<text>"
TRACEFS = "/sys/kernel/tracing"
"""Where BCC looks for tracepoints, if not below debugfs."""
NO_HEADERS = "sudo apt-get install linux-headers-$(uname -r): this machine has none, so only the ABI's are there"


@dataclass(frozen=True)
class _Hook:
    """What a section means: bpf_prog_type and bpf_attach_type."""

    section: str
    kind: int
    attach_type: int


def load(
    source: str | os.PathLike[str],
    /,
    fn: str,
    section: str = "",
    *,
    also: Sequence[str] = (),
    cflags: Sequence[str] = (),
    **macros: Any,
) -> Program:
    """The function `fn` of a text, or of a file of BCC's C, loaded; its maps and attachments are as with `bpf.load`.

    `section` says what it is, as SEC() would: "xdp", "tc", "sock_ops", "cgroup/connect4",
    "tracepoint/sock/inet_sock_set_state"; of BCC's tracepoint__…, raw_tracepoint__… and kprobe__… functions the name
    does. `also` names functions that are loaded too and are in `.programs`: of the section that their own name says,
    or else of the same (for tail calls, to be put into a BPF_PROG_ARRAY). `macros` are defined for the text.
    FeatureMissing without BCC; BuildError, LoadError or VerifierError when it cannot be loaded.
    """
    text, path = _text(source)
    hook = _hook(fn, section or _section_of(fn))
    defined = (f"-D{name}={_macro(value)}" for name, value in macros.items())
    module = _compile(text, path, [*cflags, *defined, *_include_flags(path)])
    try:
        stem = fn if path == TEXT else Path(path).name.partition(".")[0]
        loaded = Loaded(path, stem, Maps(), Globals({}), lambda: _release(module))
        hooks = {name: _hook(name, _section_of(name) or hook.section) for name in also} | {fn: hook}
        for name in (fn, *also):
            loaded.programs[name] = _load(module, loaded, name, hooks[name])
            if blind.is_on():
                blind.replace(loaded.programs[name])
        loaded.maps.update(_maps(module))
    except BaseException:
        _release(module)
        raise
    step("load_bcc", program=loaded.programs[fn])
    return loaded.programs[fn]


def _text(source: str | os.PathLike[str]) -> tuple[str, str]:
    """The C and its name: a str with a line break or a brace is the text itself."""
    if isinstance(source, str) and ("\n" in source or "{" in source):
        return source, TEXT
    try:
        return Path(source).read_text(encoding="utf-8"), os.fspath(source)
    except OSError as error:
        raise BuildError(f"load {os.fspath(source)}: {error.strerror}", mend="a path, or the C text itself") from error


def _include_flags(path: str) -> list[str]:
    """The lab's headers, and the text's own: include/bcc/ has what stands in for libbpf's beside BCC's."""
    folders = [shipped_bpf()] if path == TEXT else [Path(path).resolve().parent, shipped_bpf()]
    return [f"-I{folder}/{include}" for folder in folders for include in ("include/bcc", "include")]


def _macro(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _section_of(fn: str) -> str:
    for beginning, kind in NAMED_SECTIONS.items():
        if fn.startswith(beginning):
            return kind + fn.removeprefix(beginning).replace("__", "/", 1)
    return ""


def _hook(fn: str, section: str) -> _Hook:
    """By the lab's table of sections, or libbpf's."""
    known = sections.meaning(section) if section else None
    if known is None and section:
        kind, attach_type = ctypes.c_int(), ctypes.c_int()
        libbpf.listen()
        by_name = libbpf.library().libbpf_prog_type_by_name
        if by_name(section.encode(), ctypes.byref(kind), ctypes.byref(attach_type)) == 0:
            known = kind.value, attach_type.value
    if known is None:
        raise LoadError(
            f"load {fn}: which hook is it for? section is {section!r}",
            mend='section="xdp", "tc", "sock_ops", "cgroup/connect4", "raw_tp/…", "tracepoint/…", as SEC() names them',
        )
    return _Hook(section, *known)


# ---------------------------------------------------------------- compiling


def _compile(text: str, path: str, flags: Sequence[str]) -> Any:
    kind = _quiet_bpf()
    module, reason = None, ""
    with bcc_headers.found() as own, _heard() as said:
        try:
            with ThreadPoolExecutor(
                max_workers=1, initializer=mounts.set_apart, initargs=("tracefs", TRACEFS)
            ) as apart:
                module = apart.submit(kind, text=text.encode(), cflags=list(flags)).result()
        except Exception as error:  # BCC raises nothing narrower, and its message says nothing
            reason = str(error)
    words = "\n".join("".join(said).strip().splitlines()[:12])
    if module is not None:
        if words:  # warnings
            print(words, file=sys.stderr)
        return module
    if capabilities.lacking():
        raise NeedsRoot(f"compile {path} with BCC", kernel=words, mend="run it as root (sudo)")
    mend = "correct the source at the line that clang names"
    raise BuildError(f"compile {path} with BCC", kernel=words or reason, mend=mend if own else _mend(words, mend))


def _mend(words: str, otherwise: str) -> str:
    missing = "file not found" in words or "incomplete type" in words or "incomplete definition" in words
    return NO_HEADERS if missing else otherwise


def _quiet_bpf() -> Any:
    """bcc.BPF without its habit of attaching what has a certain name."""
    try:
        import bcc
    except (ImportError, OSError) as error:
        raise FeatureMissing(
            "load a BCC program: Python's bcc is not installed",
            kernel=str(error),
            mend="sudo apt-get install python3-bpfcc, then make setup",
        ) from error
    if not hasattr(bcc, "BPF"):
        raise FeatureMissing(
            f"load a BCC program: {bcc.__file__} is another project's bcc", mend="pip uninstall bcc; make setup"
        )

    class QuietBpf(bcc.BPF):  # type: ignore[misc]
        def _trace_autoload(self) -> None:
            """Nothing."""

    return QuietBpf


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What is written to standard error during the block is in the list when it ends: BCC gives clang's words there."""
    said: list[str] = []
    sys.stderr.flush()
    kept, heard = os.dup(2), os.memfd_create("bcc")
    os.dup2(heard, 2)
    try:
        yield said
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        with os.fdopen(heard, "rb") as file:
            file.seek(0)
            said.append(file.read().decode(errors="replace"))


# ---------------------------------------------------------------- loading


def _load_function(module: Any, fn: str, hook: _Hook, log_level: int) -> tuple[int, str]:
    """The program's descriptor and the verifier's log; a second time, for the whole log, where it is refused."""
    library = _library()
    name, handle = fn.encode(), module.module
    start = library.bpf_function_start(handle, name)
    if not start:
        raise LoadError(f"load {fn}: the text has no such function", mend=f"it has {', '.join(_functions(module))}")
    log = ctypes.create_string_buffer(LOG_BYTES[log_level])
    code = (start, library.bpf_function_size(handle, name))
    terms = (library.bpf_module_license(handle), library.bpf_module_kern_version(handle))
    with _heard() as said:
        reading = (log_level, log, len(log))
        fd = library.bcc_func_load(handle, hook.kind, name, *code, *terms, *reading, None, hook.attach_type)
        number = ctypes.get_errno()
    if fd >= 0:
        return fd, log.value.decode(errors="replace")
    if log_level == STATISTICS:
        return _load_function(module, fn, hook, WHOLE_LOG)
    raise _refusal(fn, number, log.value.decode(errors="replace").strip(), "".join(said).strip())


def _refusal(fn: str, number: int, log: str, said: str) -> VerifierError | LoadError | NeedsRoot:
    words = libbpf.sentence(number)
    if number == errno.EPERM and capabilities.lacking():
        return NeedsRoot(f"load {fn}", kernel=words, mend="sudo, or CAP_BPF with CAP_NET_ADMIN")
    if log:
        return verifier.rejection(fn, log, words=words)
    first = said.splitlines()[0] if said else ""
    kernel = f"{words}; {first}" if first else words
    return LoadError(f"load {fn}: the kernel refused it", kernel=kernel, mend="`lab doctor` says what it lacks")


def _library() -> Any:
    """BCC's library, with the types of what its Python does not use."""
    import bcc

    library = bcc.lib
    library.bpf_num_tables.argtypes = (ctypes.c_void_p,)
    library.bpf_table_name.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.bpf_table_name.restype = ctypes.c_char_p
    return library


def _functions(module: Any) -> list[str]:
    library = _library()
    number = library.bpf_num_functions(module.module)
    return [library.bpf_function_name(module.module, place).decode() for place in range(number)]


def _load(module: Any, loaded: Loaded, fn: str, hook: _Hook) -> Program:
    start = time.perf_counter()
    fd, log = _load_function(module, fn, hook, STATISTICS)
    load_ms = (time.perf_counter() - start) * 1000
    module.funcs[fn.encode()] = module.Function(module, fn.encode(), fd)  # so that it closes the descriptor
    jited, xlated = struct.unpack_from("=II", bpf.object_info(fd), 16)
    logged = verifier.facts(log)
    facts = Facts(
        name=fn,
        section=hook.section,
        type=program_type(hook.kind),
        instructions=_library().bpf_function_size(module.module, fn.encode()) // 8,
        verified_instructions=logged.get("verified_instructions", 0),
        xlated_bytes=xlated,
        jited_bytes=jited,
        stack_bytes=logged.get("stack_bytes", 0),
        load_ms=round(load_ms, 2),
        maps=tuple(_map_names(module)),
    )
    note("program", {**facts.as_dict(), "stem": loaded.stem})
    return Program(loaded, fd, facts, hook.attach_type)


def _release(module: Any) -> None:
    """Closes programs and maps; bcc would keep them until Python ends."""
    atexit.unregister(module.cleanup)
    module.cleanup()


# ---------------------------------------------------------------- maps


def _map_names(module: Any) -> Iterator[str]:
    """Without the data sections, which have a dot in their names."""
    library = _library()
    for place in range(library.bpf_num_tables(module.module)):
        name = library.bpf_table_name(module.module, place).decode()
        if "." not in name:
            yield name


def _maps(module: Any) -> dict[str, Map]:
    return {name: _map(module, name) for name in _map_names(module)}


def _map(module: Any, name: str) -> Map:
    """Typed by the BTF that BCC gave the kernel with the map, events by their members; what has neither holds bytes."""
    library = _library()
    fd = library.bpf_table_fd(module.module, name.encode())
    info = bpf.object_info(fd)
    _, key, value = struct.unpack_from("=III", info, BTF_IN_MAP)
    number = library.bpf_perf_event_fields(module.module, name.encode())
    fields = [library.bpf_perf_event_field(module.module, name.encode(), place).decode() for place in range(number)]
    types = event_types(name.removesuffix("s"), fields) if fields else _types(info, BTF_IN_MAP)
    return open_map(fd, name, types, MapTypes(key=key, value=value))


def _types(info: bytes, at: int) -> Btf | None:
    """The types that an info names by their id, read back from the kernel; None where there are none."""
    (number,) = struct.unpack_from("=I", info, at)
    if not number:
        return None
    fd = bpf.bpf(BTF_GET_FD_BY_ID, bytearray(struct.pack("=III", number, 0, 0)))
    try:
        return read_btf(_raw_types(fd))
    finally:
        os.close(fd)


def _raw_types(fd: int) -> bytes:
    """struct bpf_btf_info points to room for the types, and says how much they need."""
    room = ctypes.create_string_buffer(struct.unpack_from("=QI", _btf_info(fd, 0, 0))[1])
    _btf_info(fd, ctypes.addressof(room), len(room))
    return room.raw


def _btf_info(fd: int, address: int, size: int) -> bytes:
    info = ctypes.create_string_buffer(struct.pack("=QII", address, size, 0), 16)
    bpf.bpf(bpf.OBJ_GET_INFO_BY_FD, bytearray(struct.pack("=IIQ", fd, 16, ctypes.addressof(info))))
    return info.raw
