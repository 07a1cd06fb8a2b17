"""What the verifier says, read for the lines that tell: the sentence, the C line it is about, the last instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lab.errors import VerifierError

INSTRUCTION = re.compile(r"^(?P<index>\d+): \([0-9a-f]{2}\) (?P<text>.*?)(?:\s*;.*|\s+\d+: R\d.*)?$")
"""An instruction; the registers that newer kernels print behind it are left out."""
SOURCE = re.compile(r"^; (?P<text>.*?)(?: @ (?P<file>[^@]+):(?P<line>\d+))?$")
STACK = re.compile(r"^stack depth (\d+(?:\+\d+)*)", re.MULTILINE)
PROCESSED = re.compile(r"^processed (\d+) insns", re.MULTILINE)
NOISE = re.compile(
    r"^(processed \d+ insns|verification time|stack depth|insns processed|mark_precise|last_idx|regs=|parent |"
    r"from \d+ to |cur state|old state|caller:|callee:|returning from callee|frame\d|func#|Func#|Live regs|"
    r"(R\d+(_w)?=|R\d+: ?\w+=)|\d+: R|\s*$|-- )"
)
SHOWN_INSTRUCTIONS = 3
SHOWN_SENTENCES = 3

MENDS = (
    (r"invalid access to packet", "compare the end of what is read with data_end before this line, in this function"),
    (r"invalid mem access '\w*_or_null'", "test the pointer for NULL before this line"),
    (
        r"infinite loop|back-edge|loop is not bounded",
        "give the loop a constant bound (for, bpf_loop, #pragma unroll)",
    ),
    (r"!read_ok|invalid( indirect)? read from stack", "give the variable a value on every path before this line"),
    (r"bpf_context access", "this type of program may not read or write that field of its context; man 7 bpf-helpers"),
    (
        r"too large\. Processed|sequence of .* jumps is too complex",
        "split the program (tail calls, bpf_loop, __noinline functions)",
    ),
    (
        r"stack .*(Too large|too large)|stack size",
        "512 bytes for a chain of calls: move large variables into a per-CPU array",
    ),
    (r"GPL.?(only|restricted)|non-GPL", 'char LICENSE[] SEC("license") = "GPL"; or a helper without that demand'),
    (
        r"unknown func|cannot use helper|invalid func",
        "this kernel or this type of program lacks the helper; lab doctor lists features",
    ),
    (r"CO-RE relocation", "this kernel lacks that type or field: guard it with bpf_core_field_exists()"),
    (r"kfunc", "this kernel lacks the kfunc: declare it __weak and test it with bpf_ksym_exists()"),
    (
        r"invalid access to map value|outside of the allowed memory range|value is negative|unbounded m",
        "bound the index before this line; an unsigned type or a mask helps",
    ),
    (
        r"leaks addr|pointer arithmetic|math between|prohibited",
        "do the arithmetic on a number, and add it to the pointer once",
    ),
    (
        r"Unreleased reference|reference .*leak",
        "release it on every path (bpf_sk_release, bpf_ringbuf_submit or _discard)",
    ),
    (r"At program exit the register R0|R0 .*should have been", "return only what this hook knows, e.g. 0 or 1"),
    (r"unreachable insn|last insn is not", "let every path return"),
    (
        r"jump out of range|BPF program is too large",
        "make the program smaller, or move parts into __noinline functions",
    ),
)


@dataclass(frozen=True)
class Rejection:
    """The telling lines of a verifier log; what is empty was not in it."""

    sentence: str
    source: str
    """The C line, as the compiler saw it."""
    place: str
    """ "xdp_filter.bpf.c:13"; kernels before 6.10 don't say."""
    instructions: tuple[str, ...]

    @property
    def mend(self) -> str:
        """What usually cures this kind of rejection."""
        hints = (hint for pattern, hint in MENDS if re.search(pattern, self.sentence))
        return next(hints, "read the whole log: it is the error's attribute `log`")


def read_log(log: str) -> Rejection:
    """The telling lines: the sentences behind the last instruction, and the last C line before them.

    >>> read_log("; return eth->h_proto; @ a.bpf.c:13\\n1: (71) r2 = *(u8 *)(r1 +12)\\ninvalid access to packet").place
    'a.bpf.c:13'
    """
    sentences: list[str] = []
    instructions: list[str] = []
    source, place = "", ""
    for line in log.splitlines():
        if found := INSTRUCTION.match(line):
            instructions.append(f"{found['index']}: {found['text']}")
            sentences = []
        elif found := SOURCE.match(line):
            if found["text"].strip():
                source = found["text"].strip()
                place = f"{found['file']}:{found['line']}" if found["file"] else ""
        elif not NOISE.match(line):
            sentences.append(line.strip())
    if not sentences:  # nothing but instructions: the last one is all there is
        sentences = instructions[-1:]
    return Rejection("; ".join(sentences[-SHOWN_SENTENCES:]), source, place, tuple(instructions[-SHOWN_INSTRUCTIONS:]))


def rejection(program: str, log: str, *, words: str = "") -> VerifierError:
    """The error for a program that the verifier refused; `words` stands in for a log without a sentence."""
    found = read_log(log)
    lines = [f"load {program}: the verifier rejected it" + (f" at {found.place}" if found.place else "")]
    lines += [f"    {line}" for line in (found.source, *found.instructions) if line]
    error = VerifierError("\n".join(lines), kernel=found.sentence or words, mend=found.mend)
    error.log = log
    return error


def facts(log: str) -> dict[str, int]:
    """`verified_instructions` and `stack_bytes`, as far as the log's last lines tell (log level 4).

    The stack is that of the program and all its functions, added up. The kernel limits each chain of calls to 512
    bytes, so a program with many functions may exceed that here.
    """
    found = {}
    if processed := PROCESSED.search(log):
        found["verified_instructions"] = int(processed[1])
    if stack := STACK.search(log):
        found["stack_bytes"] = sum(int(depth) for depth in stack[1].split("+"))
    return found
