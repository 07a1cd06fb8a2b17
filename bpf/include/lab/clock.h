/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * CLOCK_MONOTONIC in nanoseconds, as of this CPU's last tick (1 to 10 ms): good for ageing, not for latency.
 *
 * bpf_ktime_get_ns() costs 31 ns a call. bpf_jiffies64() costs nothing but counts in ticks of unknown length. So the
 * clock is read once a tick and remembered for each CPU. User space compares with time.monotonic_ns().
 */
#ifndef LAB_CLOCK_H
#define LAB_CLOCK_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct lab_clock {
	__u64 tick;
	__u64 ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lab_clock);
} clocks SEC(".maps");

static __always_inline __u64 lab_now_ns(void)
{
	__u32 only = 0;
	struct lab_clock *clock = bpf_map_lookup_elem(&clocks, &only);
	__u64 tick = bpf_jiffies64();

	if (!clock)
		return bpf_ktime_get_ns();
	if (clock->tick != tick) {
		clock->tick = tick;
		clock->ns = bpf_ktime_get_ns();
	}
	return clock->ns;
}

#endif /* LAB_CLOCK_H */
