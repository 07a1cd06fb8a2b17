// SPDX-License-Identifier: GPL-2.0-only
/*
 * 25_rejections: five programs that the verifier refuses, each for what a first program is refused for most often.
 *
 * None of them would do harm with this frame or that entry. The verifier asks for more: that no path, with any frame
 * and any entry, reads what is not there, loses what it took, or never ends.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} table SEC(".maps");

__u8 names[16];

SEC("xdp")
int without_end_check(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	return eth->h_proto ? XDP_PASS
			    : XDP_DROP; /* is the frame that long? if ((void *)(eth + 1) > data_end) return … */
}

SEC("xdp")
int without_null_check(struct xdp_md *ctx)
{
	__u32 slot = 3, *value = bpf_map_lookup_elem(&table, &slot);

	return *value; /* if (!value) return …, though of an array you know better */
}

SEC("xdp")
int without_index_check(struct xdp_md *ctx)
{
	return names[ctx->rx_queue_index]; /* queue 99? if (index >= sizeof(names)) return … */
}

SEC("xdp")
int without_end(struct xdp_md *ctx)
{
	while (bpf_get_prandom_u32()) /* it would end some day: say when, for (…; round < 100; …) */
		;
	return XDP_PASS;
}

SEC("tc")
int without_release(struct __sk_buff *skb)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);

	return sk ? 0 : 2; /* the look-up took a reference: bpf_sk_release(sk) */
}

char _license[] SEC("license") = "GPL";
