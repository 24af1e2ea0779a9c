// SPDX-License-Identifier: Apache-2.0
// Gives Services their ClusterIPs, one per family, and holds on to those they have. Makes no rules for them.

import { canonicalIp, networkContains, parseIp, parseNetwork } from '#lib/core/addresses.ts';
import { MeshError } from '#lib/core/errors.ts';
import { SERVICE_NETWORK } from './layout.ts';
import { describeObject, namespaceOf, type ServiceObject } from './objects.ts';

/** Below this the network keeps room for addresses chosen by hand (DNS has .10). */
const FIRST_INDEX = 256;
const LAST_INDEX = 65_534;

const v4At = (index: number): string => `10.96.${index >> 8}.${index & 0xff}`;
const v6At = (index: number): string => `fd00:10:96::${index.toString(16)}`;

export const isHeadless = (service: ServiceObject): boolean => service.spec.clusterIP === 'None';

/** ClusterIPs of a Service that is not headless. */
export const clusterIPs = (service: ServiceObject): readonly string[] =>
  isHeadless(service) ? [] : (service.spec.clusterIPs ?? []);

export class ServiceAddresses {
  readonly #taken = new Map<string, ServiceObject>();

  constructor(services: readonly ServiceObject[]) {
    for (const service of services) for (const ip of clusterIPs(service)) this.#taken.set(ip, service);
  }

  /** `service` with addresses: its present ones, those it asks for, or new ones. */
  assign(service: ServiceObject, present: ServiceObject | undefined): ServiceObject {
    const asked =
      service.spec.clusterIPs ?? (service.spec.clusterIP === undefined ? [] : [service.spec.clusterIP]);
    if (asked[0] === 'None') {
      return { ...service, spec: { ...service.spec, clusterIP: 'None', clusterIPs: ['None'] } };
    }
    const held = present === undefined ? [] : clusterIPs(present);
    const families = service.spec.ipFamilies ?? ['IPv4', 'IPv6'];
    const free = this.#freeIndex();
    const ips = families.map((family) => {
      const ofFamily = (ip: string): boolean => ip.includes(':') === (family === 'IPv6');
      const wanted = asked.map((ip) => this.#checked(service, ip)).find(ofFamily);
      return wanted ?? held.find(ofFamily) ?? (family === 'IPv6' ? v6At(free) : v4At(free));
    });
    for (const ip of ips) this.#taken.set(ip, service);
    return {
      ...service,
      spec: {
        ...service.spec,
        ipFamilies: families,
        ...(ips[0] === undefined ? {} : { clusterIP: ips[0] }),
        clusterIPs: ips,
      },
    };
  }

  #checked(service: ServiceObject, text: string): string {
    const what = describeObject('Service', namespaceOf(service), service.metadata.name);
    const ip = canonicalIp(text);
    const bytes = parseIp(text);
    const inside = [SERVICE_NETWORK.v4, SERVICE_NETWORK.v6].some((cidr) => {
      const network = parseNetwork(cidr);
      return network !== undefined && bytes !== undefined && networkContains(network, bytes);
    });
    if (ip === undefined || !inside) {
      throw new MeshError('MESH_MANIFEST_INVALID', `${what}, spec.clusterIP: "${text}" is not usable`, {
        remedy: `choose one of ${SERVICE_NETWORK.v4} or ${SERVICE_NETWORK.v6}, or leave it out`,
      });
    }
    const owner = this.#taken.get(ip);
    const mine =
      owner === undefined ||
      (owner.metadata.name === service.metadata.name && namespaceOf(owner) === namespaceOf(service));
    if (!mine) {
      throw new MeshError(
        'MESH_MANIFEST_INVALID',
        `${what}, spec.clusterIP: ${ip} belongs to ${namespaceOf(owner)}/${owner.metadata.name}`,
        { remedy: 'choose another' },
      );
    }
    return ip;
  }

  #freeIndex(): number {
    for (let index = FIRST_INDEX; index <= LAST_INDEX; index++) {
      if (!this.#taken.has(v4At(index)) && !this.#taken.has(v6At(index))) return index;
    }
    throw new MeshError('MESH_LIMIT', 'all service addresses are taken', { remedy: 'delete some Services' });
  }
}
