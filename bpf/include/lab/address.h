/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses of both families in one type: IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), wire order. */
#ifndef LAB_ADDRESS_H
#define LAB_ADDRESS_H

#include <linux/in6.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>

static __always_inline struct in6_addr lab_mapped(__be32 address)
{
	struct in6_addr six = {};

	six.s6_addr32[2] = bpf_htonl(0xffff);
	six.s6_addr32[3] = address;
	return six;
}

/* Whether it is the IPv4 address of its last word. */
static __always_inline _Bool lab_is_mapped(const struct in6_addr *six)
{
	return !six->s6_addr32[0] && !six->s6_addr32[1] && six->s6_addr32[2] == bpf_htonl(0xffff);
}

#endif /* LAB_ADDRESS_H */
