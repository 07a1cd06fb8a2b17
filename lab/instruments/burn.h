/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Spends a known time: a cause put in on purpose, for calibration. */
#ifndef LAB_BURN_H
#define LAB_BURN_H

#include <linux/types.h>

/* What a number of rounds costs on this machine is measured, never counted; one takes about a nanosecond. */
const volatile __u32 rounds;

__u64 chained;

/* Each multiplication waits for the one before. The chain starts from a constant, so that rounds of two packets overlap
 * no more than any other work would, and is stored, so that the compiler keeps it.
 */
static __always_inline void burn(void)
{
	__u64 link = 1;

#pragma clang loop unroll(disable)
	for (__u32 round = 0; round < rounds; round++)
		link = link * 6364136223846793005ull + 1;
	chained = link;
}

#endif /* LAB_BURN_H */
