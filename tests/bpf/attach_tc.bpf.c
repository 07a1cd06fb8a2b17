// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* tc programs that count frames of protocol 0x88b5 in seen, and let all go on. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TEST_PROTOCOL bpf_htons(0x88b5) /* IEEE 802: local experiments */

__u64 seen;

static __always_inline int count(struct __sk_buff *skb, int verdict)
{
	if (skb->protocol != TEST_PROTOCOL)
		return TC_ACT_UNSPEC;
	__sync_fetch_and_add(&seen, 1);
	return verdict;
}

SEC("tc")
int counting(struct __sk_buff *skb)
{
	return count(skb, TC_ACT_UNSPEC);
}

SEC("tc")
int shooting(struct __sk_buff *skb)
{
	return count(skb, TC_ACT_SHOT);
}

SEC("tc/ingress")
int counting_in(struct __sk_buff *skb)
{
	return count(skb, TC_ACT_UNSPEC);
}

SEC("tcx/egress")
int counting_out(struct __sk_buff *skb)
{
	return count(skb, TC_ACT_UNSPEC);
}

char _license[] SEC("license") = "GPL";
