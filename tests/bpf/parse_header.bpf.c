/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What lab/parse.h makes of a frame, for user space to look at in `parsed`. */
#include <linux/bpf.h>

#include <lab/parse.h>

struct parsed {
	enum lab_form form;
	enum lab_form ports_form;
	__u16 family;
	__u16 vlans;
	__be16 vlan_tci;
	__u16 network_at; /* offsets from the frame's first byte */
	__u16 transport_at;
	__u16 transport_bytes;
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 fragment;
	__u8 later_fragment;
	__u8 reserved;
};

struct parsed parsed = {};

SEC("xdp")
int parse_header(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	struct lab_packet pkt;

	__builtin_memset(&parsed, 0, sizeof(parsed));
	parsed.form = lab_parse(&pkt, data, (void *)(long)ctx->data_end);
	parsed.vlans = pkt.vlans;
	parsed.vlan_tci = pkt.vlan_tci;
	if (parsed.form != LAB_OK)
		return XDP_PASS;
	parsed.ports_form = lab_parse_ports(&pkt);
	parsed.family = pkt.family;
	parsed.network_at = (void *)pkt.ip4 - data;
	parsed.transport_at = pkt.l4 - data;
	parsed.transport_bytes = pkt.l4_bytes;
	parsed.sport = pkt.sport;
	parsed.dport = pkt.dport;
	parsed.protocol = pkt.protocol;
	parsed.fragment = pkt.fragment;
	parsed.later_fragment = pkt.later_fragment;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
