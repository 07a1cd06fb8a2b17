// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * wrong_checksum: hands UDP port 8080 to the server at 9000, and is broken: the checksum still speaks of 8080.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lab/parse.h>

SEC("tc/ingress")
int wrong_checksum(struct __sk_buff *skb)
{
	struct lab_packet pkt;
	struct udphdr *udp;

	if (lab_parse(&pkt, (void *)(long)skb->data, (void *)(long)skb->data_end) != LAB_OK)
		return TC_ACT_OK;
	udp = pkt.l4;
	if (pkt.protocol != IPPROTO_UDP || (void *)(udp + 1) > pkt.end || udp->dest != bpf_htons(8080))
		return TC_ACT_OK;
	udp->dest = bpf_htons(9000);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
