"""Every error of the lab says what went wrong, where, in the kernel's words, and how to mend it."""

from __future__ import annotations


class LabError(Exception):
    """The root of all the lab's errors.

    `what` is one sentence that names the place ("attach xdp_filter to server/eth0: native XDP refused").
    `kernel` is the kernel's or the tool's own sentence, kept as it came.
    `mend` tells the reader what to change.

    >>> print(LabError("open eth9: no such interface", mend="net.interfaces lists what is there"))
    open eth9: no such interface
      mend:   net.interfaces lists what is there
    """

    def __init__(self, what: str, *, kernel: str = "", mend: str = "") -> None:
        super().__init__(what, kernel, mend)
        self.what = what
        self.kernel = kernel
        self.mend = mend

    def __str__(self) -> str:
        lines = [self.what]
        if self.kernel:
            lines.append(f'  kernel: "{self.kernel}"')
        if self.mend:
            lines.append(f"  mend:   {self.mend}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process borders under pytest-xdist, so they must survive pickling."""
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(kind: type[LabError], state: dict[str, object]) -> LabError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    error.args = (error.what, error.kernel, error.mend)
    return error


class NeedsRoot(LabError):
    """The caller lacks a capability that the kernel asks for."""


class FeatureMissing(LabError):
    """This kernel or machine does not have what was asked for; `mend` says since when it exists."""


class TopologyError(LabError):
    """A description that cannot be built; raised before any system call."""


class NetworkError(LabError):
    """The kernel refused a part of a topology, or an interface vanished."""


class BuildError(LabError):
    """clang, or a tool around it, refused a source file."""


class LoadError(LabError):
    """An object file is not usable, or the kernel refused to load it."""


class VerifierError(LoadError):
    """The verifier rejected a program; `log` is its whole log, the message holds the telling lines."""

    log: str = ""


class RunError(LabError):
    """BPF_PROG_RUN refused a frame, a context or a type of program."""


class AttachError(LabError):
    """A loaded program could not be attached."""


class MapError(LabError):
    """A key, a value or an operation does not fit the map."""


class TrafficError(LabError):
    """Traffic could not be sent, or a traffic tool failed."""


class MeasurementError(LabError):
    """A measurement did not measure what it should have: no canary, no attachment, no samples."""


class NotComparable(MeasurementError):
    """No program of the kind that the method measures, or two of unlike kinds: nothing is wrong with either."""


class StoreError(LabError):
    """A stored run could not be written or read."""


class LeakError(LabError):
    """A test left something behind: an open descriptor, a process, a thread, memory."""


class WaitTimeout(LabError):
    """A condition did not come true before its deadline; the message says what was waited for."""
