// SPDX-License-Identifier: Apache-2.0
// What Linkerd's multicluster writes on Services and EndpointSlices that stand for services of other clusters. Gateways
// are told of as they are; clusters that would have to be asked themselves are not linked here.

import type { MeshSettings } from '#lib/registry/mesh-settings.ts';
import type { ObjectMeta, Service } from '#lib/registry/model.ts';
import { CallError, status } from '#lib/grpc/status.ts';

const mirror = (name: string): string => `mirror.linkerd.io/${name}`;
const multicluster = (name: string): string => `multicluster.linkerd.io/${name}`;

/** Where a gateway takes requests for the service of another cluster. */
export interface Gateway {
  /** Empty: without mesh TLS. */
  readonly identity: string;
  /** Empty: requests keep their authority. */
  readonly authority: string;
}

/** Of an EndpointSlice; undefined: it is about no gateway. */
export function gatewayOf({ annotations }: ObjectMeta, port: number): Gateway | undefined {
  const identity = annotations[mirror('remote-gateway-identity')] ?? '';
  const name = annotations[mirror('remote-svc-fq-name')] ?? '';
  if (identity === '' && name === '') return undefined;
  return { identity, authority: name === '' ? '' : `${name}:${port}` };
}

/** Labels of all endpoints of a service. */
export function setLabels({ metadata }: Service, { clusterDomain }: MeshSettings): Record<string, string> {
  const { namespace, name, labels, annotations } = metadata;
  const own = { namespace, service: name };
  const cluster = labels[mirror('cluster-name')];
  if (cluster === undefined) return own;
  const remote = (annotations[mirror('remote-svc-fq-name')] ?? '').split(`.svc.${clusterDomain}`)[0] ?? '';
  const [service = '', ofNamespace = ''] = remote.split('.');
  return {
    ...own,
    target_cluster: cluster,
    ...(service === '' ? {} : { target_service: service }),
    ...(ofNamespace === '' ? {} : { target_service_namespace: ofNamespace }),
  };
}

/** Throws for a service whose endpoints stand in another cluster alone. */
export function refuseRemote({ metadata: { namespace, name, labels } }: Service): void {
  const cluster = labels[multicluster('remote-discovery')];
  if (cluster === undefined) return;
  if (labels[multicluster('remote-service')] === undefined) {
    throw new CallError(
      status.FAILED_PRECONDITION,
      `Remote discovery service missing remote service name ${namespace}/${name}`,
    );
  }
  throw new CallError(status.NOT_FOUND, `Remote cluster not found: ${cluster}`);
}
