// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Remembers every source (address, port) that it sees. */
#include "lab/parse.h"

struct source {
	__be32 address[4];
	__be16 port;
	__u16 family;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct source);
	__type(value, __u64);
} sources SEC(".maps");

SEC("xdp")
int remember(struct xdp_md *ctx)
{
	struct lab_packet pkt;
	struct source source = {};
	__u64 one = 1;

	if (lab_parse(&pkt, (void *)(long)ctx->data, (void *)(long)ctx->data_end) != LAB_OK)
		return XDP_ABORTED;
	if (lab_parse_ports(&pkt) != LAB_OK)
		return XDP_ABORTED;
	source.family = pkt.family;
	source.port = pkt.sport;
	if (pkt.family == ETH_P_IP)
		source.address[0] = pkt.ip4->saddr;
	else
		__builtin_memcpy(source.address, &pkt.ip6->saddr, 16);
	bpf_map_update_elem(&sources, &source, &one, BPF_ANY);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
