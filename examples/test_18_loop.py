"""A loop is walked round by round, or once."""

FRAME = bytes(64)


def test_two_loops_one_sum(bpf):
    """The sum of 1 to 500 either way; the verifier walks ten times as many instructions for one of them."""
    programs = bpf.load("18_loop").programs
    for program in programs.values():
        program.run(FRAME)
        assert program.globals["sum"] == sum(range(501))
        program.globals["sum"] = 0

    walked = {name: each.facts.verified_instructions for name, each in programs.items()}
    assert walked["by_for"] > 10 * walked["by_helper"]
