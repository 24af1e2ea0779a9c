// SPDX-License-Identifier: Apache-2.0
// A small cluster for the tests of identity: folders of manifests, tokens, requests. No service is started here.

import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock, VirtualClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import type { CertifyRequest } from '#lib/proto/gen/linkerd/identity.ts';
import { tokenAudiences } from '#lib/registry/token-review.ts';
import { createFolderRegistry, type FolderRegistry } from '#lib/registry-folder/folder-registry.ts';
import { type LocalTokenClaims, makeTokenKey, signLocalToken } from '#lib/registry-folder/token-signer.ts';
import { createCertificateRequest } from '#lib/x509/csr.ts';
import { identityOf } from '#lib/x509/names.ts';

export const domain = { identityNamespace: 'linkerd', trustDomain: 'cluster.local' };
export const idOf = (name: string, namespace = 'shop'): string => identityOf({ namespace, name }, domain);

interface Manifest {
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid: string;
    readonly annotations?: Record<string, string>;
  };
  readonly [field: string]: unknown;
}

const account = (namespace: string, name: string): Manifest => ({
  apiVersion: 'v1',
  kind: 'ServiceAccount',
  metadata: { name, namespace, uid: `account-${name}` },
});

interface PodOptions {
  readonly annotations?: Record<string, string>;
  readonly phase?: string;
  readonly uid?: string;
  readonly hostNetwork?: boolean;
}

export function pod(
  namespace: string,
  name: string,
  serviceAccountName: string,
  nodeName: string,
  options: PodOptions = {},
): Manifest {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      namespace,
      uid: options.uid ?? `pod-${name}`,
      ...(options.annotations === undefined ? {} : { annotations: options.annotations }),
    },
    spec: {
      nodeName,
      serviceAccountName,
      ...(options.hostNetwork === true ? { hostNetwork: true } : {}),
      containers: [{ name: 'main', image: 'image' }],
    },
    status: { phase: options.phase ?? 'Running' },
  };
}

const optedIn = { 'linkerd.io/inject': 'enabled' };
const optedOut = { 'linkerd.io/inject': 'disabled' };

/** Two nodes with an agent each; `web` is meshed on both, `cart` on the second, the others have reasons against it. */
export const cluster: readonly Manifest[] = [
  ...['n1', 'n2'].map((name) => ({
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name, uid: `node-${name}` },
  })),
  {
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name: 'shop', uid: 'ns-shop', annotations: optedIn },
  },
  { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'plain', uid: 'ns-plain' } },
  ...['web', 'cart', 'ended', 'host', 'out'].map((name) => account('shop', name)),
  account('nodemesh', 'nodemesh-agent'),
  account('shop', 'nodemesh-agent'),
  pod('nodemesh', 'agent-1', 'nodemesh-agent', 'n1'),
  pod('nodemesh', 'agent-2', 'nodemesh-agent', 'n2'),
  pod('shop', 'impostor', 'nodemesh-agent', 'n1'),
  pod('shop', 'web-1', 'web', 'n1'),
  pod('shop', 'web-2', 'web', 'n2'),
  pod('shop', 'cart-2', 'cart', 'n2'),
  pod('shop', 'ended-1', 'ended', 'n1', { phase: 'Succeeded' }),
  pod('shop', 'host-1', 'host', 'n1', { hostNetwork: true }),
  pod('shop', 'out-1', 'out', 'n1', { annotations: optedOut }),
  pod('plain', 'batch-1', 'batch', 'n1'),
  pod('kube-system', 'dns-1', 'coredns', 'n1', { annotations: optedIn }),
];

/** The cluster without some objects, or with others in their place. */
export function clusterWith(change: {
  readonly without?: string;
  readonly and?: readonly Manifest[];
}): Manifest[] {
  const changed = new Set((change.and ?? []).map((manifest) => manifest.metadata.name));
  const kept = cluster.filter(
    ({ kind, metadata }) =>
      `${kind}/${metadata.name}` !== change.without && !(kind === 'Pod' && changed.has(metadata.name)),
  );
  return [...kept, ...(change.and ?? [])];
}

/** Registries over temporary folders, tokens and requests of one test. */
export class TestCluster {
  readonly clock: VirtualClock;
  readonly tokenKey = makeTokenKey();
  readonly directory = mkdtempSync(join(tmpdir(), 'nodemesh-identity-'));
  readonly #registries: FolderRegistry[] = [];
  readonly keys: { readonly publicKey: KeyObject; readonly privateKey: KeyObject } = generateKeyPairSync(
    'ec',
    {
      namedCurve: 'P-256',
    },
  );

  constructor(wallMs = Date.now()) {
    this.clock = new VirtualClock(wallMs);
  }

  registry(manifests: readonly Manifest[] = cluster): FolderRegistry {
    const folder = mkdtempSync(join(this.directory, 'registry-'));
    writeFileSync(join(folder, 'all.yaml'), manifests.map((one) => `---\n${JSON.stringify(one)}\n`).join(''));
    const registry = createFolderRegistry({ folder, cluster: 'local', clock: systemClock, log: silentLog });
    this.#registries.push(registry);
    return registry;
  }

  /** The token of an agent, unless `claims` say otherwise. */
  agentToken(claims: Partial<LocalTokenClaims> = {}, key = this.tokenKey): string {
    return signLocalToken(
      {
        namespace: 'nodemesh',
        serviceAccount: { name: 'nodemesh-agent', uid: 'account-nodemesh-agent' },
        pod: { name: 'agent-1', uid: 'pod-agent-1' },
        node: { name: 'n1', uid: 'node-n1' },
        audiences: [tokenAudiences.agent],
        issuedAtMs: this.clock.wallMs(),
        lifetimeMs: 3_600_000,
        ...claims,
      },
      key.privateKeyPem,
    );
  }

  /** The token of a pod that certifies its own account, as a sidecar does. */
  podToken(name: string, podName: string, claims: Partial<LocalTokenClaims> = {}): string {
    return this.agentToken({
      namespace: 'shop',
      serviceAccount: { name, uid: `account-${name}` },
      pod: { name: podName, uid: `pod-${podName}` },
      audiences: [tokenAudiences.identity],
      ...claims,
    });
  }

  request(identity: string, token: string, csr?: Buffer): CertifyRequest {
    return {
      identity,
      token: Buffer.from(token),
      certificateSigningRequest: csr ?? createCertificateRequest(identity, this.keys),
    };
  }

  async close(): Promise<void> {
    await Promise.all(this.#registries.map(async (registry) => registry.close()));
    rmSync(this.directory, { recursive: true });
  }
}
