// SPDX-License-Identifier: GPL-2.0-only
/*
 * 19_timer: after the first frame something happens every 5 ms, three times, whether or not more frames come.
 *
 * A timer (Linux 5.15) lies in a map's value and lives with the map. Its callback gets the map, the key and the value,
 * and may start the timer again. Sweeping old flows and closing a measuring interval are what it is for.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define CLOCK_MONOTONIC 1
#define MS		(1000 * 1000ULL)

struct clock {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct clock);
} clocks SEC(".maps");

__u32 ticks;

static int tick(void *map, __u32 *key, struct clock *clock)
{
	if (__sync_add_and_fetch(&ticks, 1) < 3)
		bpf_timer_start(&clock->timer, 5 * MS, 0);
	return 0;
}

SEC("xdp")
int start_clock(struct xdp_md *ctx)
{
	__u32 slot = 0;
	struct clock *clock = bpf_map_lookup_elem(&clocks, &slot);

	if (clock && !bpf_timer_init(&clock->timer, &clocks, CLOCK_MONOTONIC)) { /* -EBUSY: it was done before */
		bpf_timer_set_callback(&clock->timer, tick);
		bpf_timer_start(&clock->timer, 5 * MS, 0);
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
