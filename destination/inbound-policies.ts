// SPDX-License-Identifier: Apache-2.0
// InboundServerPolicies: what a port of a workload lets in, for proxies that ask for it themselves. Agents are told the same
// with their workloads, in the node stream. Single ports will have servers of policy resources.

import type { EncodedMessage, ServerStream } from '#lib/grpc/call.ts';
import { type PortSpec, Server } from '#lib/proto/gen/linkerd/inbound.ts';
import { probesOf } from '#lib/registry/inbound-policy.ts';
import { serverWithRoutes } from '#lib/registry/inbound-routes.ts';
import type { ResourceKey } from '#lib/registry/model.ts';
import type { Caller } from './callers.ts';
import type { Topic } from './cluster-index.ts';
import type { ContextToken } from './context-token.ts';
import { externalServers } from './external-workloads.ts';
import type { LookupContext } from './get.ts';
import type { MeshPod } from './mesh-pod.ts';
import { CallError, status } from '#lib/grpc/status.ts';
import { sharedMessage } from './shared-message.ts';
import { StreamState } from './stream-state.ts';

/** Throws a CallError unless the workload is in the mesh and the caller is that workload. */
export const inboundServer = (
  context: LookupContext,
  request: PortSpec,
  token: ContextToken,
  caller: Caller,
): Server => serverOf(find(context, token), context, request, token, caller);

interface Served {
  /** Undefined: it is not in the mesh. */
  readonly identity: string | undefined;
  readonly server: (port: number) => Server;
  readonly topics: readonly Topic[];
}

function serverOf(
  found: Served | undefined,
  context: LookupContext,
  { port }: PortSpec,
  token: ContextToken,
  caller: Caller,
): Server {
  if (port < 1 || port > 65_535) {
    throw new CallError(status.INVALID_ARGUMENT, `port ${port} is not between 1 and 65535`);
  }
  const { what, key } = namedBy(context, token);
  const name = `${what} ${key.namespace}/${key.name}`;
  if (found?.identity === undefined) {
    throw new CallError(status.NOT_FOUND, `unknown server: ${name} is not in the mesh`);
  }
  if (found.identity !== caller.identity) {
    throw new CallError(
      status.PERMISSION_DENIED,
      `${caller.identity} asked for the policy of ${name}; only its own may be asked for`,
    );
  }
  return found.server(port);
}

function find(context: LookupContext, token: ContextToken): Served | undefined {
  const { index, settings, cluster } = context;
  const { key } = namedBy(context, token);
  if (token.external_workload !== '') {
    const workload = index.externalWorkload(key);
    if (workload === undefined) return undefined;
    return {
      identity: workload.spec.meshTls.identity,
      server: (port) => serverWithRoutes([], externalServers(workload, settings), port),
      topics: [{ kind: 'external-workload', key }],
    };
  }
  const meshPod = index.pod(key);
  if (meshPod === undefined) return undefined;
  const { pod, servers, identity } = meshPod;
  const ips = pod.status.podIPs;
  return {
    identity: isServed(meshPod) ? identity : undefined,
    server: (port) => serverWithRoutes(probesOf(pod), servers, port),
    topics:
      ips.length > 0
        ? ips.map((ip): Topic => ({ kind: 'ip', cluster, ip }))
        : [{ kind: 'node', cluster, name: pod.spec.nodeName }],
  };
}

/** Whose policy is asked for by itself: ours have an agent that answers for them. */
const isServed = ({ sidecar, eligibility }: MeshPod): boolean => sidecar !== undefined || eligibility.enrol;

export function serveWatchPort(
  context: LookupContext,
  request: PortSpec,
  call: ServerStream<Server>,
  token: ContextToken,
  caller: Caller,
): void {
  let sent: EncodedMessage | undefined;
  const state = new StreamState<Server>({
    index: context.index,
    stream: call,
    difference: () => {
      const found = find(context, token);
      if (found === undefined && sent !== undefined) {
        // The workload is gone: nothing more will be said.
        call.end();
        return [];
      }
      const server = serverOf(found, context, request, token, caller);
      state.follow(found?.topics ?? []);
      const now = sharedMessage(Server.encode(server).finish());
      if (sent !== undefined && now.equals(sent)) return [];
      sent = now;
      return [now];
    },
  });
  state.refresh();
}

const namedBy = (
  { cluster }: LookupContext,
  { ns, pod, external_workload }: ContextToken,
): { readonly what: string; readonly key: ResourceKey } =>
  external_workload === ''
    ? { what: 'pod', key: { cluster, namespace: ns, name: pod } }
    : { what: 'external workload', key: { cluster, namespace: ns, name: external_workload } };
