// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What an operation on a map with keys costs: each program does one TIMES times, `control` does all but that.
 *
 * Built once for each type of map, with -DKIND=BPF_MAP_TYPE_... and, for arrays, -DINDEXED, for tries, -DPREFIXES.
 *
 * Keys come in steps of the golden ratio, so that neighbours in time are strangers in memory: in a large table each
 * operation misses the caches. The next key waits for what the operation gave, as a packet waits for its flow; without
 * that the processor would work at several of them at once, and the price at a million entries would be half of what a
 * program pays that does one a packet.
 *
 * Keys below `held` are in the table, those from ABSENT on never are; between them are those that come and go.
 *
 * Oldest kernel: 5.5 (global data).
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "floor.h"

#ifndef KIND
#define KIND BPF_MAP_TYPE_HASH
#endif
#define GOLDEN 2654435761u /* 2^32 by the golden ratio (Knuth); odd */
#define ABSENT (1u << 23)

#if defined(INDEXED)
#define FLAGS 0
struct key {
	__u32 number;
};
#elif defined(PREFIXES)
#define FLAGS BPF_F_NO_PREALLOC
struct key {
	__u32 prefix_bits;
	__be32 address;
};
#else
#define FLAGS 0
struct key { /* as large as a 5-tuple of IPv4 */
	__u32 number;
	__u32 rest[3];
};
#endif

struct value {
	__u64 zero;
	__u64 other;
};

struct {
	__uint(type, KIND);
	__uint(max_entries, 1);
	__uint(map_flags, FLAGS);
	__type(key, struct key);
	__type(value, struct value);
} table SEC(".maps");

volatile __u32 held = 1;
__u32 next;	   /* of the keys that are there */
__u32 fresh;	   /* of those that come ... */
__u32 gone;	   /* ... and go */
volatile __u64 is; /* what a pointer is as a number */

static __always_inline __u32 present(__u32 at)
{
	return (__u64)(at * GOLDEN) * held >> 32;
}

static __always_inline __u32 absent(__u32 at)
{
	return ABSENT | at * GOLDEN >> 9;
}

/* The key of a number below 2^24, once `seen`, which is 0, is known. */
static __always_inline void make_key(struct key *key, __u32 number, __u32 seen)
{
#ifdef PREFIXES
	/* A host in a network of 24 bits; networks are scattered over all addresses. */
	key->prefix_bits = 32;
	key->address = bpf_htonl((number * GOLDEN << 8 | 1) + seen);
#else
	__builtin_memset(key, 0, sizeof(*key));
	key->number = number + seen;
#endif
	asm volatile("" : : "r"(key) : "memory");
}

/* The same as an entry: of a trie, the network. */
static __always_inline void make_entry(struct key *key, __u32 number, __u32 seen)
{
	make_key(key, number, seen);
#ifdef PREFIXES
	key->prefix_bits = 24;
#endif
	asm volatile("" : : "r"(key) : "memory");
}

SEC("tc")
int control(struct __sk_buff *skb)
{
	struct key key;

	REPEAT(next, make_key(&key, present(at), seen));
	return TC_ACT_OK;
}

SEC("tc")
int lookup(struct __sk_buff *skb)
{
	struct value *found;
	struct key key;

	REPEAT(next, {
		make_key(&key, present(at), seen);
		found = bpf_map_lookup_elem(&table, &key);
		seen = found ? found->zero : 1;
	});
	return TC_ACT_OK;
}

SEC("tc")
int update(struct __sk_buff *skb)
{
	struct value value = {};
	struct key key;

	REPEAT(next, {
		make_entry(&key, present(at), seen);
		seen = bpf_map_update_elem(&table, &key, &value, BPF_EXIST);
	});
	return TC_ACT_OK;
}

#ifndef INDEXED
SEC("tc")
int miss(struct __sk_buff *skb)
{
	struct key key;

	REPEAT(next, {
		make_key(&key, absent(at), seen);
		/* Tested for NULL, it would be guessed and not waited for. */
		is = (__u64)bpf_map_lookup_elem(&table, &key);
		seen = is;
	});
	return TC_ACT_OK;
}

SEC("tc")
int insert(struct __sk_buff *skb)
{
	struct value value = {};
	struct key key;

	REPEAT(fresh, {
		make_entry(&key, at, seen);
		seen = bpf_map_update_elem(&table, &key, &value, BPF_NOEXIST);
	});
	return TC_ACT_OK;
}

SEC("tc")
int delete (struct __sk_buff *skb)
{
	struct key key;

	REPEAT(gone, {
		make_entry(&key, at, seen);
		seen = bpf_map_delete_elem(&table, &key);
	});
	return TC_ACT_OK;
}
#endif

char _license[] SEC("license") = "GPL";
