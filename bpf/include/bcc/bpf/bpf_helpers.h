/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Stands in for libbpf's header when a BCC program includes lab/ headers: BCC declares the helpers by itself, and a
 * second declaration of them is an error.
 */
