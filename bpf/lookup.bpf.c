// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Attached to one pod's network namespace, loaded once per pod: an sk_lookup program knows neither the namespace's
 * cookie nor socket storage, and addresses may repeat on a node. Runs for each SYN that looks for a listener and
 * chooses between the agent's listeners of this pod and what the kernel would have chosen.
 */
#include "lib/kernel.h"
#include "lib/address.h"
#include "lib/maps.h"

const volatile struct nm_lookup_config nm_config SEC(".rodata.nm") = {};

/* Agent's listeners of this pod; one map per pod. A closed listener leaves by itself. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, NM_SLOTS_TOTAL);
	__type(key, __u32);
	__type(value, __u64);
} nm_slots SEC(".maps");

static __always_inline int steer(struct bpf_sk_lookup *ctx, __u32 inbound, __u32 hash)
{
	__u32 v6 = ctx->family == AF_INET6;
	__u32 slots = nm_config.slots;

	for (__u32 i = 0; i < NM_SLOTS_MAX; i++) {
		__u32 key;
		struct bpf_sock *sk;
		long error;

		if (i >= slots)
			break;
		key = NM_SLOT(inbound, v6, (hash + i) % slots);
		sk = bpf_map_lookup_elem(&nm_slots, &key);
		if (!sk)
			continue;
		/* Without the flag a process in the pod could join the listener's reuse group. */
		error = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_REPLACE | BPF_SK_LOOKUP_F_NO_REUSEPORT);
		bpf_sk_release(sk);
		if (!error)
			return SK_PASS;
	}
	/* Never the application: the client is refused at once. */
	nm_count(NM_COUNT_NO_LISTENER, 1);
	return SK_DROP;
}

static __always_inline int noted(struct nm_listen_key *key)
{
	__u32 *number = bpf_map_lookup_elem(&nm_listen, key);

	if (number && *number)
		return 1;
	number = bpf_map_lookup_elem(&nm_seeded, key);
	return number && *number;
}

/* Whether something in the pod listens there. */
static __always_inline int listening(const struct nm_address *target, __u16 port)
{
	struct nm_listen_key key = {};
	int v4 = nm_is_v4(target);

	key.netns_cookie = nm_config.netns_cookie;
	key.port = port;
	key.ip = *target;
	if (noted(&key))
		return 1;
	/* ::, both families */
	__builtin_memset(&key.ip, 0, sizeof(key.ip));
	if (noted(&key))
		return 1;
	if (v4)
		key.ip.word[2] = NM_MAPPED;
	else
		key.v6only = 1;
	return noted(&key);
}

SEC("sk_lookup")
int nm_lookup(struct bpf_sk_lookup *ctx)
{
	__u64 cookie = nm_config.netns_cookie;
	struct nm_flow flow = {};
	struct nm_pod *pod;
	__u64 *lost;
	__u16 port = NM_READ(ctx->local_port);
	__u32 source4, target4, inbound = 1;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	pod = bpf_map_lookup_elem(&nm_pods, &cookie);
	/* Never without its record as long as this hangs here: somebody deleted it, and policy must hold. */
	if (!pod)
		return SK_DROP;
	if (!pod->armed)
		return SK_PASS;

	/* All reads before the choice: see NM_READ. */
	NM_READ_IP6(flow.source, ctx->remote_ip6);
	NM_READ_IP6(flow.target, ctx->local_ip6);
	source4 = NM_READ(ctx->remote_ip4);
	target4 = NM_READ(ctx->local_ip4);
	if (ctx->family == AF_INET) {
		nm_from_v4(&flow.source, source4);
		nm_from_v4(&flow.target, target4);
	}
	flow.source_port = NM_READ(ctx->remote_port);
	flow.target_port = bpf_htons(port);

	if (nm_is_own(pod, &flow.source) || nm_is_loopback(&flow.source)) {
		struct nm_record *record = bpf_map_lookup_elem(&nm_inflight, &flow);

		if (record && record->kind == NM_KIND_OUTBOUND && record->netns_cookie == cookie)
			inbound = 0;
		else if (port != NM_PORT_ADMIN)
			return SK_PASS;
	} else if (port != NM_PORT_MESH && port != NM_PORT_TAP && port != NM_PORT_ADMIN) {
		if (nm_in_ranges(pod->skip_inbound, pod->skip_inbound_count, port))
			return SK_PASS;
		lost = bpf_map_lookup_elem(&nm_lost, &cookie);
		if (!(lost && *lost) && !listening(&flow.target, port))
			return SK_PASS;
	}
	return steer(ctx, inbound, nm_hash(&flow.source, flow.source_port));
}

char _license[] SEC("license") = "Dual BSD/GPL";
