// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Opens a session for each source address and port of UDP over IPv4, in a table that refuses or one that forgets. */
#include "lab/parse.h"

struct source {
	__be32 address;
	__be16 port;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct source);
	__type(value, __u64);
} refusing SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct source);
	__type(value, __u64);
} forgetting SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct source);
} listed SEC(".maps");

__u64 opened;
__u64 refused;

static __always_inline int source_of(struct xdp_md *ctx, struct source *source)
{
	struct lab_packet pkt;

	if (lab_parse(&pkt, (void *)(long)ctx->data, (void *)(long)ctx->data_end) != LAB_OK)
		return 0;
	if (lab_parse_ports(&pkt) != LAB_OK || pkt.family != ETH_P_IP)
		return 0;
	source->address = pkt.ip4->saddr;
	source->port = pkt.sport;
	return 1;
}

static __always_inline int opened_in(void *table, struct xdp_md *ctx)
{
	struct source source = {};
	__u64 one = 1;

	if (!source_of(ctx, &source))
		return XDP_ABORTED;
	if (bpf_map_lookup_elem(table, &source))
		return XDP_DROP;
	if (bpf_map_update_elem(table, &source, &one, BPF_NOEXIST)) {
		refused++;
		return XDP_DROP;
	}
	opened++;
	return XDP_DROP;
}

SEC("xdp")
int refuse(struct xdp_md *ctx)
{
	return opened_in(&refusing, ctx);
}

SEC("xdp")
int forget(struct xdp_md *ctx)
{
	return opened_in(&forgetting, ctx);
}

/* The first are listed, whoever comes again is listed again. */
SEC("xdp")
int list(struct xdp_md *ctx)
{
	struct source source = {};
	__u32 place = opened;

	if (!source_of(ctx, &source))
		return XDP_ABORTED;
	if (!bpf_map_update_elem(&listed, &place, &source, BPF_ANY))
		opened++;
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
