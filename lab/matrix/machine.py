"""A virtual machine: QEMU with a kernel, a root that is the host's and cannot be written, and one program in it.

Its root is laid of three: what is written stays in the machine's memory, below it the disk with Python (image), below
that the host's files over 9p, which QEMU itself serves read-only. Nothing in the machine can write to the host.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import FeatureMissing
from lab.kernel.process import dying_with_the_lab
from lab.matrix.image import image
from lab.matrix.init import init
from lab.matrix.initramfs import initramfs
from lab.matrix.kernel import Kernel
from lab.matrix.modules import ModuleFolder

TRANSPORT = ("virtio_pci", "virtio_console", "virtio_blk", "9pnet_virtio", "9p", "ext4", "overlay")
"""Without these modules the root cannot be mounted and nobody could be talked to."""
DISK = ("crc32c_generic",)
"""What ext4 asks for by the name of an algorithm, not by "depends="; newer kernels have it within."""
NETWORK = ("veth", "bridge", "8021q", "vxlan", "dummy", "vrf", "netkit", "inet_diag", "tcp_diag", "tcp_bbr")
QUEUEING = ("sch_ingress", "cls_bpf", "sch_netem", "sch_fq", "sch_fq_codel", "sch_htb", "sch_tbf", "sch_prio")
"""Loaded where the kernel has them: a machine without modprobe loads none later."""
MEMORY_MIB = 1024
NICENESS = 10
"""An emulated processor takes all that there is of a real one: the host's own tests come first."""
CPUS = 2
PROCESSORS = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    "tcg": ("-accel", "tcg,thread=single", "-cpu", "max,-erms,-la57,-smap"),
}
"""Emulated, two processors that take turns in one thread are a sixth quicker than two threads: none waits for another's
code to be translated, or runs what the other has just patched. Without ERMS the kernel copies and clears words and not
bytes, each of which is emulated; without LA57 its page tables have four levels and not five; without SMAP no access to
a program's memory ends a block of translated code."""
COMMAND_LINE = (
    # A panic ends the machine at once; a hang of the kernel's own watchdogs is a panic.
    *("console=ttyS0", "loglevel=4", "panic=-1", "softlockup_panic=1", "watchdog_thresh=30"),
    # What costs time and gives a test nothing.
    *("mitigations=off", "nokaslr", "random.trust_cpu=on", "rcupdate.rcu_expedited=1", "audit=0", "selinux=0"),
    *("init_on_alloc=0", "hardened_usercopy=off", "randomize_kstack_offset=off", "tsc=reliable"),
)
PLAN = """\
mount devtmpfs devtmpfs /dev
mount proc proc /proc
folder /host
folder /image
folder /over
mount 9p host /host ro trans=virtio,version=9p2000.L,msize=512000,cache=loose
mount ext4 /dev/vda /image ro
mount tmpfs tmpfs /over
folder /over/upper
folder /over/work
mount overlay overlay /new - lowerdir=/image:/host,upperdir=/over/upper,workdir=/over/work
mount devtmpfs devtmpfs /new/dev
mount proc proc /new/proc
mount sysfs sysfs /new/sys
mount tmpfs tmpfs /new/run
root /new
folder /dev/shm
mount tmpfs tmpfs /dev/shm
folder /dev/pts
mount devpts devpts /dev/pts
mount cgroup2 cgroup2 /sys/fs/cgroup
mount bpf bpf /sys/fs/bpf
?mount tracefs tracefs /sys/kernel/tracing
?mount debugfs debugfs /sys/kernel/debug
?write /proc/sys/net/core/bpf_jit_enable 1
up lo
"""
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "XDG_CACHE_HOME", "CLANG", "LAB_STRICT", "PYTHONPATH")


@dataclass(frozen=True)
class Machine:
    """A machine that was started: QEMU's process, and the stream of its beats."""

    process: subprocess.Popen[bytes]
    beats: socket.socket


def start(
    kernel: Kernel, argv: Sequence[str], console: Path, *, accelerator: str, variables: Mapping[str, str]
) -> Machine:
    """Boots `kernel` and starts `argv` in the current folder's twin; standard input and output are the program's.

    What the kernel and the program's standard error say is written to `console`. Whoever ends early ends the machine.
    """
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise FeatureMissing("boot a kernel: QEMU is not installed", mend="apt-get install qemu-system-x86")
    beats, theirs = socket.socketpair()
    first_root = os.memfd_create("initramfs")
    with theirs, os.fdopen(first_root, "wb") as archive, console.with_name("qemu.txt").open("wb") as said:
        archive.write(_first_root(kernel, argv, variables))
        archive.flush()
        process = subprocess.Popen(
            [qemu, *_machine(accelerator), *_kernel(kernel, first_root), *_devices(console, theirs.fileno())],
            pass_fds=[theirs.fileno(), first_root],
            stderr=said,
            preexec_fn=_behind_the_host(dying_with_the_lab()),
        )
    return Machine(process, beats)


def _behind_the_host(before: Callable[[], None]) -> Callable[[], None]:
    def prepare() -> None:
        before()
        os.nice(NICENESS)

    return prepare


def _first_root(kernel: Kernel, argv: Sequence[str], variables: Mapping[str, str]) -> bytes:
    folder = ModuleFolder(kernel.modules)
    modules = folder.needed_for([*filter(folder.has, DISK), *TRANSPORT, *filter(folder.has, (*NETWORK, *QUEUEING))])
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | dict(variables)
    plan = [*PLAN.splitlines(), f"write /proc/sys/kernel/hostname {kernel.release}", f"folder-of-work {Path.cwd()}"]
    return initramfs(init(), modules, plan, argv, environment)


def _machine(accelerator: str) -> list[str]:
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "pc"),
        *PROCESSORS[accelerator],
        *("-smp", str(CPUS), "-m", str(MEMORY_MIB)),
    ]


def _kernel(kernel: Kernel, first_root: int) -> list[str]:
    return ["-kernel", str(kernel.vmlinuz), "-initrd", f"/proc/self/fd/{first_root}", "-append", " ".join(COMMAND_LINE)]


def _devices(console: Path, beats: int) -> list[str]:
    """The serial console, the program's port, the beats' port, the disk, and the host's files."""
    return [
        *("-serial", f"file:{console}", "-device", "virtio-serial-pci"),
        *("-chardev", "stdio,id=worker,signal=off", "-device", "virtserialport,chardev=worker,nr=1"),
        *("-chardev", f"socket,id=beats,fd={beats}", "-device", "virtserialport,chardev=beats,nr=2"),
        *("-drive", f"file={image()},format=raw,if=none,id=disk,readonly=on", "-device", "virtio-blk-pci,drive=disk"),
        *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
    ]
