// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* One of each C type that a map can hold, with values that clang laid out: the decoder must read the same. */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum colour {
	RED,
	GREEN = 5,
	BLUE,
};

enum signed_enum {
	BELOW = -2,
	ABOVE = 2,
};

struct point {
	__s16 x;
	__s16 y;
};

struct everything {
	__u8 u8;
	__s8 s8;
	__u16 u16;
	__s16 s16;
	__u32 u32;
	__s32 s32;
	__u64 u64;
	__s64 s64;
	bool yes;
	char letter;
	__be16 port;
	__be32 address;
	__be64 wide;
	enum colour colour;
	enum signed_enum lean;
	char name[8];
	__u8 mac[6];
	__u16 primes[4];
	struct point point;
	struct point corners[2];
	struct in_addr four;
	struct in6_addr six;
	__u8 sixteen[16];
	unsigned __int128 huge;
	void *pointer;
	float half;
	double quarter;
	__u32 grid[2][3];
	__u64 many[40];
};

struct everything everything = {
	.u8 = 200,
	.s8 = -100,
	.u16 = 60000,
	.s16 = -30000,
	.u32 = 4000000000u,
	.s32 = -2000000000,
	.u64 = 18000000000000000000ull,
	.s64 = -9000000000000000000ll,
	.yes = true,
	.letter = 'A',
	.port = bpf_htons(9000),
	.address = bpf_htonl(0x0a000001),
	.wide = 0x0100000000000000ull, /* 1 in wire order */
	.colour = GREEN,
	.lean = BELOW,
	.name = "eth0",
	.mac = { 2, 0, 0, 0, 0, 1 },
	.primes = { 2, 3, 5, 7 },
	.point = { -1, 2 },
	.corners = { { 1, 2 }, { 3, 4 } },
	.four = { .s_addr = bpf_htonl(0x0a000002) },
	.six = { .in6_u.u6_addr8 = { 0xfd, [15] = 1 } },
	.sixteen = { 0xfd, [15] = 2 },
	.huge = ((unsigned __int128)1 << 100) + 7,
	.pointer = (void *)0x1234,
	.half = 0.5f,
	.quarter = 0.25,
	.grid = { { 1, 2, 3 }, { 4, 5, 6 } },
	.many = { [0] = 1, [39] = 40 },
};

struct flags {
	__u32 low : 3;
	__u32 middle : 13;
	__s32 lean : 4;
	enum colour colour : 4;
	__u64 across : 40;
	bool last : 1;
	__u8 whole;
	__u8 : 4;
	__u8 high : 4;
};

struct flags flags = {
	.low = 5,
	.middle = 8000,
	.lean = -3,
	.colour = BLUE,
	.across = 0xabcdef0123ull,
	.last = true,
	.whole = 77,
	.high = 9,
};

/* Anonymous members are their parent's, a union shows one storage in each of its shapes. */
struct mixed {
	__u16 family;
	union {
		__be32 ip4;
		struct in6_addr ip6;
	};
	struct {
		__be16 sport;
		__be16 dport;
	};
	union {
		__u32 word;
		struct point point;
	} either;
};

struct mixed mixed = {
	.family = 2,
	.ip4 = bpf_htonl(0x0a000003),
	.sport = bpf_htons(1000),
	.dport = bpf_htons(2000),
	.either = { .point = { 1, -1 } },
};

/* No padding, odd offsets. */
struct packed {
	__u8 a;
	__u32 b;
	__u16 c;
} __attribute__((packed));

struct packed packed = { 1, 2, 3 };

/* Words that Python keeps for itself, or that a tuple has as methods. */
struct awkward {
	__u32 from;
	__u32 class;
	__u32 count;
	__u32 index;
	__u32 _private;
};

struct awkward awkward = { 1, 2, 3, 4, 5 };

struct padded {
	__u8 first;
	__u32 second;
	__u8 third;
};

struct padded padded[3] = { { 1, 2, 3 }, { 4, 5, 6 }, { 7, 8, 9 } };

SEC("xdp")
int types(struct xdp_md *ctx)
{
	return everything.u8 + flags.low + mixed.family + packed.a + awkward.from + padded[1].first;
}

char LICENSE[] SEC("license") = "GPL";
