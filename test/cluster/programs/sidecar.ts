// SPDX-License-Identifier: Apache-2.0
// A proxy of Linkerd's as far as the control plane sees one: finds it by the names that Linkerd's injector writes into
// pods, expects the identities that it writes beside them, gets a certificate for its pod's own token, and asks what
// a proxy asks. Runs in a node's network namespace; writes one JSON document.

import { Resolver } from 'node:dns/promises';
import { systemClock } from '#lib/core/clock.ts';
import { createMeshChannel } from '#lib/grpc/client.ts';
import { createCertifier } from '#lib/identity-client/certify.ts';
import { socketFromWire } from '#lib/proto/addresses.ts';
import { DestinationClient, type Update } from '#lib/proto/gen/linkerd/destination.ts';
import { InboundServerPoliciesClient, type Server } from '#lib/proto/gen/linkerd/inbound.ts';
import { OutboundPoliciesClient, type OutboundPolicy } from '#lib/proto/gen/linkerd/outbound.ts';
import { readFileSync } from 'node:fs';
import { until } from '../../faults/until.ts';
import type { SidecarAnswers, SidecarConfig } from '../sidecar.ts';

const ANSWER_MS = 60_000;
const config = JSON.parse(process.argv[2] ?? '{}') as SidecarConfig;
const anchorsPem = readFileSync(config.anchorsFile, 'utf8');
const resolver = new Resolver();
resolver.setServers([config.dns]);

/** DNS learns of a service in its own time; a proxy asks again, too. */
const addressOf = (name: string, port: number): Promise<string> =>
  until(`the address of ${name}`, ANSWER_MS, async () => {
    const [ip] = await resolver.resolve4(name).catch(() => []);
    return ip !== undefined && `${ip}:${port}`;
  });

/** The first message of a stream that satisfies `enough`. */
function first<Message>(
  call: NodeJS.EventEmitter & { cancel(): void },
  enough: (message: Message) => boolean = () => true,
): Promise<Message> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no answer')), ANSWER_MS);
    call.on('error', reject);
    call.on('data', (message: Message) => {
      if (!enough(message)) return;
      clearTimeout(timer);
      resolve(message);
      call.cancel();
    });
  });
}

const { names } = config;
const certifier = createCertifier({
  identityAddress: await addressOf(names.identity.host, 8080),
  identityName: names.identity.tls,
  tokenFile: config.tokenFile,
  anchorsPem: () => anchorsPem,
  clock: systemClock,
});
const certificate = await certifier.certify(config.identity);
certifier.close();

const channelTo = (tls: string) =>
  createMeshChannel({ serverIdentity: tls, material: () => ({ anchorsPem, certificate }) });
const toDestination = channelTo(names.destination.tls);
const destination = new DestinationClient(
  await addressOf(names.destination.host, 8086),
  toDestination.credentials,
  toDestination.options,
);
const contextToken = JSON.stringify({ ns: config.pod.namespace, nodeName: config.pod.node });
const path = config.authority;
/** They may come one by one. */
const endpoints = new Set<string>();
await first<Update>(destination.get({ scheme: '', path, contextToken }), ({ update }) => {
  if (update?.$case === 'add')
    for (const { addr } of update.add.addrs) endpoints.add((addr && socketFromWire(addr)?.ip) ?? '');
  return endpoints.size >= config.endpoints;
});
const profile = await first<{ fullyQualifiedName: string }>(
  destination.getProfile({ scheme: '', path: config.serviceIp, contextToken }),
);
destination.close();

const toPolicy = channelTo(names.policy.tls);
const policyAddress = await addressOf(names.policy.host, 8090);
const workload = JSON.stringify({ ns: config.pod.namespace, pod: config.pod.name });
const outbound = new OutboundPoliciesClient(policyAddress, toPolicy.credentials, toPolicy.options);
const watched = await first<OutboundPolicy>(
  outbound.watch({ sourceWorkload: workload, target: { $case: 'authority', authority: path } }),
);
outbound.close();
const inbound = new InboundServerPoliciesClient(policyAddress, toPolicy.credentials, toPolicy.options);
const server = await first<Server>(inbound.watchPort({ workload, port: 8080 }));
inbound.close();

const answers: SidecarAnswers = {
  identity: certificate.identity,
  endpoints: [...endpoints].sort(),
  profile: profile.fullyQualifiedName,
  outbound: watched.protocol !== undefined,
  authorizations: server.authorizations.length,
};
process.stdout.write(JSON.stringify(answers), () => process.exit(0));
