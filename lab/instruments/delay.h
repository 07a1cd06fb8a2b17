/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Holds a packet for a time that nothing before or behind it can hide: the cause that latency methods must recover.
 *
 * burn.h is work like any other: a CPU that executes out of order overlaps 30 ns of it with the work around. Here the
 * chain of multiplications stands between two readings of the clock, each of which waits for all instructions before it
 * (lfence; rdtsc), and starts from what the first one read. A round takes about 10 ns: few rounds, so that the end of
 * the loop is foreseen even by a CPU that comes to it once in a while. What so many take is measured, never counted.
 */
#ifndef LAB_DELAY_H
#define LAB_DELAY_H

#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define STEPS 8

const volatile __u32 rounds;

__u64 ended;

static __always_inline void delay(void)
{
	__u64 link = bpf_ktime_get_ns();

#pragma clang loop unroll(disable)
	for (__u32 round = 0; round < rounds; round++) {
#pragma clang loop unroll(full)
		for (int step = 0; step < STEPS; step++)
			link = (link ^ link >> 29) * 6364136223846793005ull;
	}
	ended = link + bpf_ktime_get_ns();
}

#endif /* LAB_DELAY_H */
