"""What a user sees of a program that the verifier rejects."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import VerifierError

SOURCES = Path(__file__).parents[1] / "bpf"
REJECTIONS = {
    "reject_bounds": ("invalid access to packet", "data_end"),
    "reject_null": ("map_value_or_null", "NULL"),
    "reject_loop": ("loop", "constant bound"),
    "reject_register": ("!read_ok", "give the variable a value"),
    "reject_context": ("bpf_context access", "may not read or write that field"),
}


@pytest.mark.parametrize("stem", REJECTIONS)
def test_a_rejection_shows_the_line_the_sentence_and_the_mend(bpf, stem):
    """The C line that is at fault, the last instructions, the verifier's sentence; the whole log is an attribute."""
    sentence, mend = REJECTIONS[stem]
    with pytest.raises(VerifierError) as caught:
        bpf.load(stem)
    error = caught.value
    assert f"load {stem}: the verifier rejected it" in error.what
    assert "the line that the error must show" in error.what
    assert sentence in error.kernel
    assert mend in error.mend
    assert sentence in error.log
    assert "processed" in error.log
    assert len(str(error).splitlines()) < 10


def test_the_line_is_named_by_file_and_number_where_the_kernel_says_it(bpf):
    """Since Linux 6.10 the log has it: then the message has it."""
    with pytest.raises(VerifierError) as caught:
        bpf.load("reject_bounds")
    if "@ reject_bounds.bpf.c:" in caught.value.log:
        lines = (SOURCES / "reject_bounds.bpf.c").read_text().splitlines()
        number = next(place for place, line in enumerate(lines, 1) if "must show" in line)
        assert f"at reject_bounds.bpf.c:{number}" in caught.value.what


def test_a_rejection_without_a_line_is_still_a_rejection(bpf):
    """Too much stack is found before any instruction is walked."""
    with pytest.raises(VerifierError, match="rejected it") as caught:
        bpf.load("reject_stack")
    assert "608" in caught.value.kernel
