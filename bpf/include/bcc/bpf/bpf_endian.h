/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Stands in for libbpf's header when a BCC program includes lab/ headers: bpf_htons() and its kin are BCC's own. */
