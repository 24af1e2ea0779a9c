// SPDX-License-Identifier: Apache-2.0
// Where the Prometheus is that scrapes the mesh: what --prometheus-url says, then the annotation of Linkerd's viz, then
// the installation's value prometheusUrl, then the one Service with our label.

import { parse } from 'yaml';
import { MeshError } from '#lib/core/errors.ts';
import { CONFIG_MAP } from '../../install/objects/config.ts';
import { type Cluster, type ClusterObject, configText } from '../install/cluster.ts';
import type { PrometheusPlace } from './prometheus.ts';

export const PROMETHEUS_LABEL = 'nodemesh.io/prometheus';
const VIZ_NAMESPACES = 'linkerd.io/extension=viz';
const EXTERNAL_ANNOTATION = 'viz.linkerd.io/external-prometheus';
const FLAG = '--prometheus-url';

export interface FindOptions {
  /** Of --prometheus-url. */
  readonly flag: string | undefined;
  readonly cluster: Cluster;
  /** Of the control plane. */
  readonly namespace: string;
  /** Whether this runs in a pod, where names of Services mean something. */
  readonly inCluster: boolean;
}

export async function findPrometheus(options: FindOptions): Promise<PrometheusPlace> {
  const { cluster, flag, namespace } = options;
  if (flag !== undefined) return parsePlace(flag, FLAG);
  const viz = (await cluster.list('/api/v1/namespaces', VIZ_NAMESPACES)) ?? [];
  for (const { metadata } of viz) {
    const url = metadata.annotations?.[EXTERNAL_ANNOTATION] ?? '';
    if (url !== '') return reachable(url, `annotation ${EXTERNAL_ANNOTATION} of ${metadata.name}`, options);
  }
  const config = await cluster.get(`/api/v1/namespaces/${namespace}/configmaps/${CONFIG_MAP}`);
  const values = parse((config && configText(config, 'values')) ?? '') as {
    readonly prometheusUrl?: string;
  } | null;
  const url = values?.prometheusUrl ?? '';
  if (url !== '')
    return reachable(url, `value prometheusUrl in ConfigMap ${namespace}/${CONFIG_MAP}`, options);
  return labelled((await cluster.list('/api/v1/services', PROMETHEUS_LABEL)) ?? []);
}

/** A URL, or `namespace/service:port`. */
export function parsePlace(text: string, source: string): PrometheusPlace {
  const service = /^([a-z0-9-]+)\/([a-z0-9-]+:[a-z0-9-]+)(\/.*)?$/.exec(text);
  if (service !== null) {
    const [, namespace = '', named = '', path = ''] = service;
    return { kind: 'service', namespace, service: named, path: path.replace(/\/+$/, '') };
  }
  if (/^https?:\/\//.test(text) && URL.canParse(text)) return { kind: 'url', url: text };
  throw new MeshError('MESH_CONFIG_INVALID', `${source} ${text} names no Prometheus`, {
    remedy: 'write a URL such as http://localhost:9090, or namespace/service:port',
  });
}

/** What a cluster says of itself names Services, and those only pods resolve: others go through the API server. */
function reachable(text: string, source: string, { inCluster }: FindOptions): PrometheusPlace {
  const place = parsePlace(text, source);
  if (place.kind !== 'url' || inCluster) return place;
  const { protocol, hostname, port, pathname } = new URL(place.url);
  const [, name, namespace] = /^([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\..*)?$/.exec(hostname) ?? [];
  if (name === undefined || namespace === undefined) return place;
  const secure = protocol === 'https:';
  return {
    kind: 'service',
    namespace,
    service: `${secure ? 'https:' : ''}${name}:${port === '' ? (secure ? 443 : 80) : port}`,
    path: pathname.replace(/\/+$/, ''),
  };
}

function labelled(services: readonly ClusterObject[]): PrometheusPlace {
  const [only, ...others] = services;
  if (only === undefined) {
    throw new MeshError('MESH_NOT_FOUND', 'no Prometheus is known', {
      remedy: `name it with ${FLAG}, set the value prometheusUrl, or label its Service ${PROMETHEUS_LABEL}=true`,
    });
  }
  const names = services.map(({ metadata }) => `${metadata.namespace ?? ''}/${metadata.name}`);
  if (others.length > 0) {
    throw new MeshError(
      'MESH_NOT_FOUND',
      `several Services are labelled ${PROMETHEUS_LABEL}: ${names.join(', ')}`,
      {
        remedy: `leave the label on one, or choose with ${FLAG}`,
      },
    );
  }
  const [port] = (only['spec'] as { readonly ports?: readonly { readonly port: number }[] }).ports ?? [];
  if (port === undefined) {
    throw new MeshError('MESH_NOT_FOUND', `Service ${names.join('')} has no port`, {
      remedy: `name a Prometheus with ${FLAG}`,
    });
  }
  const { namespace = '', name } = only.metadata;
  return { kind: 'service', namespace, service: `${name}:${port.port}`, path: '' };
}
