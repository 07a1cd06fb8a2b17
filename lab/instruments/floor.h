/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Programs that do one thing TIMES times a run; what they cost above one that does all but that is the thing's price.
 */
#ifndef LAB_FLOOR_H
#define LAB_FLOOR_H

#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define TIMES 32

__u64 failed; /* operations that did not do what their program's name says */

/*
 * The operation is a statement. It may use `at`, which counts on from run to run; `seen`, which is 0 as long as the
 * operation puts nothing else there, but is not known to be, so that what is made of it waits for it; and `bad`.
 */
#define REPEAT(counter, ...)                                                                                           \
	do {                                                                                                           \
		__u32 at = (counter), bad = 0;                                                                         \
		__u64 seen = 0;                                                                                        \
                                                                                                                       \
		_Pragma("clang loop unroll(disable)") for (int time = 0; time < TIMES; time++, at++)                   \
		{                                                                                                      \
			__VA_ARGS__;                                                                                   \
			bad += !!seen;                                                                                 \
		}                                                                                                      \
		(counter) = at;                                                                                        \
		failed += bad;                                                                                         \
	} while (0)

#endif /* LAB_FLOOR_H */
