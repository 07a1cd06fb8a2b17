"""Whether machines can run on the processor itself (KVM), told by trying: where it does not work it often hangs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.bpf.build import cache_folder
from lab.errors import FeatureMissing
from lab.kernel.process import dying_with_the_lab
from lab.matrix.init import init
from lab.matrix.initramfs import initramfs
from lab.matrix.kernel import Kernel

KVM = Path("/dev/kvm")
LIMIT_S = 10.0
"""A boot on the processor, up to process 1, takes about one second."""
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Accelerator:
    """QEMU's name of it ("kvm", "tcg"), and why it is this one."""

    name: str
    why: str

    @property
    def words(self) -> str:
        """For people."""
        return "on the processor (KVM)" if self.name == "kvm" else f"software emulation ({self.why})"


def accelerator(kernel: Kernel) -> Accelerator:
    """KVM where a kernel boots with it; asked once since this machine was started, and LIMIT_S at most."""
    kept = cache_folder() / "accelerator.json"
    boot = BOOT.read_text().strip()
    try:
        known = json.loads(kept.read_text())
        if known.pop("boot") == boot:
            return Accelerator(**known)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = _tried(kernel)
    hidden = kept.with_suffix(f".{os.getpid()}.tmp")
    hidden.write_text(json.dumps({"boot": boot, **asdict(found)}))
    hidden.replace(kept)
    return found


def _tried(kernel: Kernel) -> Accelerator:
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{KVM} cannot be used")
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise FeatureMissing("boot a kernel: QEMU is not installed", mend="apt-get install qemu-system-x86")
    archive = os.memfd_create("initramfs")
    with os.fdopen(archive, "wb") as file:
        file.write(initramfs(init(), [], ["end"], ["/nothing"], {}))
        file.flush()
        command = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256"]
        command += ["-accel", "kvm", "-cpu", "host", "-kernel", str(kernel.vmlinuz), "-append", "panic=-1 quiet"]
        return _answer([*command, "-initrd", f"/proc/self/fd/{archive}"], archive)


def _answer(command: list[str], archive: int) -> Accelerator:
    process = subprocess.Popen(
        command,
        pass_fds=[archive],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=dying_with_the_lab(),
    )
    try:
        _, said = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Accelerator("tcg", f"with KVM a kernel did not boot within {LIMIT_S:g} s")
    if process.returncode:
        words = said.decode(errors="replace").strip().rpartition("\n")[2] or f"status {process.returncode}"
        return Accelerator("tcg", f"with KVM it ends at once: {words}")
    return Accelerator("kvm", "a kernel boots with it")
