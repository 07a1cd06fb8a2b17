"""Kernel headers for BCC where the machine has none that match its kernel: a tree of a few lines.

BCC wants the kernel's build folder. Programs for networks use the user-space ABI alone (linux/if_ether.h, linux/ip.h),
which every machine has in /usr/include, and BCC brings its own linux/bpf.h; so the rest can be as good as empty. What
reads the kernel's own structures needs the real headers. It also compiles in 0.2 s instead of 0.9 s.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lab.bpf.build import TARGETS, cache_folder

PLACE = "BCC_KERNEL_SOURCE"
TYPES = """#pragma once
#include_next <linux/types.h>
typedef _Bool bool;
enum { false, true };
typedef __u8 u8, uint8_t;
typedef __u16 u16, uint16_t;
typedef __u32 u32, uint32_t;
typedef __u64 u64, uint64_t;
typedef __s8 s8, int8_t;
typedef __s16 s16, int16_t;
typedef __s32 s32, int32_t;
typedef __s64 s64, int64_t;
typedef __kernel_pid_t pid_t;
typedef __kernel_uid32_t uid_t;
typedef __kernel_gid32_t gid_t;
typedef __kernel_loff_t loff_t;
typedef __kernel_ssize_t ssize_t;
typedef unsigned short umode_t;
typedef u32 dev_t;
typedef u32 gfp_t;
typedef u64 sector_t;
typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;
#define NULL ((void *)0)
#define offsetof(type, member) __builtin_offsetof(type, member)
#include <asm/byteorder.h>
#define htons __cpu_to_be16
#define htonl __cpu_to_be32
#define cpu_to_be16 __cpu_to_be16
#define cpu_to_be32 __cpu_to_be32
#define cpu_to_be64 __cpu_to_be64
#define ntohs __be16_to_cpu
#define ntohl __be32_to_cpu
#define be16_to_cpu __be16_to_cpu
#define be32_to_cpu __be32_to_cpu
#define be64_to_cpu __be64_to_cpu
"""
OPTIONS = """#pragma once
#define CONFIG_BPF_SYSCALL 1
/* linux/swab.h: byte order is swapped by the compiler, not in the machine's assembly. */
#define __HAVE_BUILTIN_BSWAP16__
#define __HAVE_BUILTIN_BSWAP32__
#define __HAVE_BUILTIN_BSWAP64__
"""
VERSION = """#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE KERNEL_VERSION({})
"""


@contextmanager
def found() -> Iterator[bool]:
    """For the length of the block BCC finds headers; True where they are the kernel's own."""
    if os.environ.get(PLACE) or has_own():
        yield True
        return
    os.environ[PLACE] = str(_tree())
    try:
        yield False
    finally:
        del os.environ[PLACE]


def has_own() -> bool:
    """Whether BCC finds headers of this kernel by itself: of a package, or in the kernel."""
    places = (f"/lib/modules/{platform.release()}/build", "/sys/kernel/kheaders.tar.xz")
    return any(Path(place).exists() for place in places)


def _files() -> Mapping[str, str]:
    version = ", ".join([*"".join(c if c.isdigit() else " " for c in platform.release()).split(), "0", "0"][:3])
    architecture = TARGETS.get(platform.machine(), "x86")
    return {
        "include/linux/kconfig.h": OPTIONS,
        "include/linux/types.h": TYPES,
        "include/linux/version.h": VERSION.format(version),
        "include/linux/log2.h": "",
        "include/linux/bpf.h": "",
        "include/asm/page.h": f"#pragma once\n#define PAGE_SIZE {os.sysconf('SC_PAGE_SIZE')}\n",
        # BCC looks here first; the system's would define everything of BCC's own a second time.
        f"arch/{architecture}/include/uapi/linux/bpf.h": "",
    }


def _links() -> Mapping[str, Path]:
    machine = Path(f"/usr/include/{sys.implementation._multiarch}/asm")
    return {
        "include/uapi/linux": Path("/usr/include/linux"),
        "include/uapi/asm": machine if machine.is_dir() else Path("/usr/include/asm"),
        "include/uapi/asm-generic": Path("/usr/include/asm-generic"),
    }


def _tree() -> Path:
    """The tree in the cache, made once for a kernel and a version of this file; whole or not at all."""
    files, links = _files(), _links()
    content = repr((sorted(files.items()), sorted(links.items()))).encode()
    tree = cache_folder() / f"bcc-{hashlib.sha256(content).hexdigest()[:16]}"
    if not tree.is_dir():
        scratch = Path(tempfile.mkdtemp(dir=tree.parent, prefix=".bcc-"))
        for name, text in files.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).write_text(text)
        for name, place in links.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).symlink_to(place)
        with suppress(OSError):  # another process was first
            scratch.rename(tree)
        shutil.rmtree(scratch, ignore_errors=True)
    return tree
