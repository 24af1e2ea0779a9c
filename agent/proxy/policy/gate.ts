// SPDX-License-Identifier: Apache-2.0
// Policy at work: each request of an inbound HTTP connection is judged by the policy of that moment; a TCP connection
// is judged before the application is dialled and again whenever policy changes. Counts and logs what it denies.

import { joinLabels } from '#lib/metrics/model.ts';
import type { Cell } from '#lib/metrics/store.ts';
import type { RequestGate } from '../exchange/types.ts';
import { FAILURE_NONE, FAILURE_POLICY } from '../failure.ts';
import { authorizationLabels, DEFAULT_ROUTE_LABELS } from '../metrics/labels.ts';
import type { Authorization } from '../model.ts';
import { countOnce, type WorkerContext } from '../pods/context.ts';
import type { PodState, TcpPermit } from '../pods/pod-state.ts';
import { authorize, type CompiledPolicy, type PolicyClient } from './authorize.ts';
import { type InboundClient, type InboundServer, inboundLabels, policyClient } from './client.ts';

/** A probe of the pod's own spec carries no identity and is let in by its exact method and path, never to a tunnel. */
const PROBE: Authorization = {
  networks: [],
  authentication: { kind: 'unauthenticated' },
  labels: { group: '', kind: 'default', name: 'probe' },
  audit: false,
};

export class InboundGate implements RequestGate {
  readonly clientId: string;
  readonly #context: WorkerContext;
  readonly #pod: PodState;
  readonly #server: InboundServer;
  readonly #client: InboundClient;
  readonly #facts: PolicyClient;
  /** The last verdict: most connections see one all their life. */
  #policy: CompiledPolicy | null = null;
  #authorization: Authorization | null = null;
  #allowed: { readonly authorization: Authorization; readonly cell: Cell } | null = null;
  #labels = '';

  constructor(context: WorkerContext, pod: PodState, server: InboundServer, client: InboundClient) {
    this.#context = context;
    this.#pod = pod;
    this.#server = server;
    this.#client = client;
    this.#facts = policyClient(client);
    this.clientId = this.#facts.identity;
  }

  judge(method: string, path: string, upgrade: boolean): number {
    const policy = this.#pod.policyOf(this.#server.port);
    if (policy !== this.#policy) {
      this.#policy = policy;
      this.#authorization = authorize(policy, this.#facts);
      this.#labels = joinLabels(inboundLabels(this.#pod, this.#server, this.#client), DEFAULT_ROUTE_LABELS);
      this.close();
    }
    const authorization = this.#authorization ?? (!upgrade && this.#isProbe(method, path) ? PROBE : null);
    if (authorization === null) {
      countOnce(this.#context, 'inbound_http_authz_deny_total', this.#labels, this.#pod);
      this.#context.log.info(
        { ...this.#who(), method, path: path.slice(0, 128), policy: nameOf(policy) },
        'request denied by policy',
      );
      return FAILURE_POLICY;
    }
    if (this.#allowed?.authorization !== authorization) {
      this.close();
      const labels = joinLabels(this.#labels, authorizationLabels(authorization.labels));
      const cell = this.#context.store.cell(
        'inbound_http_authz_allow_total',
        joinLabels(labels, this.#pod.labels),
        this.#pod.uid,
      );
      this.#allowed = { authorization, cell };
    }
    this.#allowed.cell.add(1);
    if (authorization.audit) {
      this.#context.log.info({ ...this.#who(), method, policy: nameOf(policy) }, 'request allowed (audit)');
    }
    return FAILURE_NONE;
  }

  /** The connection is over. */
  close(): void {
    if (this.#allowed !== null) this.#context.store.release(this.#allowed.cell);
    this.#allowed = null;
  }

  #isProbe(method: string, path: string): boolean {
    const bare = path.split('?', 1)[0];
    return this.#pod.pod.probes.some(
      (probe) =>
        probe.port === this.#server.port && probe.method === method && probe.path.split('?', 1)[0] === bare,
    );
  }

  #who(): Record<string, unknown> {
    return describe(this.#pod, this.#server, this.#client);
  }
}

/**
 * Judges a TCP connection; null (counted and logged) if it is denied. `terminate` is called when a later policy no
 * longer allows it; the permit is given back with `release`.
 */
export function permitTcp(
  context: WorkerContext,
  pod: PodState,
  server: InboundServer,
  client: InboundClient,
  terminate: () => void,
): { release(): void } | null {
  const facts = policyClient(client);
  const labels = inboundLabels(pod, server, client);
  const policy = pod.policyOf(server.port);
  const authorization = authorize(policy, facts);
  const who = describe(pod, server, client);
  if (authorization === null) {
    countOnce(context, 'inbound_tcp_authz_deny_total', labels, pod);
    context.log.info({ ...who, policy: nameOf(policy) }, 'connection denied by policy');
    return null;
  }
  countOnce(
    context,
    'inbound_tcp_authz_allow_total',
    joinLabels(labels, authorizationLabels(authorization.labels)),
    pod,
  );
  if (authorization.audit) {
    context.log.info({ ...who, policy: nameOf(policy) }, 'connection allowed (audit)');
  }
  const permit: TcpPermit = {
    reconsider: () => {
      const now = pod.policyOf(server.port);
      if (authorize(now, facts) !== null) return;
      pod.permits.delete(permit);
      countOnce(context, 'inbound_tcp_authz_terminate_total', labels, pod);
      context.log.info({ ...who, policy: nameOf(now) }, 'connection terminated due to policy change');
      terminate();
    },
  };
  pod.permits.add(permit);
  return { release: () => void pod.permits.delete(permit) };
}

function describe(pod: PodState, server: InboundServer, client: InboundClient): Record<string, unknown> {
  return {
    pod: pod.name,
    port: server.port,
    client: client.ip,
    ...(client.tls.identity === '' ? {} : { clientIdentity: client.tls.identity }),
  };
}

function nameOf(policy: CompiledPolicy): string {
  const { labels } = policy.source;
  const kind = labels['srv_kind'] ?? labels['kind'] ?? 'default';
  return `${kind}/${labels['srv_name'] ?? labels['name'] ?? ''}`;
}
