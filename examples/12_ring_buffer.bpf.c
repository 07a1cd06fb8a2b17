// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 12_ring_buffer: tells user space about each UDP datagram, in order, through one buffer for all CPUs.
 *
 * A record is reserved, filled in place and submitted. A full buffer gives NULL: the event is lost, and a program that
 * cares counts that. Between reserve and submit every path must lead to submit or discard; the verifier checks it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>

struct event {
	__be32 source;
	__u32 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* bytes: a power of two, and whole pages */
} events SEC(".maps");

__u64 lost;
const struct event *unused __attribute__((unused)); /* else clang leaves the type out of the object */

SEC("xdp")
int report_datagrams(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + sizeof(struct ethhdr);
	struct event *event;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || ip->protocol != IPPROTO_UDP)
		return XDP_PASS;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&lost, 1);
		return XDP_PASS;
	}
	event->source = ip->saddr;
	event->bytes = ctx->data_end - ctx->data;
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
