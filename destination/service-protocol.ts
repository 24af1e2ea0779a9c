// SPDX-License-Identifier: Apache-2.0
// What is spoken on a service's port, as far as the service says so.

import { portsContain } from '#lib/core/addresses.ts';
import type { Service } from '#lib/registry/model.ts';
import { serviceOpaquePorts } from '#lib/registry/workload-config.ts';
import type { LookupContext } from './get.ts';

export type ServiceProtocol = 'detect' | 'opaque' | 'http1' | 'http2';

/** A port's appProtocol wins over the lists of opaque ports; one that is not known means opaque, as with Linkerd. */
export function serviceProtocol(
  { index, settings }: LookupContext,
  service: Service,
  port: number,
): ServiceProtocol {
  const appProtocol = service.spec.ports.find((one) => one.port === port)?.appProtocol ?? '';
  switch (appProtocol) {
    case '': {
      const namespace = index.namespace(service.cluster, service.metadata.namespace);
      const opaque = serviceOpaquePorts(service.metadata, namespace, settings);
      return portsContain(opaque, port) ? 'opaque' : 'detect';
    }
    case 'http':
      return 'http1';
    case 'kubernetes.io/h2c':
      return 'http2';
    default:
      return 'opaque';
  }
}

export const hasPort = ({ spec }: Service, port: number): boolean =>
  spec.ports.some((one) => one.port === port && one.protocol === 'TCP');
