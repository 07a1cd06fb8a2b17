// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Refused by the verifier: a register that was never written is read (root may read stack never written, since 6.3). */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int reject_register(struct xdp_md *ctx)
{
	__u64 verdict;

	/* In assembler, because clang reads uninitialised variables as it likes. */
	asm volatile("%0 = r7" : "=r"(verdict)); /* the line that the error must show */
	return verdict;
}

char LICENSE[] SEC("license") = "GPL";
