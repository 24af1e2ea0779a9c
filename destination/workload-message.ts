// SPDX-License-Identifier: Apache-2.0
// A pod as its node's agent is told of it. The generation is a hash of the content: equal on every replica of
// destination and after a restart, different when anything differs. It has no order.

import { createHash } from 'node:crypto';
import { Workload } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { probesOf } from '#lib/registry/inbound-policy.ts';
import type { MeshPod } from './mesh-pod.ts';

/** A changed pod is another MeshPod: all pods of a node are asked for whenever one of them changes. */
const made = new WeakMap<MeshPod, Workload>();

export function workloadMessage(meshPod: MeshPod): Workload {
  const known = made.get(meshPod);
  if (known !== undefined) return known;
  const message = makeMessage(meshPod);
  made.set(meshPod, message);
  return message;
}

function makeMessage(meshPod: MeshPod): Workload {
  const { pod, config, servers, owner, eligibility } = meshPod;
  const content: Workload = {
    cluster: pod.cluster,
    uid: pod.metadata.uid,
    namespace: pod.metadata.namespace,
    name: pod.metadata.name,
    serviceAccount: pod.spec.serviceAccountName,
    identity: meshPod.identity,
    addresses: [...pod.status.podIPs],
    ownerKind: owner.kind,
    ownerName: owner.name,
    labels: sorted(pod.metadata.labels),
    enrol: eligibility.enrol,
    notEnrolledReason: eligibility.reason,
    generation: 0n,
    config: {
      skipInboundPorts: [...config.skipInboundPorts],
      skipOutboundPorts: [...config.skipOutboundPorts],
      opaquePorts: [...config.opaquePorts],
      skipSubnets: [...config.skipSubnets],
      defaultInboundPolicy: config.defaultInboundPolicy,
      clientAddressOfProxy: config.clientAddressOfProxy,
      accessLog: config.accessLog,
      ingressMode: eligibility.enrol && eligibility.ingress,
      outboundConnectTimeoutMs: config.outboundConnectTimeoutMs,
      inboundConnectTimeoutMs: config.inboundConnectTimeoutMs,
      outboundDetectTimeoutMs: config.outboundDetectTimeoutMs,
      inboundDetectTimeoutMs: config.inboundDetectTimeoutMs,
      tapDisabled: config.tapDisabled,
      tapIdentity: '',
      traceCollectorAddress: '',
      traceCollectorIdentity: '',
      externalProfiles: config.externalProfiles,
    },
    servers: Object.fromEntries(servers.byPort),
    defaultServer: servers.fallback,
    probes: probesOf(pod),
    zone: meshPod.zone,
  };
  return { ...content, generation: BigInt(generationOf(content)) };
}

/** 48 bits: exact as a JavaScript number too. Never 0, which stands for "none". */
function generationOf(content: Workload): number {
  const digest = createHash('sha256').update(Workload.encode(content).finish()).digest();
  return digest.readUIntBE(0, 6) || 1;
}

const sorted = (labels: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)));
