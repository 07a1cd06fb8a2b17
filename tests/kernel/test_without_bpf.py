"""On a kernel without BPF everything says so in one sentence; a seccomp filter plays that kernel."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

BPF_CALL = {"x86_64": 321, "aarch64": 280}  # asm/unistd.h
SCENARIO = '''
"""xdp_balance, on a kernel without BPF."""

def test_loads(bpf):
    """The program loads."""
    bpf.load("xdp_balance")
'''


def refuse_bpf() -> None:
    """From here on bpf(2) answers ENOSYS in this process and its children (seccomp(2), filter mode)."""
    load_number, jump_if_equal, give = 0x20, 0x15, 0x06  # BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.ENOSYS
    instructions = (
        (load_number, 0, 0, 0),
        (jump_if_equal, 0, 1, BPF_CALL[platform.machine()]),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in instructions))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filter_mode, program, 0, 0):
        raise OSError(ctypes.get_errno(), "install a seccomp filter")


def without_bpf(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, preexec_fn=refuse_bpf
    )


def test_the_doctor_says_that_there_is_no_bpf(tmp_path: Path) -> None:
    """`lab doctor`: status 1 and a last sentence that names the kernel's lack and the mend."""
    done = without_bpf("lab.cli", "doctor", cwd=tmp_path)

    verdict = done.stdout.splitlines()[-1]
    assert done.returncode == 1
    assert verdict.startswith("Not ready: BPF system call")
    assert "CONFIG_BPF_SYSCALL" in verdict
    assert done.stderr == ""


def test_a_scenario_says_that_there_is_no_bpf(tmp_path: Path) -> None:
    """A scenario fails with the lab's sentence and its mend, not with the lab's insides."""
    (tmp_path / "test_loads.py").write_text(SCENARIO)

    done = without_bpf("pytest", "-q", "--no-lab-run", "test_loads.py", cwd=tmp_path)

    assert done.returncode != 0
    assert "CONFIG_BPF_SYSCALL" in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["list", "--help"])
def test_what_needs_no_bpf_works_without_it(command: str, tmp_path: Path) -> None:
    """Commands that only read files don't ask the kernel."""
    done = without_bpf("lab.cli", command, cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
