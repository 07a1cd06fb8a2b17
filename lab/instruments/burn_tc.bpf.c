// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Passes each packet after a known time: `rounds` multiplications that wait for each other. Oldest kernel: 5.3. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "burn.h"

SEC("tc")
int burn_tc(struct __sk_buff *ctx)
{
	(void)ctx;
	burn();
	return TC_ACT_UNSPEC;
}

SEC("tc/ingress")
int burn_tc_ingress(struct __sk_buff *ctx)
{
	(void)ctx;
	burn();
	return TC_ACT_UNSPEC;
}

SEC("tc/egress")
int burn_tc_egress(struct __sk_buff *ctx)
{
	(void)ctx;
	burn();
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
