// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Does nothing: what it costs is the cost of its hook, which every measurement subtracts. TC_ACT_UNSPEC, so that what
 * is attached behind it still meets the packet. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

SEC("tc")
int empty_tc(struct __sk_buff *ctx)
{
	(void)ctx;
	return TC_ACT_UNSPEC;
}

SEC("tc/ingress")
int empty_tc_ingress(struct __sk_buff *ctx)
{
	(void)ctx;
	return TC_ACT_UNSPEC;
}

SEC("tc/egress")
int empty_tc_egress(struct __sk_buff *ctx)
{
	(void)ctx;
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
