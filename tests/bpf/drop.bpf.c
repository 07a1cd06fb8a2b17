// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Drops everything, by XDP or by tc, and counts it. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

__u64 dropped;

SEC("xdp")
int drop_xdp(struct xdp_md *ctx)
{
	(void)ctx;
	__sync_fetch_and_add(&dropped, 1);
	return XDP_DROP;
}

SEC("tc")
int drop_tc(struct __sk_buff *ctx)
{
	(void)ctx;
	__sync_fetch_and_add(&dropped, 1);
	return TC_ACT_SHOT;
}

char _license[] SEC("license") = "GPL";
