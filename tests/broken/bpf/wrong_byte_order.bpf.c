// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * wrong_byte_order: counts datagrams by destination port, and is broken: the port is kept as it is on the wire.
 */
#include <linux/bpf.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lab/parse.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u16); /* port, host order */
	__type(value, __u64);
} packets SEC(".maps");

SEC("xdp")
int wrong_byte_order(struct xdp_md *ctx)
{
	struct lab_packet pkt;
	__u64 *count, one = 1;
	struct udphdr *udp;
	__u16 port;

	if (lab_parse(&pkt, (void *)(long)ctx->data, (void *)(long)ctx->data_end) != LAB_OK)
		return XDP_PASS;
	udp = pkt.l4;
	if (pkt.protocol != IPPROTO_UDP || (void *)(udp + 1) > pkt.end)
		return XDP_PASS;
	port = udp->dest;
	count = bpf_map_lookup_elem(&packets, &port);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&packets, &port, &one, BPF_NOEXIST);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
