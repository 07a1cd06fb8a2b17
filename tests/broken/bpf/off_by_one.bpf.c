// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * off_by_one: drops UDP to ports `first` to `last`, and is broken: the last one passes.
 */
#include <linux/bpf.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lab/parse.h>

const volatile __u16 first = 9000;
const volatile __u16 last = 9009;

SEC("xdp")
int off_by_one(struct xdp_md *ctx)
{
	struct lab_packet pkt;
	struct udphdr *udp;
	__u16 port;

	if (lab_parse(&pkt, (void *)(long)ctx->data, (void *)(long)ctx->data_end) != LAB_OK)
		return XDP_PASS;
	udp = pkt.l4;
	if (pkt.protocol != IPPROTO_UDP || (void *)(udp + 1) > pkt.end)
		return XDP_PASS;
	port = bpf_ntohs(udp->dest);
	return port >= first && port < last ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
