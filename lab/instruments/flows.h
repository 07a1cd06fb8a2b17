/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Restores a frame from a template and gives it the source address and port of the next flow, checksums kept right. */
#ifndef LAB_FLOWS_H
#define LAB_FLOWS_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lab/checksum.h"

#define TEMPLATE_BYTES	128 /* all headers that are restored; payload behind them is left alone */
#define TEMPLATE_WORDS	(TEMPLATE_BYTES / 8)
#define PORTS_A_ADDRESS 14 /* bits: 16,384 ports to each source address */
#define NOT_THERE	0xffff

const volatile __u64 template[TEMPLATE_WORDS];
const volatile __u32 frame_bytes; /* of the whole frame */
const volatile __u32 flows = 1;
const volatile __u32 port_bits = PORTS_A_ADDRESS;    /* 0: a source address to each flow */
const volatile __u16 address_offset = NOT_THERE;     /* of the last 4 bytes of the source address */
const volatile __u16 port_offset = NOT_THERE;	     /* of the source port */
const volatile __u16 ip_checksum_offset = NOT_THERE; /* of the IPv4 header checksum */
const volatile __u16 l4_checksum_offset = NOT_THERE; /* of the checksum of TCP or UDP */
const volatile _Bool is_udp;

__u32 rounds;

/*
 * Flows that are a power of two come in steps of this, which is odd, so that each comes once before any comes twice.
 * By default it is Knuth's multiplicative hash, and neighbours in time are strangers in memory. Others come in order.
 */
volatile __u32 stride = 2654435761u;

static __always_inline __u32 flow_of_round(void)
{
	__u32 round = rounds++;

	if (flows & (flows - 1))
		return round % flows;
	return (round * stride) & (flows - 1);
}

/* A 16-bit word of the frame at a constant offset, or NULL beyond its end. */
static __always_inline void *word_at(void *data, void *end, __u32 offset, __u32 bytes)
{
	if (offset > TEMPLATE_BYTES || data + offset + bytes > end)
		return NULL;
	return data + offset;
}

/* 1 when the frame [data, end) was made the next flow's, 0 when it is too short. */
static __always_inline int next_flow(void *data, void *end)
{
	__u32 flow = flow_of_round();
	__be32 *address;
	__be16 *port;
	__u64 diff = 0;

#pragma unroll
	for (int word = 0; word < TEMPLATE_WORDS; word++) {
		if (data + (word + 1) * 8 > end)
			break;
		((__u64 *)data)[word] = template[word];
	}
	if (address_offset != NOT_THERE) {
		__be32 before;

		address = word_at(data, end, address_offset, 4);
		if (!address)
			return 0;
		before = *address;
		*address = bpf_htonl(bpf_ntohl(before) + (flow >> port_bits));
		diff = lab_csum_diff32(before, *address);
	}
	if (ip_checksum_offset != NOT_THERE) {
		__u16 *check = word_at(data, end, ip_checksum_offset, 2);

		if (!check)
			return 0;
		*check = lab_csum_apply(*check, diff);
	}
	if (port_offset != NOT_THERE) {
		__be16 before;

		port = word_at(data, end, port_offset, 2);
		if (!port)
			return 0;
		before = *port;
		*port = bpf_htons(bpf_ntohs(before) + (flow & ((1 << port_bits) - 1)));
		diff += lab_csum_diff16(before, *port);
	}
	if (l4_checksum_offset != NOT_THERE) {
		__u16 *check = word_at(data, end, l4_checksum_offset, 2);

		if (!check)
			return 0;
		*check = is_udp ? lab_csum_apply_udp(*check, diff) : lab_csum_apply(*check, diff);
	}
	return 1;
}

#endif /* LAB_FLOWS_H */
