// SPDX-License-Identifier: Apache-2.0
// A destination service for tests: a folder of manifests, tokens, certificates and real gRPC over mesh TLS on
// loopback.

import { mkdtempSync, rmSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import { createMeshChannel, type MeshChannel } from '#lib/grpc/client.ts';
import { type GrpcServer, serveGrpc } from '#lib/grpc/server.ts';
import { DestinationService } from '#lib/proto/gen/linkerd/destination.ts';
import { InboundServerPoliciesService } from '#lib/proto/gen/linkerd/inbound.ts';
import { OutboundPoliciesService } from '#lib/proto/gen/linkerd/outbound.ts';
import { NodeServiceService } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { alone } from '#lib/registry/leadership.ts';
import { defaultMeshSettings, identityOf, type MeshSettings } from '#lib/registry/mesh-settings.ts';
import { tokenAudiences } from '#lib/registry/token-review.ts';
import { createFolderRegistry, type FolderRegistry } from '#lib/registry-folder/folder-registry.ts';
import { createLocalTokenReviewer } from '#lib/registry-folder/token-review.ts';
import { type LocalTokenClaims, makeTokenKey, signLocalToken } from '#lib/registry-folder/token-signer.ts';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import { createDestinationMetrics } from './metrics.ts';
import { createDestinationServices, type DestinationServices } from './services.ts';

type Json = Readonly<Record<string, unknown>>;

export interface TestPod {
  readonly namespace?: string;
  readonly node?: string;
  readonly ips?: readonly string[];
  readonly serviceAccount?: string;
  readonly ready?: boolean;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly labels?: Readonly<Record<string, string>>;
  readonly spec?: Json;
  readonly metadata?: Json;
}

export const testPod = (name: string, pod: TestPod = {}): Json => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name,
    namespace: pod.namespace ?? 'shop',
    uid: `uid-${name}`,
    labels: pod.labels ?? { app: name.replace(/-\d+$/, '') },
    annotations: pod.annotations ?? {},
    ...pod.metadata,
  },
  spec: {
    nodeName: pod.node ?? 'n1',
    serviceAccountName: pod.serviceAccount ?? 'default',
    containers: [{ name: 'main', image: 'none', ports: [{ name: 'http', containerPort: 8080 }] }],
    ...pod.spec,
  },
  status: {
    phase: 'Running',
    podIPs: (pod.ips ?? []).map((ip) => ({ ip })),
    conditions: [{ type: 'Ready', status: pod.ready === false ? 'False' : 'True' }],
  },
});

export const testService = (name: string, spec: Json, annotations: Json = {}): Json => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name, namespace: 'shop', uid: `uid-svc-${name}`, annotations },
  spec: { selector: { app: name }, ports: [{ port: 80, targetPort: 'http' }], ...spec },
});

export const testNamespace = (name: string, annotations: Json = {}): Json => ({
  apiVersion: 'v1',
  kind: 'Namespace',
  metadata: { name, uid: `uid-ns-${name}`, annotations },
});

export const optedIn = { 'linkerd.io/inject': 'enabled' };

/** Two nodes with an agent each, in different zones, and an opted-in namespace `shop`. */
const base: readonly Json[] = [
  ...['n1', 'n2'].map((name) => ({
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name, uid: `uid-${name}`, labels: { 'topology.kubernetes.io/zone': `zone-${name}` } },
  })),
  {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: { name: 'nodemesh-agent', namespace: 'nodemesh', uid: 'uid-sa' },
  },
  ...['n1', 'n2'].map((node) =>
    testPod(`agent-${node}`, {
      namespace: 'nodemesh',
      node,
      serviceAccount: 'nodemesh-agent',
      spec: { hostNetwork: true },
    }),
  ),
  testNamespace('shop', optedIn),
];

export const serverIdentity = identityOf('linkerd-destination', 'linkerd', defaultMeshSettings);
export const agentIdentity = identityOf('nodemesh-agent', 'nodemesh', defaultMeshSettings);

export class TestCluster {
  readonly folder = mkdtempSync(join(tmpdir(), 'nodemesh-destination-'));
  readonly log = recordingLog();
  readonly metrics = createDestinationMetrics();
  readonly registry: FolderRegistry;
  readonly services: DestinationServices;
  readonly #tokenKey = makeTokenKey();
  readonly #authority: TestAuthority;
  #server: GrpcServer | undefined;
  #written = 0;

  static async start(
    objects: readonly Json[] = [],
    settings: Partial<MeshSettings> = {},
  ): Promise<TestCluster> {
    const cluster = new TestCluster(await makeTestAuthority(), settings);
    for (const object of [...base, ...objects]) await cluster.apply(object);
    await cluster.registry.synced();
    await cluster.settled();
    await cluster.listen();
    return cluster;
  }

  private constructor(authority: TestAuthority, settings: Partial<MeshSettings>) {
    const { folder, log } = this;
    this.#authority = authority;
    this.registry = createFolderRegistry({ folder, cluster: 'local', clock: systemClock, log });
    this.services = createDestinationServices({
      registry: this.registry,
      reviewer: createLocalTokenReviewer({
        publicKeyPem: this.#tokenKey.publicKeyPem,
        registry: this.registry,
        cluster: 'local',
        clock: systemClock,
      }),
      leadership: alone,
      settings: { ...defaultMeshSettings, ...settings },
      cluster: 'local',
      agentServiceAccount: 'nodemesh-agent',
      version: '0.0.0-test',
      callerOf: ({ identity, peer }) => (identity === undefined ? undefined : { identity, connection: peer }),
      metrics: this.metrics,
      clock: systemClock,
      log,
    });
  }

  get port(): number {
    return this.#server?.address.port ?? 0;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Serves; after `disconnect` again, on the same port. */
  async listen(port = 0): Promise<void> {
    this.#server = await serveGrpc({
      host: '127.0.0.1',
      port,
      certificate: await this.#authority.leaf(serverIdentity),
      anchorsPem: this.#authority.anchorPem,
      clientCertificate: 'required',
      log: this.log,
      register: (grpc) => {
        grpc.addService(DestinationService, this.services.destination);
        grpc.addService(OutboundPoliciesService, this.services.outboundPolicies);
        grpc.addService(InboundServerPoliciesService, this.services.inboundPolicies);
        grpc.addService(NodeServiceService, this.services.node);
      },
    });
  }

  async disconnect(): Promise<void> {
    await this.#server?.close();
  }

  /** A channel to the service under an identity. */
  async channel(identity = agentIdentity): Promise<MeshChannel> {
    const certificate = await this.#authority.leaf(identity);
    return createMeshChannel({
      serverIdentity,
      material: () => ({ certificate, anchorsPem: this.#authority.anchorPem }),
    });
  }

  /** What a client shows and trusts that brings its own gRPC. */
  async material(identity: string): Promise<{ cert: string; key: string; anchorsPem: string }> {
    const { chainPem, keyPem } = await this.#authority.leaf(identity);
    return { cert: chainPem, key: keyPem, anchorsPem: this.#authority.anchorPem };
  }

  token(node = 'n1', claims: Partial<LocalTokenClaims> = {}): string {
    return this.sign({
      namespace: 'nodemesh',
      serviceAccount: { name: 'nodemesh-agent', uid: 'uid-sa' },
      pod: { name: `agent-${node}`, uid: `uid-agent-${node}` },
      node: { name: node, uid: `uid-${node}` },
      audiences: [tokenAudiences.nodeStream],
      issuedAtMs: Date.now(),
      lifetimeMs: 3_600_000,
      ...claims,
    });
  }

  sign(claims: LocalTokenClaims): string {
    return signLocalToken(claims, this.#tokenKey.privateKeyPem);
  }

  async apply(object: Json): Promise<void> {
    const file = this.#fileOf(object);
    await writeFile(`${file}.tmp`, JSON.stringify(object));
    await rename(`${file}.tmp`, file);
  }

  async delete(object: Json): Promise<void> {
    await rm(this.#fileOf(object));
  }

  /** Everything written so far has been read: a marker written after it has come in. */
  async settled(): Promise<void> {
    const name = `marker-${++this.#written}`;
    const seen = new Promise<void>((resolve) => {
      const watch = this.registry.watch('ServiceAccount', {
        added: (account) => {
          if (account.metadata.name !== name) return;
          queueMicrotask(() => watch.close());
          resolve();
        },
        changed: () => undefined,
        removed: () => undefined,
      });
    });
    await this.apply({ apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace: 'default' } });
    await seen;
  }

  #fileOf(object: Json): string {
    const { name, namespace } = object['metadata'] as { name: string; namespace?: string };
    return join(this.folder, `${String(object['kind']).toLowerCase()}.${namespace ?? '_'}.${name}.yaml`);
  }

  async close(): Promise<void> {
    await this.disconnect();
    this.services.close();
    await this.registry.close();
    rmSync(this.folder, { recursive: true });
  }
}

/** Takes messages of a stream one by one. */
export class Inbox<T> {
  readonly #messages: T[] = [];
  #waiting: { resolve: (message: T) => void; reject: (error: unknown) => void } | undefined;
  #error: unknown;

  constructor(stream: {
    on(event: 'data', listener: (message: T) => void): unknown;
    on(event: 'error', listener: (error: unknown) => void): unknown;
  }) {
    stream.on('data', (message) => {
      if (this.#waiting === undefined) this.#messages.push(message);
      else this.#waiting.resolve(message);
      this.#waiting = undefined;
    });
    stream.on('error', (error) => {
      this.#error = error;
      this.#waiting?.reject(error);
      this.#waiting = undefined;
    });
  }

  /** What has come and was not taken. */
  get pending(): number {
    return this.#messages.length;
  }

  next(): Promise<T> {
    const message = this.#messages.shift();
    if (message !== undefined) return Promise.resolve(message);
    if (this.#error !== undefined) return Promise.reject(this.#error as Error);
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }
}
