/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Of the kernel's own types what says where a frame is: an interface, and its namespace by the inode. */
#ifndef LAB_NET_DEVICE_H
#define LAB_NET_DEVICE_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	__u32 inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
};

#pragma clang attribute pop

#endif /* LAB_NET_DEVICE_H */
