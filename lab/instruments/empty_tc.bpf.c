// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Does nothing: what it costs is the cost of its hook, which every measurement subtracts. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

SEC("tc")
int empty_tc(struct __sk_buff *ctx)
{
	(void)ctx;
	return TC_ACT_OK;
}

SEC("tc/ingress")
int empty_tc_ingress(struct __sk_buff *ctx)
{
	(void)ctx;
	return TC_ACT_OK;
}

SEC("tc/egress")
int empty_tc_egress(struct __sk_buff *ctx)
{
	(void)ctx;
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
