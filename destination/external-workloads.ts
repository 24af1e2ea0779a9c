// SPDX-License-Identifier: Apache-2.0
// Programs outside the cluster that have a proxy of Linkerd's, by namespace and address. Nobody writes EndpointSlices for
// them here: endpoints are found from the objects themselves, as those of pods are.

import { parsePorts, type PortRange } from '#lib/core/addresses.ts';
import { AnnotationReader } from '#lib/registry/annotations.ts';
import { type InboundServers, inboundServers } from '#lib/registry/inbound-policy.ts';
import type { MeshSettings } from '#lib/registry/mesh-settings.ts';
import type { ExternalWorkload } from '#lib/registry/model.ts';
import {
  DETECT_TIMEOUT_MS,
  inboundPolicyOf,
  OPAQUE_PORTS_ANNOTATION,
} from '#lib/registry/workload-config.ts';
import { Groups } from './groups.ts';

export class ExternalWorkloads {
  readonly #byNamespace = new Groups<ExternalWorkload>();
  readonly #byAddress = new Groups<ExternalWorkload>();

  change(previous: ExternalWorkload | undefined, now: ExternalWorkload | undefined): void {
    if (previous !== undefined) {
      this.#byNamespace.delete(namespaceOf(previous), previous);
      for (const address of addressesOf(previous)) this.#byAddress.delete(address, previous);
    }
    if (now !== undefined) {
      this.#byNamespace.add(namespaceOf(now), now);
      for (const address of addressesOf(now)) this.#byAddress.add(address, now);
    }
  }

  of(cluster: string, namespace: string): readonly ExternalWorkload[] {
    return this.#byNamespace.list(`${cluster}/${namespace}`);
  }

  /** Ready or not, as with pods. */
  at(cluster: string, ip: string, port: number): readonly ExternalWorkload[] {
    return this.#byAddress.list(addressKey(cluster, ip, port));
  }
}

const namespaceOf = ({ cluster, metadata }: ExternalWorkload): string => `${cluster}/${metadata.namespace}`;

const addressKey = (cluster: string, ip: string, port: number): string => `${cluster}/${ip}/${port}`;

const addressesOf = ({ cluster, spec }: ExternalWorkload): string[] =>
  spec.workloadIps.flatMap((ip) => spec.ports.map(({ port }) => addressKey(cluster, ip, port)));

/** Services send traffic to it. */
export const takesExternalTraffic = ({ spec, status }: ExternalWorkload): boolean =>
  status.ready && spec.workloadIps.length > 0;

/** Names of its TCP ports. */
export const portNamesOf = ({ spec }: ExternalWorkload): ReadonlyMap<string, number> =>
  new Map(spec.ports.filter(({ protocol }) => protocol === 'TCP').map(({ name, port }) => [name, port]));

/** Namespaces say nothing of them: with Linkerd it is the injector that carries an annotation over, to pods alone. */
export function opaquePortsOf(workload: ExternalWorkload, settings: MeshSettings): readonly PortRange[] {
  const text = workload.metadata.annotations[OPAQUE_PORTS_ANNOTATION];
  return text === undefined ? settings.defaultOpaquePorts : parsePorts(text, portNamesOf(workload));
}

/** What its proxy lets in. */
export const externalServers = (workload: ExternalWorkload, settings: MeshSettings): InboundServers =>
  inboundServers(
    {
      opaquePorts: opaquePortsOf(workload, settings),
      requireIdentityPorts: [],
      defaultInboundPolicy: inboundPolicyOf(new AnnotationReader(workload.metadata, undefined), settings),
      inboundDetectTimeoutMs: DETECT_TIMEOUT_MS,
    },
    settings,
  );
