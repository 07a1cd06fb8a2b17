/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Bob Jenkins' lookup3 for an array of 32-bit words (https://burtleburtle.net/bob/c/lookup3.c), as in linux/jhash.h. */
#ifndef LAB_JHASH_H
#define LAB_JHASH_H

#include <linux/types.h>

#define LAB_JHASH_START 0xdeadbeef

static __always_inline __u32 lab_rotate(__u32 word, __u32 bits)
{
	return (word << bits) | (word >> (32 - bits));
}

static __always_inline void lab_jhash_mix(__u32 *a, __u32 *b, __u32 *c)
{
	*a = (*a - *c) ^ lab_rotate(*c, 4);
	*c += *b;
	*b = (*b - *a) ^ lab_rotate(*a, 6);
	*a += *c;
	*c = (*c - *b) ^ lab_rotate(*b, 8);
	*b += *a;
	*a = (*a - *c) ^ lab_rotate(*c, 16);
	*c += *b;
	*b = (*b - *a) ^ lab_rotate(*a, 19);
	*a += *c;
	*c = (*c - *b) ^ lab_rotate(*b, 4);
	*b += *a;
}

static __always_inline __u32 lab_jhash_final(__u32 a, __u32 b, __u32 c)
{
	c = (c ^ b) - lab_rotate(b, 14);
	a = (a ^ c) - lab_rotate(c, 11);
	b = (b ^ a) - lab_rotate(a, 25);
	c = (c ^ b) - lab_rotate(b, 16);
	a = (a ^ c) - lab_rotate(c, 4);
	b = (b ^ a) - lab_rotate(a, 14);
	return (c ^ b) - lab_rotate(b, 24);
}

/* The hash of `count` words, a number known to the compiler so that nothing loops; lookup3's hashword(). */
static __always_inline __u32 lab_jhash(const __u32 *words, __u32 count, __u32 seed)
{
	__u32 a = LAB_JHASH_START + (count << 2) + seed, b = a, c = a;

#pragma unroll
	for (__u32 left = count; left > 3; left -= 3, words += 3) {
		a += words[0];
		b += words[1];
		c += words[2];
		lab_jhash_mix(&a, &b, &c);
	}
	/* What is left: one to three words. */
	if (count % 3 == 0)
		c += words[2];
	if (count % 3 != 1)
		b += words[1];
	a += words[0];
	return lab_jhash_final(a, b, c);
}

#endif /* LAB_JHASH_H */
