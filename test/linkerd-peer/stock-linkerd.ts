// SPDX-License-Identifier: Apache-2.0
// A stock Linkerd's destination and outbound policy as far as their clients see them: a picture of a cluster, and the
// answers that the interfaces' description says. It knows pods with Linkerd's proxy as meshed and no others, has no header
// of ours, and says nothing while a service has no endpoint.

import { encode, type Field, fixed32 } from './protobuf.ts';
import { type GrpcListener, listenGrpc, type ServedCall, type Shown } from './serve-grpc.ts';

export interface PictureOfPod {
  readonly name: string;
  readonly namespace: string;
  readonly account: string;
  readonly ip: string;
  /** Whether Linkerd's proxy is in it. */
  readonly proxy: boolean;
  /** It is no pod but an external workload, whose proxy proves this identity. */
  readonly external?: { readonly identity: string; readonly serverName: string };
}

export interface PictureOfService {
  readonly name: string;
  readonly namespace: string;
  readonly clusterIp: string;
  readonly ports: readonly number[];
  readonly opaquePorts?: readonly number[];
  /** Names of pods. */
  readonly endpoints: readonly string[];
  /** They are gateways of another cluster, which prove this identity, and of which that name is asked. */
  readonly gateway?: { readonly identity: string; readonly authority: string };
  /** `false`: the policy service does not know it. */
  readonly policy?: PictureOfPolicy | false;
}

export interface PictureOfPolicy {
  /** Requests with this prefix of the path go there, `name.ns.svc.cluster.local:port`; others to the service. */
  readonly prefix?: readonly [path: string, authority: string];
  readonly requestTimeoutSeconds?: number;
  readonly failuresMax?: number;
  readonly opaque?: boolean;
}

export interface Picture {
  readonly pods: readonly PictureOfPod[];
  readonly services: readonly PictureOfService[];
}

const DESTINATION = 'io.linkerd.proxy.destination.Destination';
const OUTBOUND = 'io.linkerd.proxy.outbound.OutboundPolicies';
const DOMAIN = 'svc.cluster.local';
const GATEWAY_PORT = 4143;
const INVALID_ARGUMENT = 3;
const NOT_FOUND = 5;
const UNIMPLEMENTED = 12;

/** How a call is answered, whenever the picture changes: its messages, or its end. */
type Answer = readonly Uint8Array[] | { readonly code: number; readonly message: string };

export class StockLinkerd {
  readonly calls: { readonly method: string; readonly client: string; readonly asked: string }[] = [];
  #picture: Picture;
  readonly #refresh = new Set<() => void>();
  readonly #listeners: GrpcListener[] = [];

  constructor(picture: Picture) {
    this.#picture = picture;
  }

  /** Both services on one server, as with Linkerd; or `only` one of them. Returns the port. */
  async listen(
    shown: Shown,
    address: { readonly host: string; readonly port: number },
    only = '',
  ): Promise<number> {
    const listener = await listenGrpc(shown, address, (call) => {
      if (call.method.includes(only)) this.#serve(call);
      else call.end(UNIMPLEMENTED, `unknown method ${call.method}`);
    });
    this.#listeners.push(listener);
    return listener.port;
  }

  show(picture: Picture): void {
    this.#picture = picture;
    for (const refresh of this.#refresh) refresh();
  }

  /** Clients have to come again. */
  disconnect(): void {
    for (const listener of this.#listeners) listener.disconnect();
  }

  async close(): Promise<void> {
    await Promise.all(this.#listeners.map((listener) => listener.stop()));
  }

  #serve(call: ServedCall): void {
    const answerer = this.#answerer(call);
    const refresh = (): void => {
      const answer = answerer();
      if (!('code' in answer)) {
        for (const message of answer) call.send(message);
        return;
      }
      this.#refresh.delete(refresh);
      call.end(answer.code, answer.message);
    };
    this.#refresh.add(refresh);
    call.onEnd(() => this.#refresh.delete(refresh));
    refresh();
  }

  #answerer({ method, request, client }: ServedCall): () => Answer {
    const note = (asked: string): string => {
      this.calls.push({ method: method.slice(method.lastIndexOf('.') + 1), client, asked });
      return asked;
    };
    switch (method) {
      case `${DESTINATION}/Get`:
        return this.#get(note(request.text(2)));
      case `${DESTINATION}/GetProfile`:
        return this.#getProfile(note(request.text(2)));
      case `${OUTBOUND}/Watch`:
        return this.#watch(request.text(1), note(request.text(3)));
      default:
        return () => ({ code: UNIMPLEMENTED, message: `unknown method ${method}` });
    }
  }

  #service(authority: string): { service: PictureOfService; port: number } | undefined {
    const [host = '', port = '80'] = authority.split(':');
    const service = this.#picture.services.find((one) => nameOf(one) === host);
    return service && { service, port: Number(port) };
  }

  #endpoints(service: PictureOfService): PictureOfPod[] {
    return this.#picture.pods.filter(({ name }) => service.endpoints.includes(name));
  }

  #get(path: string): () => Answer {
    const sent = new Map<string, PictureOfPod>();
    return () => {
      const found = this.#service(path);
      if (found === undefined) return { code: NOT_FOUND, message: `service ${path} does not exist` };
      const { service, port } = found;
      const now = this.#endpoints(service);
      const added = now.filter((pod) => JSON.stringify(sent.get(pod.ip)) !== JSON.stringify(pod));
      const gone = [...sent.keys()].filter((ip) => now.every((pod) => pod.ip !== ip));
      for (const pod of added) sent.set(pod.ip, pod);
      for (const ip of gone) sent.delete(ip);
      const labels = map(2, { service: service.name, namespace: service.namespace });
      const address = (pod: PictureOfPod): Uint8Array =>
        service.gateway === undefined ? weighted(pod, port) : gateway(pod.ip, service.gateway);
      const add = encode(...added.map((pod): Field => [1, address(pod)]), ...labels);
      const at = service.gateway === undefined ? port : GATEWAY_PORT;
      const remove = encode(...gone.map((ip): Field => [1, tcpAddress(ip, at)]));
      return [
        ...(added.length > 0 ? [encode([1, add])] : []),
        ...(gone.length > 0 ? [encode([2, remove])] : []),
      ];
    };
  }

  #getProfile(path: string): () => Answer {
    const [ip = '', portText = ''] = path.split(':');
    const port = Number(portText);
    return whenChanged(() => {
      const budget: Field = [
        2,
        Buffer.concat([fixed32(1, floatBits(0.2)), encode([2, 10], [3, encode([1, 10])])]),
      ];
      const service = this.#picture.services.find(({ clusterIp }) => clusterIp === ip);
      if (service !== undefined) {
        if (!service.ports.includes(port)) return new Uint8Array();
        const parent = resource('core', 'Service', service, port);
        return encode(budget, [4, isOpaque(service, port)], [5, nameOf(service)], [7, parent]);
      }
      const pod = this.#picture.pods.find((one) => one.ip === ip);
      const address = encode([1, tcpAddress(ip, port)], [3, 10_000]);
      return encode(budget, [
        6,
        pod === undefined ? address : weighted(pod, port, { namespace: pod.namespace }),
      ]);
    });
  }

  #watch(workload: string, authority: string): () => Answer {
    const { ns, pod } = JSON.parse(workload) as { ns?: string; pod?: string };
    if (ns === undefined || pod === undefined) {
      return () => ({ code: INVALID_ARGUMENT, message: `invalid workload ${workload}` });
    }
    const messages = whenChanged(() => {
      const found = this.#service(authority);
      return found && policyOf(found.service, found.port, found.service.policy || {});
    });
    return () =>
      this.#service(authority)?.service.policy === false
        ? { code: NOT_FOUND, message: 'No such service' }
        : messages();
  }
}

/** One message, and again when it is another one; none while there is nothing to say. */
function whenChanged(make: () => Uint8Array | undefined): () => Answer {
  let sent: string | undefined;
  return () => {
    const message = make();
    const text = message && Buffer.from(message).toString('hex');
    if (message === undefined || text === sent) return [];
    sent = text;
    return [message];
  };
}

const nameOf = ({ name, namespace }: PictureOfService): string => `${name}.${namespace}.${DOMAIN}`;
const isOpaque = ({ opaquePorts }: PictureOfService, port: number): boolean =>
  opaquePorts?.includes(port) === true;

const map = (number: number, entries: Readonly<Record<string, string>>): Field[] =>
  Object.entries(entries).map(([key, value]) => [number, encode([1, key], [2, value])]);

function floatBits(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  return view.getUint32(0);
}

function tcpAddress(ip: string, port: number): Uint8Array {
  const number = ip.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  return encode([1, fixed32(1, number)], [2, port]);
}

function weighted(pod: PictureOfPod, port: number, more: Readonly<Record<string, string>> = {}): Uint8Array {
  const { name, namespace, account, proxy } = pod;
  const { external } = pod;
  const identity = `${account}.${namespace}.serviceaccount.identity.linkerd.cluster.local`;
  const named = encode([1, identity]);
  const labels = {
    ...(external === undefined ? { pod: name, serviceaccount: account } : { external_workload: name }),
    ...(proxy ? { control_plane_ns: 'linkerd' } : {}),
    zone_locality: 'unknown',
    ...more,
  };
  const mesh: Field[] = [
    [
      5,
      external === undefined
        ? encode([1, named], [4, named])
        : encode([3, encode([1, external.identity])], [4, encode([1, external.serverName])]),
    ],
    [6, encode([1, new Uint8Array()], [2, encode([1, 4143])])],
  ];
  return encode([1, tcpAddress(pod.ip, port)], [3, 10_000], ...map(4, labels), ...(proxy ? mesh : []));
}

/** Without the name of a server, and without a transport port: it is the address's own. */
const gateway = (ip: string, { identity, authority }: NonNullable<PictureOfService['gateway']>): Uint8Array =>
  encode(
    [1, tcpAddress(ip, GATEWAY_PORT)],
    [3, 10_000],
    [5, encode([1, encode([1, identity])])],
    [6, encode([1, new Uint8Array()])],
    [7, encode([1, authority])],
  );

const resource = (
  group: string,
  kind: string,
  { name, namespace }: { readonly name: string; readonly namespace: string },
  port: number,
): Uint8Array => encode([2, encode([1, group], [2, kind], [3, name], [4, namespace], [6, port])]);

function policyOf(service: PictureOfService, port: number, policy: PictureOfPolicy): Uint8Array {
  const parent = resource('core', 'Service', service, port);
  const queue = encode([1, 100], [2, encode([1, 3])]);
  const load = encode([1, encode([2, 30_000_000])], [2, encode([1, 10])]);
  const balancer = (authority: string): Uint8Array => {
    const [name = '', namespace = ''] = authority.split('.');
    const at = Number(authority.split(':')[1]);
    const discovery = encode([1, encode([1, authority])]);
    return encode(
      [1, resource('core', 'Service', { name, namespace }, at)],
      [3, encode([1, discovery], [2, load])],
      [4, queue],
    );
  };
  const own = `${nameOf(service)}:${port}`;
  const { requestTimeoutSeconds, failuresMax } = policy;
  const timeouts = requestTimeoutSeconds && encode([2, encode([1, requestTimeoutSeconds])]);
  const rule = (prefix: string, authority: string): Field => [
    3,
    encode(
      [1, encode([1, encode([2, prefix])])],
      // By weight, as HTTPRoutes have it.
      [3, encode([3, encode([1, encode([1, encode([1, balancer(authority)])], [2, 1])])])],
      [5, timeouts],
    ),
  ];
  const metadata =
    policy.prefix === undefined
      ? encode([1, 'http'])
      : resource('gateway.networking.k8s.io', 'HTTPRoute', { name: 'r', namespace: service.namespace }, 0);
  const rules = [...(policy.prefix === undefined ? [] : [rule(...policy.prefix)]), rule('/', own)];
  const route = encode([1, metadata], ...rules);
  const accrual =
    failuresMax &&
    encode([1, encode([1, failuresMax], [2, encode([1, encode([1, 1])], [2, encode([1, 60])], [3, 0])])]);
  const http = encode([1, route], [2, accrual]);
  const first = encode([2, encode([1, encode([1, balancer(own)])])]);
  const opaque = encode([1, encode([1, encode([1, 'opaq'])], [3, encode([1, first])])]);
  const detect = encode([1, encode([1, 10])], [2, opaque], [3, http], [4, http]);
  const protocol =
    policy.opaque === true || isOpaque(service, port) ? encode([2, opaque]) : encode([1, detect]);
  return encode([1, protocol], [2, parent]);
}
