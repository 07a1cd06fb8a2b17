"""An sshd in namespaces of a test, with keys of its own: other hosts that see the same files, as by NFS."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lab import wait_until

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"

needs_ssh = [
    pytest.mark.skipif(not Path(SSHD).exists(), reason="there is no sshd here: apt-get install openssh-server"),
    pytest.mark.skipif(not shutil.which("ssh"), reason="there is no ssh here: apt-get install openssh-client"),
]


def start_sshd(net: Any, names: Sequence[str], folder: Path, *, asking: str) -> str:
    """One in each namespace, at its first address; the command that reaches them, for LAB_SSH."""
    keys = folder / "keys"
    keys.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    (keys / "config").write_text(
        f"HostKey {keys}/host\nAuthorizedKeysFile {keys}/user.pub\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    # What sshd wants below /run is made in a mount namespace of its own.
    shell = f"mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec {SSHD} -D -e -f {keys}/config -p 22"
    for name in names:
        net[name].popen(["unshare", "-m", "sh", "-c", shell], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name in names:
        wait_until(lambda name=name: _listens(net, asking, name), within_s=10, what=f"sshd of {name}")  # type: ignore[misc]
    ssh = f"ssh -i {keys}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    return f"{ssh} -o BatchMode=yes -o ConnectTimeout=5"


def _listens(net: Any, asking: str, name: str) -> bool:
    with closing(net[asking].socket(socket.AF_INET)) as probe:
        return bool(probe.connect_ex((str(net.interface(name).ipv4), 22)) == 0)
