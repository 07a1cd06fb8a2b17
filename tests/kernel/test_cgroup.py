"""Control groups of this lab's own: their names, their owners, their end."""

from __future__ import annotations

import subprocess
import sys

from lab.kernel import cgroup
from lab.kernel.cgroup import Cgroup

HOSTILE = r"""
import ctypes, sys
from lab.kernel.cgroup import Cgroup
ctypes.CDLL(None).prctl(15, b"a) \xff(", 0, 0, 0)  # PR_SET_NAME
made = Cgroup()
print(made.path, flush=True)
sys.stdin.read()
"""


def test_a_group_goes_with_its_owner_whatever_that_is_called() -> None:
    """A name that is no UTF-8 and has parentheses: the group of a living process stays, that of a dead one goes."""
    owner = subprocess.Popen([sys.executable, "-c", HOSTILE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip().rpartition("/")[2]
        with Cgroup():
            assert (cgroup.root() / name).is_dir()
        owner.kill()
        owner.wait()
    with Cgroup():
        assert not (cgroup.root() / name).exists()
