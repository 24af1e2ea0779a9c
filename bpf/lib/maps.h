/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map that objects share; the loader pins them by name, so all objects of a node hold the same ones. */
#ifndef NODEMESH_MAPS_H
#define NODEMESH_MAPS_H

#include "kernel.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct nm_pod);
} nm_pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u64);
} nm_load SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u64);
} nm_lost SEC(".maps");

/* Preallocated: an insertion fails only when the map is full. The loader sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384 + NM_INFLIGHT_RESERVE);
	__type(key, struct nm_flow);
	__type(value, struct nm_record);
} nm_inflight SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct nm_listen_key);
	__type(value, __u32);
} nm_listen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct nm_listen_key);
	__type(value, __u32);
} nm_seeded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NM_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} nm_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct nm_mark);
} nm_mark SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct nm_peer);
} nm_peer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct nm_accepted);
} nm_accepted SEC(".maps");

/* What a listening socket was noted under, so that exactly that is taken back. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct nm_listen_key);
} nm_noted SEC(".maps");

static __always_inline void nm_count(__u32 row, __s64 change)
{
	__u64 *value = bpf_map_lookup_elem(&nm_counters, &row);

	if (value)
		__sync_fetch_and_add(value, change);
}

#endif
