/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The layouts that eBPF programs and the agent share: the only place where they are written down for the
 * kernel's side. lib/bpf/abi.ts is their TypeScript twin, and a test compares the two through the BTF of the
 * compiled objects. Whoever changes the size or the meaning of anything here also raises NM_LAYOUT: pins of
 * different layouts live in different folders.
 */
#ifndef NODEMESH_MESH_ABI_H
#define NODEMESH_MESH_ABI_H

#define NM_LAYOUT 1

#define NM_ADDRESSES_MAX 16
#define NM_RANGES_MAX 32
#define NM_SUBNETS_MAX 16
#define NM_SLOTS_MAX 16

/* Redirected connects go to the pod's own address and one of these ports. */
#define NM_PORT_FIRST 61000
#define NM_PORT_COUNT 4536

/* In-flight entries beyond the limit of applications, so that they cannot starve the agent's own sockets. */
#define NM_INFLIGHT_RESERVE 4096

#define NM_PORT_MESH 4143
#define NM_PORT_TAP 4190
#define NM_PORT_ADMIN 4191

/* What a record is about. */
enum nm_kind {
	NM_KIND_NONE = 0,
	/* An application's connect that was pointed at the agent; ip and port are what it dialled. */
	NM_KIND_OUTBOUND = 1,
	/* The agent's connection from one pod of this node to another; pod is the client's number. */
	NM_KIND_CARRIER = 2,
	/* The agent's connection to an application; ip and port are those of the client to show. */
	NM_KIND_CLIENT = 3,
	/* Any other connection of the agent: only to be left alone. */
	NM_KIND_OWN = 4,
};

/* Rows of nm_counters. */
enum nm_counter {
	NM_COUNT_INFLIGHT = 0, /* entries now, not a total */
	NM_COUNT_INFLIGHT_FULL = 1,
	NM_COUNT_STORAGE_FAILED = 2,
	NM_COUNT_NO_LISTENER = 3,
	NM_COUNT_BOUND_DEVICE = 4,
	NM_COUNT_LISTEN_LOST = 5,
	NM_COUNT_RECORD_LOST = 6,
	NM_COUNT_FOREIGN_RECORD = 7,
	NM_COUNTERS = 8,
};

/* Network order; IPv4 in its mapped form, so that one address has one spelling. */
struct nm_address {
	__u32 word[4];
};

/* Host order, inclusive. */
struct nm_range {
	__u16 first;
	__u16 last;
};

struct nm_subnet {
	struct nm_address net;
	struct nm_address mask;
};

/* nm_pods: network namespace cookie -> this. */
struct nm_pod {
	__u32 index;
	__u32 armed;
	__u32 addresses_count;
	__u32 skip_outbound_count;
	__u32 skip_inbound_count;
	__u32 skip_subnets_count;
	/* Where redirected connects go; all zero: the pod has no address of the family. */
	struct nm_address own4;
	struct nm_address own6;
	struct nm_address addresses[NM_ADDRESSES_MAX];
	struct nm_range skip_outbound[NM_RANGES_MAX];
	struct nm_range skip_inbound[NM_RANGES_MAX];
	struct nm_subnet skip_subnets[NM_SUBNETS_MAX];
};

/*
 * Apart from nm_pod, because the kernel changes them; both are indexed by network namespace cookie:
 * nm_load -> __u64, unfinished handshakes of the pod;
 * nm_lost -> __u64, listening sockets that could not be noted: while it is not 0, every port counts as listening.
 */

/* nm_mark (socket storage, set by the agent through the descriptor before connect). */
struct nm_mark {
	__u32 kind;
	__u32 pod;
	struct nm_address ip;
	__u16 port; /* network order */
	__u16 pad[3];
};

/* nm_peer (socket storage of applications' sockets): what getpeername says, and the dialled address. */
struct nm_peer {
	__u32 kind;
	__u32 pod;
	struct nm_address ip;
	__u16 port; /* network order */
	__u16 pad[3];
};

/* nm_accepted (socket storage of accepted sockets), read by the agent through the descriptor. */
struct nm_accepted {
	__u32 kind;
	__u32 pod;
	struct nm_address ip;
	__u16 port; /* network order */
	__u16 pad[3];
};

/* nm_inflight: from TCP_CONNECT_CB to the moment the other end is established. */
struct nm_flow {
	struct nm_address source;
	struct nm_address target;
	__u16 source_port; /* network order */
	__u16 target_port; /* network order */
	__u32 pad;
};

struct nm_record {
	__u64 netns_cookie;
	__u64 socket_cookie;
	__u64 since_ns;
	/* The SYN's sequence number: a SYN of somebody else with the same addresses does not take the record. */
	__u32 sequence;
	__u32 kind;
	__u32 pod;
	struct nm_address ip;
	__u16 port; /* network order */
	__u16 pad;
};

/* nm_listen (kept by the programs) and nm_seeded (kept by the agent): -> number of listening sockets. */
struct nm_listen_key {
	__u64 netns_cookie;
	struct nm_address ip;
	__u16 port; /* host order */
	__u16 v6only; /* only for :: */
	__u32 pad;
};

/* .rodata.nm of connect.bpf.o */
struct nm_connect_config {
	__u64 inflight_max;
	__u64 inflight_pod_max;
	/* 0 where the kernel has no MPTCP: the program is then loaded without asking for the outer socket. */
	__u64 mptcp;
};

/* .rodata.nm of lookup.bpf.o, loaded once per pod */
struct nm_lookup_config {
	__u64 netns_cookie;
	__u32 slots;
	__u32 pad;
};

/* Key of nm_slots, the sockmap of one pod: (inbound?1:0, v6?1:0, slot). */
#define NM_SLOT(inbound, v6, slot) ((((inbound) * 2) + (v6)) * NM_SLOTS_MAX + (slot))
#define NM_SLOTS_TOTAL (4 * NM_SLOTS_MAX)

_Static_assert(sizeof(struct nm_address) == 16, "nm_address");
_Static_assert(sizeof(struct nm_pod) == 24 + 2 * 16 + 16 * 16 + 2 * 32 * 4 + 16 * 32, "nm_pod");
_Static_assert(sizeof(struct nm_mark) == 32, "nm_mark");
_Static_assert(sizeof(struct nm_peer) == 32, "nm_peer");
_Static_assert(sizeof(struct nm_accepted) == 32, "nm_accepted");
_Static_assert(sizeof(struct nm_flow) == 40, "nm_flow");
_Static_assert(sizeof(struct nm_record) == 56, "nm_record");
_Static_assert(sizeof(struct nm_listen_key) == 32, "nm_listen_key");
_Static_assert(sizeof(struct nm_connect_config) == 24, "nm_connect_config");
_Static_assert(sizeof(struct nm_lookup_config) == 16, "nm_lookup_config");

#endif
