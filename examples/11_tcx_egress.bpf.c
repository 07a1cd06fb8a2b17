// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 11_tcx_egress: sets the time to live of outgoing IPv4 packets to 7, and keeps their checksum right.
 *
 * XDP sees what comes in; what goes out passes tc's egress. Since Linux 6.6 a program is attached there by TCX, a
 * bpf_link, several beside each other; before that, by a filter on the clsact qdisc. A header that is changed needs its
 * checksum changed too: bpf_l3_csum_replace() does it by the difference (RFC 1624), over the 16 bits that hold it.
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TTL_AT	    (ETH_HLEN + offsetof(struct iphdr, ttl)) /* with the protocol it is a 16-bit word of the sum */
#define CHECKSUM_AT (ETH_HLEN + offsetof(struct iphdr, check))

SEC("tcx/egress")
int limit_ttl(struct __sk_buff *skb)
{
	__u8 was[2], is[2];

	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, TTL_AT, was, sizeof(was)))
		return TC_ACT_UNSPEC; /* TCX_NEXT by its older name: on to the next program, if there is one */
	is[0] = 7;
	is[1] = was[1];
	bpf_l3_csum_replace(skb, CHECKSUM_AT, *(__u16 *)was, *(__u16 *)is, sizeof(__u16));
	bpf_skb_store_bytes(skb, TTL_AT, is, sizeof(is), 0);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual BSD/GPL";
