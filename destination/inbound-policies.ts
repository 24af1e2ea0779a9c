// SPDX-License-Identifier: Apache-2.0
// InboundServerPolicies: what a port of a pod lets in, for proxies that ask for it themselves. Agents are told the same
// with their workloads, in the node stream. Single ports will have servers of policy resources.

import type { ServerWritableStream } from '@grpc/grpc-js';
import { type PortSpec, Server } from '#lib/proto/gen/linkerd/inbound.ts';
import { serverWithRoutes } from '#lib/registry/inbound-routes.ts';
import type { ResourceKey } from '#lib/registry/model.ts';
import type { Caller } from './callers.ts';
import type { Topic } from './cluster-index.ts';
import type { ContextToken } from './context-token.ts';
import type { LookupContext } from './get.ts';
import type { MeshPod } from './mesh-pod.ts';
import { CallError, status } from './status.ts';
import { StreamState } from './stream-state.ts';

/** Throws a CallError unless the pod is in the mesh and the caller is that pod. */
export function inboundServer(
  context: LookupContext,
  request: PortSpec,
  token: ContextToken,
  caller: Caller,
): Server {
  const { port } = request;
  if (port < 1 || port > 65_535) {
    throw new CallError(status.INVALID_ARGUMENT, `port ${port} is not between 1 and 65535`);
  }
  const meshPod = context.index.pod(keyOfPod(context, token));
  if (meshPod === undefined || !isServed(meshPod)) {
    throw new CallError(status.NOT_FOUND, `unknown server: pod ${token.ns}/${token.pod} is not in the mesh`);
  }
  if (meshPod.identity !== caller.identity) {
    throw new CallError(
      status.PERMISSION_DENIED,
      `${caller.identity} asked for the policy of pod ${token.ns}/${token.pod}; only its own may be asked for`,
    );
  }
  return serverWithRoutes(meshPod.pod, meshPod.servers, port);
}

/** Whose policy is asked for by itself: ours have an agent that answers for them. */
const isServed = ({ sidecar, eligibility }: MeshPod): boolean => sidecar !== undefined || eligibility.enrol;

export function serveWatchPort(
  context: LookupContext,
  call: ServerWritableStream<PortSpec, Server>,
  token: ContextToken,
  caller: Caller,
): void {
  const { index, cluster } = context;
  const key = keyOfPod(context, token);
  let sent = '';
  const state = new StreamState<Server>({
    index,
    stream: call,
    difference: () => {
      const found = index.pod(key);
      if (found === undefined && sent !== '') {
        // The pod is gone: nothing more will be said.
        call.end();
        return [];
      }
      const server = inboundServer(context, call.request, token, caller);
      const ips = found?.pod.status.podIPs ?? [];
      state.follow(
        ips.length > 0
          ? ips.map((ip): Topic => ({ kind: 'ip', cluster, ip }))
          : [{ kind: 'node', cluster, name: found?.pod.spec.nodeName ?? '' }],
      );
      const encoded = Buffer.from(Server.encode(server).finish()).toString('base64');
      if (encoded === sent) return [];
      sent = encoded;
      return [server];
    },
  });
  state.refresh();
}

const keyOfPod = ({ cluster }: LookupContext, { ns, pod }: ContextToken): ResourceKey => ({
  cluster,
  namespace: ns,
  name: pod,
});
