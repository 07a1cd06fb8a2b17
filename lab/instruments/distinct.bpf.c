// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Counts how many different flows of a flood came: UDP in IPv4 from 10.0.0.1 up, ports 40000 up. Drops them. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/types.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FLOWS	      (1 << 20)
#define FIRST_ADDRESS 0x0a000001
#define FIRST_PORT    40000
#define PORT_BITS     14

__u8 seen[FLOWS];
__u32 flows;
__u32 frames;

SEC("xdp")
int distinct(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	__u32 flow;

	if ((void *)(udp + 1) > end)
		return XDP_PASS;
	flow = (bpf_ntohl(ip->saddr) - FIRST_ADDRESS) << PORT_BITS | (bpf_ntohs(udp->source) - FIRST_PORT);
	if (flow >= FLOWS)
		return XDP_PASS;
	/* The flood comes on one CPU, so nobody else counts now. */
	frames++;
	if (!seen[flow]) {
		seen[flow] = 1;
		flows++;
	}
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
