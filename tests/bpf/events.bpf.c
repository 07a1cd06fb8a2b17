// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Sends an event for each frame, by ring buffer and by perf buffer. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct event {
	__u32 number;
	__be16 first_bytes;
	__u8 rest[4];
};

struct other_record {
	__u64 twice;
};

const struct event *unused_event __attribute__((unused));
const struct other_record *unused_record __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} untyped SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
} perf_events SEC(".maps");

__u32 number;
__u32 refused;

SEC("xdp")
int send_events(struct xdp_md *ctx)
{
	__u16 *data = (void *)(long)ctx->data;
	struct event event = { .number = ++number };
	struct other_record *record;
	__u32 word = number;

	if ((void *)(data + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	event.first_bytes = *data;
	/* No wake-up: readers must look by themselves. */
	if (bpf_ringbuf_output(&events, &event, sizeof(event), BPF_RB_NO_WAKEUP))
		refused++;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (record) {
		record->twice = 2 * number;
		bpf_ringbuf_submit(record, 0);
	}
	bpf_ringbuf_output(&untyped, &word, sizeof(word), 0);
	bpf_perf_event_output(ctx, &perf_events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
