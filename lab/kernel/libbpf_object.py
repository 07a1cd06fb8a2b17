"""A BPF object in libbpf's hands: opened from bytes, changed, loaded, closed (libbpf.h)."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from lab.kernel import libbpf, origin


class Refused(OSError):
    """libbpf's errno, with what it said meanwhile in `said`."""

    def __init__(self, number: int, said: list[str]) -> None:
        super().__init__(number, libbpf.sentence(number))
        self.said = said


@dataclass(frozen=True)
class ObjectProgram:
    """A program of an open object."""

    handle: int
    name: str
    section: str

    @property
    def type(self) -> int:
        """enum bpf_prog_type; 0 for a section that libbpf does not know."""
        return int(libbpf.library().bpf_program__type(self.handle))

    @property
    def expected_attach_type(self) -> int:
        """enum bpf_attach_type."""
        return int(libbpf.library().bpf_program__expected_attach_type(self.handle))

    @property
    def instructions(self) -> int:
        """As compiled; libbpf adds those of called functions when it loads."""
        return int(libbpf.library().bpf_program__insn_cnt(self.handle))

    @property
    def code(self) -> bytes:
        """Once it is loaded: what the kernel was given, relocated, with the functions that it calls behind it."""
        return ctypes.string_at(libbpf.library().bpf_program__insns(self.handle), self.instructions * 8)

    @property
    def fd(self) -> int:
        """Its descriptor, once it is loaded; the object closes it."""
        return int(libbpf.library().bpf_program__fd(self.handle))

    def set_kind(self, type_: int, expected_attach_type: int) -> None:
        """What its section means."""
        libbpf.library().bpf_program__set_type(self.handle, type_)
        libbpf.library().bpf_program__set_expected_attach_type(self.handle, expected_attach_type)

    def set_autoload(self, wanted: bool) -> None:
        """Whether loading the object loads it."""
        libbpf.library().bpf_program__set_autoload(self.handle, wanted)

    def log_into(self, room: ctypes.Array[ctypes.c_char], level: int) -> None:
        """Where the verifier writes; the caller keeps `room` until the object is loaded."""
        libbpf.library().bpf_program__set_log_buf(self.handle, room, len(room))
        libbpf.library().bpf_program__set_log_level(self.handle, level)


@dataclass(frozen=True)
class ObjectMap:
    """A map of an open object; a data section is one too, named "<object>.rodata" and the like."""

    handle: int
    name: str

    @property
    def fd(self) -> int:
        """Its descriptor, once it is loaded; the object closes it."""
        return int(libbpf.library().bpf_map__fd(self.handle))

    @property
    def section(self) -> str:
        """ ".rodata", ".data.hot", ...; "" for a map of the program's."""
        return self.name[self.name.index(".") :] if "." in self.name else ""

    def set_max_entries(self, number: int) -> bool:
        """False when libbpf refuses the number."""
        return int(libbpf.library().bpf_map__set_max_entries(self.handle, number)) == 0

    def forbid_pinning(self) -> None:
        """Whatever the declaration says (LIBBPF_PIN_BY_NAME), nothing appears in /sys/fs/bpf."""
        libbpf.library().bpf_map__set_pin_path(self.handle, None)

    def reuse(self, fd: int) -> bool:
        """Takes an existing map in place of a new one; libbpf keeps a descriptor of its own."""
        return int(libbpf.library().bpf_map__reuse_fd(self.handle, fd)) == 0

    def write_initial(self, offset: int, raw: bytes) -> bool:
        """Changes the content of a data section before it is loaded; False when it does not reach so far."""
        size = ctypes.c_size_t()
        address = libbpf.library().bpf_map__initial_value(self.handle, ctypes.byref(size))
        if not address or offset + len(raw) > size.value:
            return False
        ctypes.memmove(address + offset, raw, len(raw))
        return True


class BpfObject:
    """An object that is open; `close` gives back all that was loaded from it. Not for two threads at once."""

    def __init__(self, raw: bytes, name: str) -> None:
        """Raises Refused when it is not an object."""
        options = libbpf.ObjectOpenOptions(sz=ctypes.sizeof(libbpf.ObjectOpenOptions))
        options.object_name = name.encode()
        said = libbpf.listen()
        with libbpf.signals_later():
            handle = libbpf.library().bpf_object__open_mem(raw, len(raw), ctypes.byref(options))
        if not handle:
            raise Refused(libbpf.error_of(None), said)
        self._handle: int | None = handle

    @cached_property
    def programs(self) -> dict[str, ObjectProgram]:
        """By function name, in the object's order."""
        library = libbpf.library()
        found = (
            ObjectProgram(each, _text(library.bpf_program__name(each)), _text(library.bpf_program__section_name(each)))
            for each in self._each("program")
        )
        return {each.name: each for each in found}

    @cached_property
    def maps(self) -> list[ObjectMap]:
        """Data sections included."""
        return [ObjectMap(each, _text(libbpf.library().bpf_map__name(each))) for each in self._each("map")]

    @property
    def btf_fd(self) -> int:
        """The kernel's copy of the object's types, once it is loaded; negative where there is none."""
        found: int = libbpf.library().bpf_object__btf_fd(self._handle)
        return found

    def load(self) -> None:
        """Creates the maps and loads the programs; raises Refused."""
        said = libbpf.listen()
        with libbpf.signals_later():
            result = libbpf.library().bpf_object__load(self._handle)
        if result:
            raise Refused(libbpf.error_of(result), said)
        for made in [each.fd for each in self.programs.values()] + [each.fd for each in self.maps]:
            origin.descriptor(made)

    def close(self) -> None:
        """Closes every descriptor; a second time does nothing."""
        handle, self._handle = self._handle, None
        if handle:
            libbpf.library().bpf_object__close(handle)

    def _each(self, what: str) -> Iterator[int]:
        following = getattr(libbpf.library(), f"bpf_object__next_{what}")
        handle = following(self._handle, None)
        while handle:
            yield handle
            handle = following(self._handle, handle)


def survives_opening(raw: bytes, name: str) -> bool:
    """False when libbpf crashes on these bytes; a child process tries it, for about 2 ms.

    libbpf 1.1 trusts section and symbol indexes: of 3,000 objects with a few bytes changed, 12 ended the process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child makes but one call
        child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            BpfObject(raw, name)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return not os.WIFSIGNALED(status)


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


def log_room(size: int) -> ctypes.Array[ctypes.c_char]:
    """Memory for a verifier log."""
    return ctypes.create_string_buffer(size)


def log_text(room: ctypes.Array[ctypes.c_char]) -> str:
    """What the verifier wrote."""
    return room.value.decode(errors="replace")
