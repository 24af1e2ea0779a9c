// SPDX-License-Identifier: Apache-2.0
// Who may ask what. An agent's certificate names the agents' account only, not its node: the node stream on the
// same connection does that, with a token. A lookup on that connection may be made for pods of that node alone;
// a proxy with a certificate of its own (a sidecar, or an external workload's) may ask for its own namespace alone.

import type { Clock } from '#lib/core/clock.ts';
import { identityOf, type MeshSettings } from '#lib/registry/mesh-settings.ts';
import type { ClusterIndex } from './cluster-index.ts';
import type { ContextToken } from './context-token.ts';
import { CallError, status } from '#lib/grpc/status.ts';

export interface Caller {
  /** From the verified certificate of the call's connection. */
  readonly identity: string;
  /** Address and port of the other end: names the connection while it lives. */
  readonly connection: string;
}

/** Lookups may arrive before the node stream's token has been reviewed. */
const BINDING_WAIT_MS = 5_000;

interface Binding {
  readonly node: string;
  /** An agent has one node stream a connection, but a successor may come before the first has ended. */
  count: number;
}

export interface CallersOptions {
  readonly index: ClusterIndex;
  readonly settings: MeshSettings;
  readonly cluster: string;
  readonly agentServiceAccount: string;
  readonly clock: Clock;
}

export class Callers {
  readonly agentIdentity: string;
  readonly #options: CallersOptions;
  readonly #bindings = new Map<string, Binding>();
  readonly #waiting = new Map<string, Set<() => void>>();

  constructor(options: CallersOptions) {
    this.#options = options;
    const { settings, agentServiceAccount } = options;
    this.agentIdentity = identityOf(agentServiceAccount, settings.namespace, settings);
  }

  /** The node stream of `caller` is authenticated for `node`. Returns what to call when it ends. */
  bind(caller: Caller, node: string): () => void {
    const known = this.#bindings.get(caller.connection);
    if (known !== undefined && known.node !== node) {
      throw new CallError(
        status.PERMISSION_DENIED,
        `this connection serves node ${known.node}, not ${node}; open another one`,
      );
    }
    const binding = known ?? { node, count: 0 };
    binding.count++;
    this.#bindings.set(caller.connection, binding);
    for (const wake of this.#waiting.get(caller.connection) ?? []) wake();
    return () => {
      if (--binding.count === 0) this.#bindings.delete(caller.connection);
    };
  }

  /** Rejects with a CallError unless the caller may look things up for this token. */
  async authorize(caller: Caller, token: ContextToken): Promise<void> {
    if (caller.identity !== this.agentIdentity) {
      this.#authorizeProxy(caller, token);
      return;
    }
    const node = await this.#nodeOf(caller.connection);
    if (node === undefined) {
      throw new CallError(
        status.FAILED_PRECONDITION,
        `agent ${caller.connection} has no node stream on this connection; it comes before lookups`,
      );
    }
    const denied = (what: string): CallError =>
      new CallError(
        status.PERMISSION_DENIED,
        `the agent of node ${node} asked for ${what}; only its own node's pods may be named`,
      );
    if (token.nodeName !== node) throw denied(`node "${token.nodeName}"`);
    const { index, cluster } = this.#options;
    if (token.pod !== '') {
      const pod = index.pod({ cluster, namespace: token.ns, name: token.pod });
      if (pod?.pod.spec.nodeName !== node) throw denied(`pod ${token.ns}/${token.pod}`);
    } else if (!index.podsOfNode(cluster, node).some(({ pod }) => pod.metadata.namespace === token.ns)) {
      throw denied(`namespace "${token.ns}", which has no pod there`);
    }
  }

  #authorizeProxy(caller: Caller, token: ContextToken): void {
    const { index, settings, cluster } = this.#options;
    const suffix = identityOf('', token.ns, settings);
    const external = (): boolean =>
      index
        .externalWorkloads(cluster, token.ns)
        .some(({ spec }) => spec.meshTls.identity === caller.identity);
    if (token.ns !== '' && !caller.identity.endsWith(suffix) && !external()) {
      throw new CallError(
        status.PERMISSION_DENIED,
        `${caller.identity} asked for namespace "${token.ns}"; only its own may be named`,
      );
    }
  }

  async #nodeOf(connection: string): Promise<string | undefined> {
    const known = this.#bindings.get(connection);
    if (known !== undefined) return known.node;
    const waiting = this.#waiting.get(connection) ?? new Set<() => void>();
    this.#waiting.set(connection, waiting);
    const { promise, resolve } = Promise.withResolvers<void>();
    waiting.add(resolve);
    const timer = this.#options.clock.after(BINDING_WAIT_MS, resolve);
    await promise;
    timer.cancel();
    waiting.delete(resolve);
    if (waiting.size === 0) this.#waiting.delete(connection);
    return this.#bindings.get(connection)?.node;
  }
}
