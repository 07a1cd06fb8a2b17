// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* XDP programs that count in seen and give one verdict each. Frames of other protocols than 0x88b5 pass. */
#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TEST_PROTOCOL bpf_htons(0x88b5) /* IEEE 802: local experiments */

__u64 seen;
const volatile __u32 out_ifindex = 0;

static __always_inline int count(struct xdp_md *ctx, int verdict)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > end || eth->h_proto != TEST_PROTOCOL)
		return XDP_PASS;
	__sync_fetch_and_add(&seen, 1);
	return verdict;
}

SEC("xdp")
int counting_pass(struct xdp_md *ctx)
{
	return count(ctx, XDP_PASS);
}

SEC("xdp")
int counting_drop(struct xdp_md *ctx)
{
	return count(ctx, XDP_DROP);
}

SEC("xdp")
int reflect(struct xdp_md *ctx)
{
	return count(ctx, XDP_TX);
}

SEC("xdp")
int onward(struct xdp_md *ctx)
{
	int verdict = count(ctx, XDP_REDIRECT);

	return verdict == XDP_REDIRECT ? bpf_redirect(out_ifindex, 0) : verdict;
}

SEC("xdp.frags")
int with_frags(struct xdp_md *ctx)
{
	return count(ctx, XDP_PASS);
}

SEC("xdp/devmap")
int behind_a_devmap(struct xdp_md *ctx)
{
	return count(ctx, XDP_PASS);
}

char _license[] SEC("license") = "GPL";
