/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Restores a frame from a template and gives it the source address and port of the next flow. */
#ifndef LAB_FLOWS_H
#define LAB_FLOWS_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TEMPLATE_BYTES	128 /* all headers that are restored; payload behind them is left alone */
#define TEMPLATE_WORDS	(TEMPLATE_BYTES / 8)
#define PORTS_A_ADDRESS 14 /* bits: 16,384 ports to each source address */
#define NOT_THERE	0xffff

const volatile __u64 template[TEMPLATE_WORDS];
const volatile __u32 frame_bytes;		  /* of the whole frame */
const volatile __u32 flow_mask;			  /* flows - 1, flows a power of two */
const volatile __u16 address_offset = NOT_THERE;  /* of the last 4 bytes of the source address */
const volatile __u16 port_offset = NOT_THERE;	  /* of the source port */
const volatile __u16 checksum_offset = NOT_THERE; /* of the IPv4 header checksum */

__u32 rounds;

/* 1 when the frame [data, end) was made the next flow's, 0 when it is too short. */
static __always_inline int next_flow(void *data, void *end)
{
	/* Knuth's multiplicative hash: odd, so every flow comes once before any comes twice. */
	__u32 flow = (rounds++ * 2654435761u) & flow_mask;
	__u32 address = flow >> PORTS_A_ADDRESS;
	__u16 port = flow & ((1 << PORTS_A_ADDRESS) - 1);
	__u32 from = address_offset, at = port_offset, sum = checksum_offset;

#pragma unroll
	for (int word = 0; word < TEMPLATE_WORDS; word++) {
		if (data + (word + 1) * 8 > end)
			break;
		((__u64 *)data)[word] = template[word];
	}
	if (from <= TEMPLATE_BYTES) {
		__be32 *source = data + from;

		if ((void *)(source + 1) > end)
			return 0;
		*source = bpf_htonl(bpf_ntohl(*source) + address);
	}
	if (at <= TEMPLATE_BYTES) {
		__be16 *source = data + at;

		if ((void *)(source + 1) > end)
			return 0;
		*source = bpf_htons(bpf_ntohs(*source) + port);
	}
	if (sum <= TEMPLATE_BYTES) {
		__be16 *check = data + sum;
		__u32 word;

		if ((void *)(check + 1) > end)
			return 0;
		/* RFC 1624 for an address that grows by less than 65,536: only its low word changes, or the carry. */
		word = (__u16)~bpf_ntohs(*check) + (address & 0xffff);
		word = (word & 0xffff) + (word >> 16);
		*check = bpf_htons((__u16) ~((word & 0xffff) + (word >> 16)));
	}
	return 1;
}

#endif /* LAB_FLOWS_H */
