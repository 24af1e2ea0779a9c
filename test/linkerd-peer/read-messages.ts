// SPDX-License-Identifier: Apache-2.0
// Linkerd's messages by their public field numbers, as plain objects that a table can hold. What is absent is left out.

import type { Message } from './protobuf.ts';

type Picture = Record<string, unknown>;

const seconds = (duration: Message | undefined): number | undefined =>
  duration && duration.number(1) + duration.number(2) / 1e9;

/** Without what is undefined. */
const picture = (fields: Picture): Picture =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));

/** net.IPAddress; the parts of IPv6 are not abbreviated. */
function readIp(ip: Message | undefined): string {
  if (ip === undefined) return '';
  const six = ip.message(2);
  if (six === undefined) {
    const value = ip.number(1);
    return [24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff).join('.');
  }
  const hex = [six.big(1), six.big(2)].map((half) => half.toString(16).padStart(16, '0')).join('');
  return (hex.match(/.{4}/g) ?? []).map((part) => part.replace(/^0{1,3}/, '')).join(':');
}

/** net.TcpAddress, as `ip/port`. */
export const readAddress = (address: Message | undefined): string =>
  address === undefined ? '' : `${readIp(address.message(1))}/${address.number(2)}`;

/** meta.Metadata: `default NAME` or `GROUP KIND NAMESPACE/NAME:PORT`. */
export function readMetadata(metadata: Message | undefined): string | undefined {
  if (metadata === undefined) return undefined;
  const resource = metadata.message(2);
  if (resource === undefined) return `default ${metadata.text(1)}`;
  const [group, kind, name, namespace] = [1, 2, 3, 4].map((number) => resource.text(number));
  return `${group} ${kind} ${namespace}/${name}:${resource.number(6)}`;
}

/** destination.WeightedAddr */
export function readWeightedAddr(address: Message): Picture {
  const tls = address.message(5);
  const hint = address.message(6);
  const keepAlive = address.message(8)?.message(2);
  return picture({
    at: readAddress(address.message(1)),
    weight: address.number(3),
    labels: address.map(4),
    identity: tls?.message(1)?.text(1),
    uri: tls?.message(3)?.text(1),
    serverName: tls?.message(4)?.text(1),
    hint: hint && (hint.has(1) ? 'h2' : hint.has(3) ? 'opaque' : 'none'),
    inboundPort: hint?.message(2)?.number(1),
    authority: address.message(7)?.text(1),
    keepAlive: keepAlive && [
      seconds(keepAlive.message(1)),
      seconds(keepAlive.message(2)),
      keepAlive.number(3) === 1,
    ],
  });
}

/** destination.Update */
export function readUpdate(update: Message): Picture {
  const add = update.message(1);
  if (add !== undefined) return { add: add.messages(1).map(readWeightedAddr), labels: add.map(2) };
  const remove = update.message(2);
  if (remove !== undefined) return { remove: remove.messages(1).map(readAddress) };
  return { noEndpoints: update.message(3)?.number(1) };
}

/** A condition on requests or responses; `leaf` reads what is neither all, any nor not. */
function readCondition(condition: Message | undefined, leaf: (match: Message) => unknown): unknown {
  if (condition === undefined) return undefined;
  const [all, any, not] = [1, 2, 3].map((number) => condition.message(number));
  const list = (seq: Message): unknown[] => seq.messages(1).map((one) => readCondition(one, leaf));
  if (all !== undefined) return { all: list(all) };
  if (any !== undefined) return { any: list(any) };
  return not === undefined ? leaf(condition) : { not: readCondition(not, leaf) };
}

/** destination.Route */
function readProfileRoute(route: Message): Picture {
  return picture({
    condition: readCondition(route.message(1), (match) => {
      const method = match.message(5);
      if (method === undefined) return match.message(4)?.text(1);
      return method.has(2) ? method.text(2) : method.number(1);
    }),
    classes: route.messages(2).map((one) => {
      const condition = readCondition(one.message(1), (match) =>
        [1, 2].map((number) => match.message(4)?.number(number)),
      );
      return [condition, one.number(2) === 1];
    }),
    labels: route.map(3),
    retryable: route.number(4) === 1,
    timeout: seconds(route.message(5)),
  });
}

/** destination.DestinationProfile */
export function readProfile(profile: Message): Picture {
  const budget = profile.message(2);
  const endpoint = profile.message(6);
  return picture({
    routes: profile.has(1) ? profile.messages(1).map(readProfileRoute) : undefined,
    budget: budget && [Math.round(budget.float(1) * 100) / 100, budget.number(2), seconds(budget.message(3))],
    overrides: profile.has(3) ? profile.messages(3).map((one) => [one.text(1), one.number(2)]) : undefined,
    opaque: profile.number(4) === 1 ? true : undefined,
    name: profile.has(5) ? profile.text(5) : undefined,
    endpoint: endpoint && readWeightedAddr(endpoint),
    parent: readMetadata(profile.message(7)),
    profile: readMetadata(profile.message(8)),
  });
}

/** outbound.Backend: what kind, where, queue and balancer. */
function readBackend(backend: Message | undefined): Picture {
  if (backend === undefined) return {};
  const balancer = backend.message(3);
  const load = balancer?.message(2);
  const queue = backend.message(4);
  return picture({
    of: readMetadata(backend.message(1)),
    forward: backend.has(2) ? readAddress(backend.message(2)?.message(1)) : undefined,
    balance: balancer?.message(1)?.message(1)?.text(1),
    ewma: load && [seconds(load.message(1)), seconds(load.message(2))],
    queue: queue && [queue.number(1), seconds(queue.message(2))],
  });
}

/** A Distribution of any of the kinds of routes. */
function readBackends(distribution: Message | undefined): unknown {
  if (distribution === undefined) return undefined;
  if (distribution.has(1)) return 'empty';
  const first = distribution.message(2);
  if (first !== undefined) return first.messages(1).map((one) => readBackend(one.message(1)));
  return distribution
    .message(3)
    ?.messages(1)
    .map((one) => [one.number(2), readBackend(one.message(1)?.message(1))]);
}

function readRule(rule: Message): Picture {
  const timeouts = rule.message(5);
  const retry = rule.message(6);
  const backoff = retry?.message(5);
  return picture({
    matches: rule.has(1) ? rule.messages(1).length : undefined,
    backends: readBackends(rule.message(3)),
    requestTimeout: seconds(rule.message(4)),
    timeouts: timeouts && [1, 2, 3].map((number) => seconds(timeouts.message(number))),
    retry: retry && [retry.number(1), retry.number(2), seconds(retry.message(4))],
    conditions: retry
      ?.message(3)
      ?.messages(1)
      .map((range) => [range.number(1), range.number(2)]),
    backoff: backoff && [seconds(backoff.message(1)), seconds(backoff.message(2)), backoff.float(3)],
    l5dHeaders: rule.has(7) ? rule.number(7) === 1 : undefined,
  });
}

const readHttpRoutes = (http: Message): Picture[] =>
  http
    .messages(1)
    .map((route) => ({ of: readMetadata(route.message(1)), rules: route.messages(3).map(readRule) }));

const readOpaqueRoutes = (opaque: Message): Picture[] =>
  opaque.messages(1).map((route) => ({
    of: readMetadata(route.message(1)),
    rules: route.messages(3).map((rule) =>
      picture({
        backends: readBackends(rule.message(1)),
        forbidden: rule.messages(2).some((filter) => filter.has(2)) ? true : undefined,
      }),
    ),
  }));

function readAccrual(http: Message): Picture {
  const consecutive = http.message(2)?.message(1);
  const backoff = consecutive?.message(2);
  return picture({
    accrual: consecutive && [
      consecutive.number(1),
      seconds(backoff?.message(1)),
      seconds(backoff?.message(2)),
      backoff?.float(3),
    ],
  });
}

/** outbound.OutboundPolicy */
export function readOutboundPolicy(policy: Message): Picture {
  const protocol = policy.message(1);
  const kinds: Picture = {};
  const detect = protocol?.message(1);
  if (detect !== undefined) {
    const [opaque, http1, http2] = [2, 3, 4].map((number) => detect.message(number));
    kinds['detect'] = seconds(detect.message(1));
    if (opaque !== undefined) kinds['opaque'] = readOpaqueRoutes(opaque);
    if (http1 !== undefined) kinds['http1'] = { routes: readHttpRoutes(http1), ...readAccrual(http1) };
    if (http2 !== undefined) kinds['http2'] = { routes: readHttpRoutes(http2), ...readAccrual(http2) };
  }
  const [opaque, http1, http2, grpc] = [2, 3, 4, 5].map((number) => protocol?.message(number));
  if (opaque !== undefined) kinds['opaque'] = readOpaqueRoutes(opaque);
  if (http1 !== undefined) kinds['http1'] = { routes: readHttpRoutes(http1), ...readAccrual(http1) };
  if (http2 !== undefined) kinds['http2'] = { routes: readHttpRoutes(http2), ...readAccrual(http2) };
  if (grpc !== undefined) kinds['grpc'] = { routes: readHttpRoutes(grpc), ...readAccrual(grpc) };
  return { of: readMetadata(policy.message(2)), ...kinds };
}

function readAuthz(authz: Message): Picture {
  const authn = authz.message(2);
  const tls = authn?.message(2);
  const identities = tls?.message(2);
  return {
    of: readMetadata(authz.message(4)),
    labels: authz.map(3),
    networks: authz.messages(1).map((network) => {
      const net = network.message(1);
      return `${readIp(net?.message(1))}/${net?.number(2)}`;
    }),
    clients: authn?.has(1)
      ? 'all'
      : identities === undefined
        ? 'tls'
        : [
            ...identities.messages(1).map((one) => one.text(1)),
            ...identities.messages(2).map((one) => one.texts(1)),
          ],
  };
}

/** inbound.Server */
export function readServer(server: Message): Picture {
  const protocol = server.message(1);
  const detect = protocol?.message(1);
  const routes = detect?.messages(3).map((route) => ({
    of: readMetadata(route.message(1)),
    authorizations: route.messages(3).map(readAuthz),
    matches: route
      .messages(4)
      .flatMap((rule) => rule.messages(1))
      .map((match) => {
        const path = match.message(1);
        const method = match.message(4);
        return [
          path?.has(1) === true ? `=${path.text(1)}` : `${path?.text(2)}*`,
          // GET is 0, which is not written; that the choice is made is.
          ...(method === undefined ? [] : [method.has(1) ? method.number(1) : 'none']),
        ];
      }),
  }));
  return picture({
    protocol: protocol?.numbers[0] === 1 ? `detect ${seconds(detect?.message(1))}` : protocol?.numbers[0],
    routes,
    authorizations: server.messages(3).map(readAuthz),
    labels: server.map(4),
  });
}
