"""What the verifier refuses, and how the lab says it: where, in the kernel's words, and what to do."""

import pytest

from lab.errors import VerifierError

WITHOUT = {
    "without_end_check": ("eth->h_proto", "invalid access to packet", "compare the end of what is read with data_end"),
    "without_null_check": ("*value", "R0 invalid mem access 'map_value_or_null'", "test the pointer for NULL"),
    "without_index_check": ("names[", "unbounded memory access", "bound the index before this line"),
    "without_end": ("while (bpf_get_prandom_u32())", "infinite loop detected", "give the loop a constant bound"),
    "without_release": ("return sk", "Unreleased reference", "release it on every path (bpf_sk_release"),
}


@pytest.mark.parametrize("program", WITHOUT)
def test_the_message_says_where_what_and_how_to_mend(bpf, program):
    """The line of C, the verifier's own sentence, and the way out; the whole log is kept beside."""
    line, sentence, mend = WITHOUT[program]
    with pytest.raises(VerifierError) as refused:
        bpf.load("25_rejections", program=program)

    place, code = refused.value.what.splitlines()[:2]
    assert place.startswith(f"load {program}: the verifier rejected it")
    assert ("at 25_rejections.bpf.c:" in place) == ("@ 25_rejections.bpf.c:" in refused.value.log)  # since Linux 6.9
    assert line in code
    assert sentence in refused.value.kernel
    assert refused.value.mend.startswith(mend)
    assert len(refused.value.log) > len(refused.value.kernel)
