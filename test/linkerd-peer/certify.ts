// SPDX-License-Identifier: Apache-2.0
// A certificate from the identity service, asked for as a proxy of Linkerd asks: with its pod's token, a request in DER
// made by hand, no certificate of its own and no ALPN.

import { generateKeyPairSync, sign, X509Certificate } from 'node:crypto';
import { RawGrpc } from './grpc.ts';
import { encode } from './protobuf.ts';

export interface Certified {
  readonly identity: string;
  /** Leaf and intermediates, PEM. */
  readonly cert: string;
  readonly key: string;
  readonly anchorsPem: string;
  readonly validUntilMs: number;
  readonly leaf: X509Certificate;
}

export interface CertifyOptions {
  readonly host: string;
  readonly port: number;
  readonly serverName: string;
  readonly anchorsPem: string;
  readonly identity: string;
  readonly token: string;
}

export async function certify(options: CertifyOptions): Promise<Certified> {
  const { identity, token, anchorsPem } = options;
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const about = der(
    0x30,
    der(0x02, Buffer.of(0)),
    der(0x30),
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa0, der(0x30, oid(EXTENSION_REQUEST), der(0x31, der(0x30, alternativeName(identity))))),
  );
  const signature = sign('sha256', about, privateKey);
  const request = der(0x30, about, der(0x30, oid(ECDSA_WITH_SHA256)), der(0x03, Buffer.of(0), signature));

  const grpc = await RawGrpc.connect(options);
  const call = grpc.call(
    'io.linkerd.proxy.identity.Identity/Certify',
    encode([1, identity], [2, Buffer.from(token)], [3, request]),
  );
  const answer = await call.next();
  grpc.close();
  const chain = [answer.bytes(1), ...answer.bytesList(2)];
  const leaf = new X509Certificate(answer.bytes(1));
  const until = answer.message(3);
  return {
    identity,
    anchorsPem,
    leaf,
    cert: chain.map((bytes) => new X509Certificate(bytes).toString()).join(''),
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
    validUntilMs: (until?.number(1) ?? 0) * 1000,
  };
}

const EXTENSION_REQUEST = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const ECDSA_WITH_SHA256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ALTERNATIVE_NAME = [0x55, 0x1d, 0x11];

const oid = (bytes: readonly number[]): Buffer => der(0x06, Buffer.from(bytes));

const alternativeName = (name: string): Buffer =>
  der(0x30, oid(ALTERNATIVE_NAME), der(0x04, der(0x30, der(0x82, Buffer.from(name)))));

function der(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  const size =
    length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.of(tag, ...size), content]);
}
