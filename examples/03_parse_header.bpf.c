// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 03_parse_header: drops UDP datagrams to port 9, which it finds behind the Ethernet and the IPv4 header.
 *
 * The verifier follows every path through a program before it may run. It allows a read of the frame only behind a
 * comparison with `end`, so each header is checked before it is used. Numbers on the wire have their highest byte
 * first (__be16): constants are swapped with bpf_htons(), at compile time, and not the packet.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int drop_discard(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if (ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(0x1fff))
		return XDP_PASS;	/* of a later fragment the first bytes are no header */
	udp = (void *)ip + ip->ihl * 4; /* options may stand between: the length is in the header, in words */
	if ((void *)(udp + 1) > end)
		return XDP_PASS;
	return udp->dest == bpf_htons(9) ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
