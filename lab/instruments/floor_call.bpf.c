// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What a helper costs under tc, and what a call, a lock, an event or a map without keys does: each program does one
 * TIMES times, `control` does all but that.
 *
 * The frame is UDP over IPv4, or the checksum helpers have nothing to update. fib_lookup() runs in a namespace that
 * forwards, from `ingress` to `destination`.
 *
 * Oldest kernel: 5.16 (bloom filter).
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>
#include <linux/udp.h>

#include <bpf/bpf_helpers.h>

#include "floor.h"

#define RING_BYTES    (1 << 22)
#define BLOOM_ENTRIES 4096 /* as many as the warm-up pushes */
#define STACK_ENTRIES 4096 /* as many as one batch pushes */
#define IP_CHECK      (ETH_HLEN + __builtin_offsetof(struct iphdr, check))
#define UDP_CHECK     (ETH_HLEN + sizeof(struct iphdr) + __builtin_offsetof(struct udphdr, check))
#define AF_INET	      2

struct record {
	__u64 word[2];
};

struct locked {
	struct bpf_spin_lock lock;
	__u32 counter;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, BLOOM_ENTRIES);
	__uint(value_size, sizeof(struct record));
} bloom SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, STACK_ENTRIES);
	__uint(value_size, sizeof(struct record));
} stack SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct locked);
} lockers SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct inner);
} array_of_maps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct inner);
} hash_of_maps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} self SEC(".maps");

const volatile __u32 ingress;
const volatile __be32 destination;

__u32 next;
__u32 hops;
__u64 counter;
volatile __u64 is; /* what a pointer is as a number */

#define PROGRAM(name, ...)                                                                                             \
	SEC("tc")                                                                                                      \
	int name(struct __sk_buff *skb)                                                                                \
	{                                                                                                              \
		REPEAT(next, __VA_ARGS__);                                                                             \
		return TC_ACT_OK;                                                                                      \
	}

PROGRAM(control, asm volatile("" : : "r"(at) : "memory"))

PROGRAM(ktime_get_ns, bpf_ktime_get_ns())
PROGRAM(ktime_get_boot_ns, bpf_ktime_get_boot_ns())
PROGRAM(ktime_get_coarse_ns, bpf_ktime_get_coarse_ns())
PROGRAM(jiffies64, bpf_jiffies64())
PROGRAM(get_prandom_u32, bpf_get_prandom_u32())
PROGRAM(get_smp_processor_id, bpf_get_smp_processor_id())

PROGRAM(csum_diff, {
	__be32 from = at, to = ~at;

	bpf_csum_diff(&from, sizeof(from), &to, sizeof(to), 0);
})
PROGRAM(l3_csum_replace, seen = bpf_l3_csum_replace(skb, IP_CHECK, at, at + 1, 4))
PROGRAM(l4_csum_replace, seen = bpf_l4_csum_replace(skb, UDP_CHECK, at, at + 1, BPF_F_PSEUDO_HDR | 4))
PROGRAM(skb_load_bytes, {
	struct iphdr ip;

	seen = bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip));
})
PROGRAM(skb_store_bytes, {
	__be32 source = at;

	seen = bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, saddr), &source, sizeof(source), 0);
})
PROGRAM(skb_pull_data, seen = bpf_skb_pull_data(skb, ETH_HLEN + sizeof(struct iphdr)))
PROGRAM(redirect, seen = bpf_redirect(1, 0) != TC_ACT_REDIRECT)
PROGRAM(fib_lookup, {
	struct bpf_fib_lookup way = {
		.family = AF_INET,
		.l4_protocol = 17,
		.ifindex = ingress,
		.ipv4_dst = destination,
	};

	seen = bpf_fib_lookup(skb, &way, sizeof(way), 0);
})

PROGRAM(ringbuf_output, {
	struct record record = {};

	seen = bpf_ringbuf_output(&ring, &record, sizeof(record), 0);
})
PROGRAM(ringbuf_reserve, {
	struct record *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);

	if (!record) {
		bad++;
	} else {
		record->word[0] = at;
		bpf_ringbuf_submit(record, 0);
	}
})
PROGRAM(perf_event_output, {
	struct record record = {};

	seen = bpf_perf_event_output(skb, &events, BPF_F_CURRENT_CPU, &record, sizeof(record));
})

PROGRAM(bloom_push, {
	struct record record = { { at % BLOOM_ENTRIES, seen } };

	seen = bpf_map_push_elem(&bloom, &record, 0);
})
PROGRAM(bloom_peek, {
	struct record record = { { at % BLOOM_ENTRIES, seen } };

	seen = bpf_map_peek_elem(&bloom, &record);
})
PROGRAM(bloom_miss, {
	struct record record = { { at, 1 } };

	bpf_map_peek_elem(&bloom, &record); /* a few are there by mistake, as is its nature */
})

PROGRAM(stack_push, {
	struct record record = {};

	seen = bpf_map_push_elem(&stack, &record, 0);
})
PROGRAM(stack_pop, {
	struct record record;

	seen = bpf_map_pop_elem(&stack, &record);
})

PROGRAM(lookup_array_of_maps, {
	__u32 key = seen;

	is = (__u64)bpf_map_lookup_elem(&array_of_maps, &key);
	bad += !is;
})
PROGRAM(lookup_hash_of_maps, {
	__u32 key = seen;

	is = (__u64)bpf_map_lookup_elem(&hash_of_maps, &key);
	bad += !is;
})

SEC("tc")
int spin_lock(struct __sk_buff *skb)
{
	struct locked *mine;
	__u32 zero = 0;

	mine = bpf_map_lookup_elem(&lockers, &zero);
	if (!mine)
		return TC_ACT_SHOT;
	REPEAT(next, {
		bpf_spin_lock(&mine->lock);
		mine->counter++;
		bpf_spin_unlock(&mine->lock);
	});
	return TC_ACT_OK;
}

PROGRAM(atomic_add, __sync_fetch_and_add(&counter, at))

static __noinline int callee(__u32 number)
{
	asm volatile("" : "+r"(number));
	return number;
}

PROGRAM(call, callee(at))

/* Tail-calls itself TIMES times: with the driver's own call that is the most that a kernel allows. */
SEC("tc")
int tail_call(struct __sk_buff *skb)
{
	if (hops++ % (TIMES + 1) < TIMES) {
		bpf_tail_call(skb, &self, 0);
		failed++;
	}
	return TC_ACT_OK;
}

SEC("tc")
int tail_call_control(struct __sk_buff *skb)
{
	hops++;
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
