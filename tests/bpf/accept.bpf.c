// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Accepts everything at tc, so that no tc program behind it is asked. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

SEC("tc")
int accept(struct __sk_buff *ctx)
{
	(void)ctx;
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
