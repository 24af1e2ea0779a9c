// SPDX-License-Identifier: Apache-2.0
// The less common forms of the wire, spoken with a pod under an agent; prints what is heard of each, and what kind of
// certificate the peer got.
//   node peer-forms.ts AUTHORITY-WITHOUT-PORT

import { ownCertificate } from './environment.ts';
import { lookUp } from './look-up.ts';
import { encode } from './protobuf.ts';
import { http1, overHttp2, ports, tunnel } from './talk.ts';
import { dialMesh, type Header, withPreface } from './wire.ts';

const [name = ''] = process.argv.slice(2);
const shown = await ownCertificate();
const { host, identity, inboundPort } = await lookUp(shown, name, ports.http1);
const target = { host, port: inboundPort, identity };
const options = { authority: `${name}:${ports.http1}` };
const header = (session: Header['session'], more: Partial<Header> = {}): Header => ({
  port: ports.http1,
  name: '',
  session,
  ...more,
});
const dial = (bytes?: Header | Uint8Array) => dialMesh(shown, target, bytes);
const marked = async (version: string, port: number = ports.http1, more = {}): Promise<string> =>
  overHttp2(await dial(header('http2', { port })), options, { 'l5d-orig-proto': version, ...more });

const forms: Readonly<Record<string, () => Promise<string>>> = {
  'HTTP/1.1 as it is': async () => http1(await dial(header('http1')), options),
  // It has no other way to say how long a body is.
  'HTTP/1.0 in HTTP/2': () => marked('HTTP/1.0', ports.http1, { 'content-length': '6' }),
  'absolute form in HTTP/2': () => marked('HTTP/1.1; absolute-form'),
  'an unknown version in HTTP/2': () => marked('HTTP/3', ports.http2),
  // As when a route of the peer's sets Host.
  'another host in HTTP/2': async () =>
    overHttp2(await dial(header('http2', { port: ports.http2 })), options, { host: 'other.example' }),
  'a tunnel': async () => tunnel(await dial(header('http1')), `${name}:${ports.http1}`),
  'a header of a later version': async () => {
    const message = encode([3, Buffer.of(0x0a, 0)], [1, ports.http1], [15, 'new'], [16, 7]);
    return http1(await dial(withPreface(message)), options);
  },
  'a named target': async () =>
    http1(await dial(header('http1', { name: 'web.far.svc.cluster.local' })), options),
  'port 0': async () => http1(await dial(header('http1', { port: 0 })), options),
  'no header': async () => http1(await dial(Buffer.alloc(0)), options),
  'no ALPN': async () => http1(await dial(), options),
};

const heard: Record<string, string> = {};
for (const [form, speak] of Object.entries(forms)) {
  heard[form] = await speak().catch(() => 'refused');
}
const { leaf, cert, validUntilMs } = shown;
const [from, to] = [leaf.validFrom, leaf.validTo].map((text) => Date.parse(text)) as [number, number];
heard['names'] = `${leaf.subjectAltName}`;
heard['certificates'] = String(cert.split('BEGIN CERTIFICATE').length - 1);
heard['valid'] =
  `${Math.round((to - from) / 1000)} s, until ${to === validUntilMs ? 'its end' : 'another time'}`;
process.stdout.write(JSON.stringify(heard));
