// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Globals of each kind that user space sets before the load, and reads or writes after it. */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in6.h>

#include <bpf/bpf_helpers.h>

enum policy {
	ALLOW = 1,
	DENY = 2,
};

struct rule {
	__be32 address;
	__be16 port;
	__u16 mask;
};

const volatile bool enabled;
const volatile __u8 small = 3;
const volatile __s32 negative = -1;
const volatile __be16 port;
const volatile __be32 address;
const volatile struct in6_addr address6;
const volatile enum policy policy = ALLOW;
const volatile __u32 table[4] = { 1, 2, 3, 4 };
const volatile struct rule rule;
const volatile char name[16] = "nobody";
static const volatile __u32 hidden = 9;

__u64 counter;
struct rule last = { .mask = 5 };
enum policy seen;
static volatile __u32 own = 11;
__u32 apart SEC(".data.apart") = 12;
const volatile __u32 elsewhere SEC(".rodata.elsewhere") = 13;

SEC("xdp")
int knobs(struct xdp_md *ctx)
{
	counter += small + enabled;
	last.address = address;
	last.port = port;
	seen = policy;
	own += hidden + elsewhere + apart + negative + table[1] + rule.mask + address6.in6_u.u6_addr8[15];
	return name[0] == 'n' ? XDP_PASS : XDP_DROP;
}

/* Never loaded here: it is named, so that the object has a second program. */
SEC("xdp")
int other(struct xdp_md *ctx)
{
	return XDP_TX;
}

char LICENSE[] SEC("license") = "GPL";
