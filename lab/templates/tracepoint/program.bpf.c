/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * new_program: reports and counts the changes of TCP sockets' states.
 *
 * KNOBS (const volatile, set before load)
 *   port 0        only sockets of this port, local or remote; 0: all
 *
 * MAPS
 *   events        ring buffer of `struct event`; when it is full, the event is lost and counted in `lost`
 *   changes       new state -> how often; per CPU
 *
 * KERNEL 5.10 or later
 *
 * NOT HANDLED
 *   Sockets of other namespaces are not told apart: a tracepoint sees the whole machine.
 */
#include <vmlinux.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

const volatile __u16 port = 0;

__u64 lost;

struct event {
	__u32 old_state; /* TCP_ESTABLISHED is 1, and so on: net/tcp_states.h */
	__u32 new_state;
	__u16 local_port;
	__u16 remote_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} changes SEC(".maps");

const struct event *unused __attribute__((unused)); /* keeps the type for the reader */

SEC("tracepoint/sock/inet_sock_set_state")
int new_program(struct trace_event_raw_inet_sock_set_state *ctx)
{
	__u32 state = ctx->newstate;
	struct event *event;
	__u64 *count;

	if (ctx->protocol != IPPROTO_TCP || (port && ctx->sport != port && ctx->dport != port))
		return 0;
	count = bpf_map_lookup_elem(&changes, &state);
	if (count)
		*count += 1;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&lost, 1); /* two CPUs may lose one at once */
		return 0;
	}
	event->old_state = ctx->oldstate;
	event->new_state = state;
	event->local_port = ctx->sport;
	event->remote_port = ctx->dport;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

char _license[] SEC("license") = "GPL";
