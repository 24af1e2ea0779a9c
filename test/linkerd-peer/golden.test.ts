// SPDX-License-Identifier: Apache-2.0
// Bytes of Linkerd's wire and messages, written down by hand from the public field numbers. What the product writes is
// compared with them, so that no number, type or order changes unseen.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { socketToWire } from '#lib/proto/addresses.ts';
import { GetDestination, Update, WeightedAddr } from '#lib/proto/gen/linkerd/destination.ts';
import { CertifyRequest } from '#lib/proto/gen/linkerd/identity.ts';
import { Authn, PortSpec } from '#lib/proto/gen/linkerd/inbound.ts';
import { OutboundPolicy, TrafficSpec } from '#lib/proto/gen/linkerd/outbound.ts';
import { encodeTransportHeader } from '../../agent/proxy/tls/transport-header.ts';
import { undefinedPort } from '../../destination/default-policy.ts';

const text = (value: string): string => Buffer.from(value).toString('hex');
const PREFACE = text('transport.l5d.io/v1\r\n\r\n');

/** 10.1.0.1:8080: the address is a fixed32, so its bytes stand backwards. */
const ADDRESS = '0a05 0d0100010a 10903f';
const address = socketToWire('10.1.0.1', 8080);

const table: readonly (readonly [what: string, bytes: Uint8Array, golden: string])[] = [
  [
    'the header for HTTP/1.1 as it is',
    encodeTransportHeader(8080, 'http1'),
    `${PREFACE} 00000007 08903f 1a020a00`,
  ],
  ['the header for HTTP/2', encodeTransportHeader(8080, 'http2'), `${PREFACE} 00000007 08903f 1a021200`],
  ['the header for bytes', encodeTransportHeader(6379, undefined), `${PREFACE} 00000003 08eb31`],
  [
    'a lookup by name',
    GetDestination.encode({
      scheme: '',
      path: 'web.shop.svc.cluster.local:80',
      contextToken: '{}',
    }).finish(),
    `121d ${text('web.shop.svc.cluster.local:80')} 1a02 ${text('{}')}`,
  ],
  [
    'an endpoint with hint, port and the life signs of HTTP/2',
    WeightedAddr.encode({
      addr: address,
      weight: 10_000,
      metricLabels: { pod: 'a' },
      tlsIdentity: {
        strategy: { $case: 'dnsLikeIdentity', dnsLikeIdentity: { name: 'id' } },
        serverName: { name: 'id' },
      },
      protocolHint: { protocol: { $case: 'h2', h2: {} }, opaqueTransport: { inboundPort: 4143 } },
      authorityOverride: { authorityOverride: 'x:80' },
      http2: {
        keepAlive: {
          interval: { seconds: 10n, nanos: 0 },
          timeout: { seconds: 3n, nanos: 0 },
          whileIdle: true,
        },
      },
      resourceRef: undefined,
    }).finish(),
    `0a0a ${ADDRESS} 18904e 2208 0a03 ${text('pod')} 1201 ${text('a')}` +
      ` 2a0c 0a04 0a02 ${text('id')} 2204 0a02 ${text('id')}` +
      ` 3207 0a00 1203 08af20 3a06 0a04 ${text('x:80')} 420c 120a 0a02 080a 1202 0803 1801`,
  ],
  [
    'endpoints that go',
    Update.encode({
      update: { $case: 'remove', remove: { addrs: address === undefined ? [] : [address] } },
    }).finish(),
    `120c 0a0a ${ADDRESS}`,
  ],
  [
    'a policy asked for by address',
    TrafficSpec.encode({ sourceWorkload: '{}', target: { $case: 'addr', addr: address } }).finish(),
    `0a02 ${text('{}')} 120a ${ADDRESS}`,
  ],
  [
    'a port that is not there',
    OutboundPolicy.encode(undefinedPort({ kind: { $case: 'default', default: 'd' } })).finish(),
    `0a20 121e 0a1c 0a10 0a0e ${text('undefined-port')} 1a08 0a020a00 12021200 1203 0a01 ${text('d')}`,
  ],
  [
    'the policy of a port asked for',
    PortSpec.encode({ workload: 'ns:pod', port: 80 }).finish(),
    `0a06 ${text('ns:pod')} 1050`,
  ],
  [
    'any identity: a suffix without parts',
    Authn.encode({
      permit: {
        $case: 'meshTls',
        meshTls: {
          clients: { $case: 'identities', identities: { identities: [], suffixes: [{ parts: [] }] } },
        },
      },
    }).finish(),
    '1204 1202 1200',
  ],
  [
    'a certificate asked for',
    CertifyRequest.encode({
      identity: 'id',
      token: Buffer.from('t'),
      certificateSigningRequest: Buffer.from('c'),
    }).finish(),
    `0a02 ${text('id')} 1201 ${text('t')} 1a01 ${text('c')}`,
  ],
];

describe('bytes of Linkerd’s wire', () => {
  for (const [what, bytes, golden] of table) {
    it(what, () => assert.equal(Buffer.from(bytes).toString('hex'), golden.replaceAll(' ', '')));
  }
});
