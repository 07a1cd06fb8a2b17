/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Incremental Internet checksums, RFC 1624 equation 3: HC' = ~(~HC + ~m + m').
 *
 * Inline arithmetic costs 1 to 4 ns; bpf_l4_csum_replace() with a store costs 57, bpf_csum_diff() 30.
 * All words are in network order: one's complement sums do not care (RFC 1071, section 2 (B)).
 */
#ifndef LAB_CHECKSUM_H
#define LAB_CHECKSUM_H

#include <linux/types.h>

/* Folds a sum of 16-bit words into 16 bits (two folds are enough for 32 bits). */
static __always_inline __u16 lab_csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* The difference that replacing one 16-bit word makes: ~m + m'. */
static __always_inline __u64 lab_csum_diff16(__be16 from, __be16 to)
{
	return (__u64)(__u16)~from + to;
}

/* The same for a 32-bit word, an IPv4 address say. */
static __always_inline __u64 lab_csum_diff32(__be32 from, __be32 to)
{
	return (__u64)(__u32)~from + to;
}

/* The same for four 32-bit words, an IPv6 address. */
static __always_inline __u64 lab_csum_diff128(const __be32 *from, const __be32 *to)
{
	__u64 diff = 0;

#pragma unroll
	for (int word = 0; word < 4; word++)
		diff += lab_csum_diff32(from[word], to[word]);
	return diff;
}

/* RFC 1624, equation 3, for a sum of differences. */
static __always_inline __u16 lab_csum_apply(__u16 checksum, __u64 diff)
{
	return (__u16)~lab_csum_fold((__u64)(__u16)~checksum + diff);
}

/*
 * For UDP (RFC 768): a checksum of 0 means that there is none, and it stays so; one that comes out as 0 is sent as
 * all ones.
 */
static __always_inline __u16 lab_csum_apply_udp(__u16 checksum, __u64 diff)
{
	__u16 updated;

	if (!checksum)
		return 0;
	updated = lab_csum_apply(checksum, diff);
	return updated ? updated : 0xffff;
}

#endif /* LAB_CHECKSUM_H */
