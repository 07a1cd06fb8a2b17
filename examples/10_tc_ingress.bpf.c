// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * 10_tc_ingress: marks ICMP packets and drops those from port 9, behind the driver, where a packet is a socket buffer.
 *
 * A tc program costs more than XDP, for the kernel has made an sk_buff by then, and knows more: the mark, the VLAN tag,
 * the receiving queue, at egress even the socket. `struct __sk_buff` is how a program sees it; what a program writes
 * there, the firewall and the routing rules read. bpf_skb_load_bytes() copies from wherever the packet's bytes are.
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("tc/ingress")
int mark_or_drop(struct __sk_buff *skb)
{
	__u8 protocol;
	__be16 source;

	if (skb->protocol != bpf_htons(ETH_P_IP) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, protocol), &protocol, sizeof(protocol)))
		return TC_ACT_OK;
	if (protocol == IPPROTO_ICMP)
		skb->mark = 7;
	if (protocol == IPPROTO_UDP &&
	    !bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr), &source, sizeof(source)) &&
	    source == bpf_htons(9))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
