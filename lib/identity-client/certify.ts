// SPDX-License-Identifier: Apache-2.0
// One call of Certify: makes a key, asks the identity service with the newest token, and checks the answer before
// anybody uses it. When to call is certificates.ts' business.

import { generateKeyPair, X509Certificate } from 'node:crypto';
import { promisify } from 'node:util';
import { type Interceptor, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import type { Clock } from '#lib/core/clock.ts';
import { MeshError } from '#lib/core/errors.ts';
import { readText } from '#lib/files/watch-files.ts';
import { createMeshChannel, type DialFailure } from '#lib/grpc/client.ts';
import { targetOf } from '#lib/grpc/server-addresses.ts';
import {
  type CertifyRequest,
  type CertifyResponse,
  IdentityClient,
} from '#lib/proto/gen/linkerd/identity.ts';
import { createCertificateRequest } from '#lib/x509/csr.ts';
import { checkChain, identityMismatch, parseCertificates } from '#lib/x509/verify.ts';

const DEADLINE_MS = 10_000;
/** Calls fail while the channel waits; who calls has a back-off already, and a longer one here would come on top. */
const RECONNECT_MAX_MS = 1000;
/** Set by the identity service beside a refusal; its absence means that the service was not reached. */
const RULE_METADATA = 'nodemesh-rule';

const makeKeys = promisify(generateKeyPair);

/** PEM texts, leaf first; the anchors are not part of the chain. */
export interface Certificate {
  readonly identity: string;
  readonly chainPem: string;
  readonly keyPem: string;
  readonly notAfterMs: number;
}

export interface CertifierOptions {
  /** `ip:port` or `name:port`, or several with commas between. */
  readonly identityAddress: string;
  /** The TLS identity that the service must prove. */
  readonly identityName: string;
  readonly tokenFile: string;
  readonly anchorsPem: () => string;
  readonly clock: Clock;
  /** Sees each call. */
  readonly interceptor?: Interceptor;
  readonly onDialFailure?: (failure: DialFailure) => void;
}

export interface Certifier {
  certify(identity: string): Promise<Certificate>;
  close(): void;
}

export function createCertifier(options: CertifierOptions): Certifier {
  const { interceptor, onDialFailure } = options;
  const channel = createMeshChannel({
    serverIdentity: options.identityName,
    // No certificate: this is how one is got.
    material: () => ({ certificate: undefined, anchorsPem: options.anchorsPem() }),
    messageBytesMax: 256 * 1024,
    reconnectMaxMs: RECONNECT_MAX_MS,
    ...(onDialFailure === undefined ? {} : { onDialFailure }),
  });
  const client = new IdentityClient(targetOf(options.identityAddress), channel.credentials, {
    ...channel.options,
    ...(interceptor === undefined ? {} : { interceptors: [interceptor] }),
  });
  return {
    async certify(identity) {
      const token = (await readText(options.tokenFile)).trim();
      const keys = await makeKeys('ec', { namedCurve: 'P-256' });
      const response = await call(client, identity, {
        identity,
        token: Buffer.from(token),
        certificateSigningRequest: createCertificateRequest(identity, keys),
      });
      const keyPem = keys.privateKey.export({ type: 'pkcs8', format: 'pem' });
      const [leaf, ...intermediates] = readChain(response);
      if (leaf === undefined || !leaf.checkPrivateKey(keys.privateKey))
        throw invalid(`the answer for ${identity} is not for the key it was asked for`);
      checkAnswer(identity, leaf, intermediates, options);
      return {
        identity,
        chainPem: [leaf, ...intermediates].map((certificate) => certificate.toString()).join(''),
        keyPem,
        notAfterMs: leaf.validToDate.getTime(),
      };
    },
    close: () => client.close(),
  };
}

function checkAnswer(
  identity: string,
  leaf: X509Certificate,
  intermediates: readonly X509Certificate[],
  options: CertifierOptions,
): void {
  const mismatch = identityMismatch(leaf, identity);
  if (mismatch !== undefined) throw mismatch;
  const anchors = parseCertificates(options.anchorsPem(), 'the trust anchors');
  const chain = checkChain({ leaf, intermediates, anchors, wallMs: options.clock.wallMs() });
  if ('error' in chain) throw chain.error;
}

/** Whether a certificate got earlier still leads to one of the anchors. */
export function leadsToAnchor(certificate: Certificate, anchorsPem: string, wallMs: number): boolean {
  const [leaf, ...intermediates] = parseCertificates(certificate.chainPem, 'the certificate');
  if (leaf === undefined) return false;
  const anchors = parseCertificates(anchorsPem, 'the trust anchors');
  return 'path' in checkChain({ leaf, intermediates, anchors, wallMs });
}

function readChain(response: CertifyResponse): X509Certificate[] {
  try {
    return [response.leafCertificate, ...response.intermediateCertificates].map(
      (der) => new X509Certificate(der),
    );
  } catch (error) {
    throw MeshError.from(error, 'MESH_CERTIFICATE_INVALID', "the identity service's answer cannot be read");
  }
}

function call(client: IdentityClient, identity: string, request: CertifyRequest): Promise<CertifyResponse> {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + DEADLINE_MS;
    client.certify(request, new Metadata(), { deadline }, (error, response) => {
      if (error === null) resolve(response);
      else reject(toMeshError(error, identity));
    });
  });
}

function toMeshError(error: ServiceError, identity: string): MeshError {
  const answered = error.metadata.get(RULE_METADATA).length > 0;
  if (!answered)
    return new MeshError(
      'MESH_IDENTITY_UNAVAILABLE',
      `identity cannot be asked for ${identity}: ${error.details.replace(/\.? Resolution note: $/, '')}`,
      {
        cause: error,
        retryable: true,
      },
    );
  const retryable = [status.UNAVAILABLE, status.RESOURCE_EXHAUSTED, status.INTERNAL].includes(error.code);
  return new MeshError(
    retryable ? 'MESH_IDENTITY_RETRY' : 'MESH_IDENTITY_REFUSED',
    `identity gave no certificate for ${identity}: ${error.details}`,
    { cause: error, retryable },
  );
}

const invalid = (message: string): MeshError => new MeshError('MESH_CERTIFICATE_INVALID', message);
