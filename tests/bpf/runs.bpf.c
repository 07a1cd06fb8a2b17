// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Programs of the types that BPF_PROG_RUN knows, and one that it does not. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

__u64 rounds;
__u64 argument;

/* Writes the round's number over the first byte and the frame's first byte as seen into `argument`. */
SEC("xdp")
int scribble(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;

	if ((void *)(data + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	rounds++;
	argument += data[0];
	data[0] = rounds;
	return rounds % 2 ? XDP_TX : XDP_DROP;
}

SEC("xdp")
int grow(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct ethhdr)))
		return XDP_ABORTED;
	return XDP_PASS;
}

SEC("xdp")
int where_from(struct xdp_md *ctx)
{
	argument = ctx->ingress_ifindex;
	return 77; /* no verdict */
}

SEC("tc")
int classify(struct __sk_buff *skb)
{
	argument = skb->mark;
	rounds++;
	skb->mark = 7;
	skb->cb[0] = skb->cb[1] + 1;
	skb->priority = skb->ifindex;
	return skb->len > 100 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("cgroup_skb/egress")
int allow_long(struct __sk_buff *skb)
{
	return skb->len > 100;
}

SEC("socket")
int keep(struct __sk_buff *skb)
{
	return skb->len;
}

SEC("flow_dissector")
int dissect(struct __sk_buff *skb)
{
	struct bpf_flow_keys *keys = skb->flow_keys;

	keys->nhoff = 14;
	keys->ip_proto = 6;
	keys->n_proto = bpf_htons(ETH_P_IP);
	keys->dport = bpf_htons(443);
	keys->ipv4_src = bpf_htonl(0x0a000001);
	return BPF_OK;
}

SEC("sk_lookup")
int pick(struct bpf_sk_lookup *ctx)
{
	argument = ctx->local_port;
	return ctx->remote_ip4 == bpf_htonl(0x0a000001) ? SK_PASS : SK_DROP;
}

SEC("raw_tp/sys_enter")
int traced(struct bpf_raw_tracepoint_args *ctx)
{
	argument = ctx->args[1];
	return 5;
}

struct request {
	__u32 left;
	__u32 right;
	__u32 sum;
};

SEC("syscall")
int add(struct request *request)
{
	request->sum = request->left + request->right;
	return 0;
}

SEC("sk_msg")
int judge(struct sk_msg_md *msg)
{
	return SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
