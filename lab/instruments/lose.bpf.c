/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * lose: drops chosen TCP segments, as a bad line would; all other frames pass.
 *
 * Attach it where they come in: TCP is told of a drop on the way out, and does as if it had never sent it.
 *
 * VERDICTS: TC_ACT_SHOT for the next `left` segments that have all of `flags` and at least `payload` bytes; all three
 * are set while it runs, and `left` is counted down. EVERY in `left` never ends. `lost` counts them.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include <lab/parse.h>

#define EVERY	     0xffffffff
#define TCP_FLAGS_AT 13

__u32 left;
__u32 flags;
__u32 payload;
__u32 lost;

SEC("tc")
int lose(struct __sk_buff *skb)
{
	struct lab_packet pkt;
	struct tcphdr *tcp;

	if (!left || bpf_skb_pull_data(skb, 0))
		return TC_ACT_OK;
	if (lab_parse_start(&pkt, (void *)(long)skb->data, (void *)(long)skb->data_end, skb->len) != LAB_OK)
		return TC_ACT_OK;
	tcp = pkt.l4;
	if (pkt.protocol != IPPROTO_TCP || pkt.later_fragment || (void *)(tcp + 1) > pkt.end)
		return TC_ACT_OK;
	if ((((__u8 *)tcp)[TCP_FLAGS_AT] & flags) != flags || pkt.l4_bytes - tcp->doff * 4 < (int)payload)
		return TC_ACT_OK;
	if (left != EVERY)
		__sync_fetch_and_sub(&left, 1);
	__sync_fetch_and_add(&lost, 1);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
