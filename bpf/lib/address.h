/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses in their 16-byte form: comparing, classes, skip lists. */
#ifndef NODEMESH_ADDRESS_H
#define NODEMESH_ADDRESS_H

#include "kernel.h"

#define NM_MAPPED bpf_htonl(0xffff)

static __always_inline void nm_from_v4(struct nm_address *out, __u32 ip4)
{
	out->word[0] = 0;
	out->word[1] = 0;
	out->word[2] = NM_MAPPED;
	out->word[3] = ip4;
}

static __always_inline int nm_same(const struct nm_address *a, const struct nm_address *b)
{
	/* One branch, not four: the verifier follows each in every round of a loop. */
	return ((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) |
		(a->word[3] ^ b->word[3])) == 0;
}

static __always_inline int nm_is_v4(const struct nm_address *a)
{
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == NM_MAPPED;
}

/* No address at all: :: or 0.0.0.0. */
static __always_inline int nm_is_any(const struct nm_address *a)
{
	return a->word[0] == 0 && a->word[1] == 0 && a->word[3] == 0 && (a->word[2] == 0 || a->word[2] == NM_MAPPED);
}

static __always_inline int nm_is_loopback(const struct nm_address *a)
{
	if (nm_is_v4(a))
		return (bpf_ntohl(a->word[3]) >> 24) == 127;
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == 0 && a->word[3] == bpf_htonl(1);
}

static __always_inline int nm_is_link_local6(const struct nm_address *a)
{
	return (bpf_ntohl(a->word[0]) & 0xffc00000) == 0xfe800000;
}

static __always_inline int nm_is_own(const struct nm_pod *pod, const struct nm_address *a)
{
	for (__u32 i = 0; i < NM_ADDRESSES_MAX; i++) {
		if (i >= pod->addresses_count)
			break;
		if (nm_same(&pod->addresses[i], a))
			return 1;
	}
	return 0;
}

static __always_inline int nm_in_ranges(const struct nm_range *ranges, __u32 count, __u16 port)
{
	for (__u32 i = 0; i < NM_RANGES_MAX; i++) {
		if (i >= count)
			break;
		if ((__u32)port - ranges[i].first <= (__u32)ranges[i].last - ranges[i].first)
			return 1;
	}
	return 0;
}

static __always_inline int nm_in_subnets(const struct nm_pod *pod, const struct nm_address *a)
{
	for (__u32 i = 0; i < NM_SUBNETS_MAX; i++) {
		const struct nm_subnet *subnet = &pod->skip_subnets[i];

		if (i >= pod->skip_subnets_count)
			break;
		if ((((a->word[0] ^ subnet->net.word[0]) & subnet->mask.word[0]) |
		     ((a->word[1] ^ subnet->net.word[1]) & subnet->mask.word[1]) |
		     ((a->word[2] ^ subnet->net.word[2]) & subnet->mask.word[2]) |
		     ((a->word[3] ^ subnet->net.word[3]) & subnet->mask.word[3])) == 0)
			return 1;
	}
	return 0;
}

/* Spreads well enough for ports and slots; nobody gains anything from a collision. */
static __always_inline __u32 nm_hash(const struct nm_address *a, __u32 seed)
{
	__u32 h = seed * 0x9e3779b1;

	h = (h ^ a->word[0]) * 0x85ebca6b;
	h = (h ^ (h >> 15) ^ a->word[1]) * 0xc2b2ae35;
	h = (h ^ (h >> 13) ^ a->word[2]) * 0x85ebca6b;
	h = (h ^ (h >> 15) ^ a->word[3]) * 0xc2b2ae35;
	return h ^ (h >> 16);
}

#endif
