/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The two ends of a packet, and which of them comes first in a key that both directions share. */
#ifndef LAB_ENDS_H
#define LAB_ENDS_H

#include <stdbool.h>
#include <linux/in6.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>

#include "lab/address.h"
#include "lab/parse.h"

/* Of a packet of either family, IPv4 as lab_mapped(); false where its header is cut off. */
static __always_inline bool lab_read_ends(const struct lab_packet *pkt, struct in6_addr *source, struct in6_addr *dest)
{
	if (pkt->family == ETH_P_IP) {
		*source = lab_mapped(pkt->ip4->saddr);
		*dest = lab_mapped(pkt->ip4->daddr);
		return true;
	}
	/* Behind a merge the verifier has forgotten that `family` went with 40 bytes of header. */
	if ((void *)(pkt->ip6 + 1) > pkt->end)
		return false;
	*source = pkt->ip6->saddr;
	*dest = pkt->ip6->daddr;
	return true;
}

/* As numbers; wire order makes the first word the most significant. */
static __always_inline bool lab_is_lower(const struct in6_addr *a, const struct in6_addr *b)
{
#pragma unroll
	for (int word = 0; word < 4; word++)
		if (a->s6_addr32[word] != b->s6_addr32[word])
			return bpf_ntohl(a->s6_addr32[word]) < bpf_ntohl(b->s6_addr32[word]);
	return false;
}

/* Whether the source is the upper end. An address that talks to itself has its ports to tell them apart. */
static __always_inline bool lab_is_upper(const struct in6_addr *source, const struct in6_addr *dest, __be16 sport,
					 __be16 dport)
{
	return lab_is_lower(dest, source) || (!lab_is_lower(source, dest) && bpf_ntohs(dport) < bpf_ntohs(sport));
}

#endif /* LAB_ENDS_H */
