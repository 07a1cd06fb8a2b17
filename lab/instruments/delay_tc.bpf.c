// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Passes each packet after a known time that nothing hides: see delay.h. Oldest kernel: 5.3. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "delay.h"

SEC("tc")
int delay_tc(struct __sk_buff *ctx)
{
	(void)ctx;
	delay();
	return TC_ACT_UNSPEC;
}

SEC("tc/ingress")
int delay_tc_ingress(struct __sk_buff *ctx)
{
	(void)ctx;
	delay();
	return TC_ACT_UNSPEC;
}

SEC("tc/egress")
int delay_tc_egress(struct __sk_buff *ctx)
{
	(void)ctx;
	delay();
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
