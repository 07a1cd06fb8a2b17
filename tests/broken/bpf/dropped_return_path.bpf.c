// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * dropped_return_path: a firewall that lets clients ask, and is broken: the answers are not let back in.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lab/parse.h>

const volatile __u32 inside = 0x0a000000; /* 10.0.0.0/24, host order */

SEC("tc/ingress")
int dropped_return_path(struct __sk_buff *skb)
{
	struct lab_packet pkt;

	if (lab_parse(&pkt, (void *)(long)skb->data, (void *)(long)skb->data_end) != LAB_OK || pkt.family != ETH_P_IP)
		return TC_ACT_OK;
	return (bpf_ntohl(pkt.ip4->saddr) & 0xffffff00) == inside ? TC_ACT_OK : TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
