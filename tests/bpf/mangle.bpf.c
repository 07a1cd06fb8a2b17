// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What may happen to a datagram on the way: it comes twice, comes changed, or every third does not come. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

__u32 seen;

SEC("tc")
int duplicate(struct __sk_buff *skb)
{
	/* The copy passes this program too, and is known by its mark. */
	if (skb->mark)
		return TC_ACT_OK;
	skb->mark = 1;
	bpf_clone_redirect(skb, skb->ifindex, 0);
	return TC_ACT_OK;
}

SEC("tc")
int corrupt(struct __sk_buff *skb)
{
	__u8 last = 0xff;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_OK;
	/* The last byte of the payload: the mark in front stays as it is. */
	bpf_skb_store_bytes(skb, skb->len - 1, &last, 1, BPF_F_INVALIDATE_HASH);
	return TC_ACT_OK;
}

SEC("xdp")
int every_third(struct xdp_md *ctx)
{
	(void)ctx;
	return ++seen % 3 ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
