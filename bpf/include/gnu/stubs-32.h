/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Empty on purpose. Headers such as <linux/icmp.h> include the C library's, which takes the BPF target for a 32-bit
 * machine and asks for this file of a package that nobody has installed (libc6-dev-i386).
 */
