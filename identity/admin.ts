// SPDX-License-Identifier: Apache-2.0
// The identity service's own metrics and its admin port: /live, /ready and /metrics.

import { createServer } from 'node:http';
import { Counter, Gauge, Registry } from 'prom-client';
import { MeshError } from '#lib/core/errors.ts';
import type { Clock } from '#lib/core/clock.ts';
import type { CertificateIssuer } from '#lib/x509-authority/issuer.ts';
import { type CertifyRule, certifyRules } from './rules.ts';

export interface IdentityMetrics {
  readonly registry: Registry;
  count(result: 'issued' | CertifyRule): void;
}

export function createIdentityMetrics(issuer: () => CertificateIssuer, clock: Clock): IdentityMetrics {
  const registry = new Registry();
  const certified = new Counter({
    name: 'identity_certify_total',
    help: 'Answers of Certify: issued, or the rule that was against it.',
    labelNames: ['result'],
    registers: [registry],
  });
  // Every series exists from the start, so that a rate over its first increment is right.
  for (const result of ['issued', ...Object.keys(certifyRules)]) certified.inc({ result }, 0);
  const ttl: Gauge = new Gauge({
    name: 'issuer_cert_ttl_seconds',
    help: "Seconds until the first certificate of the issuer's chain ends; negative afterwards.",
    registers: [registry],
    collect: () => ttl.set(Math.round((issuer().notAfterMs - clock.wallMs()) / 1000)),
  });
  return { registry, count: (result) => certified.inc({ result }) };
}

export interface AdminServer {
  readonly address: { readonly ip: string; readonly port: number };
  close(): Promise<void>;
}

export async function serveAdmin(options: {
  readonly host: string;
  readonly port: number;
  readonly metrics: IdentityMetrics;
  readonly ready: () => boolean;
}): Promise<AdminServer> {
  const { registry } = options.metrics;
  const timeouts = { requestTimeout: 10_000, connectionsCheckingInterval: 5_000 };
  const server = createServer(timeouts, (request, response) => {
    const answer = (status: number, body: string, type = 'text/plain'): void => {
      response.writeHead(status, { 'content-type': type });
      response.end(body);
    };
    const path = (request.url ?? '').split('?')[0];
    if (request.method !== 'GET' && request.method !== 'HEAD') answer(405, 'method not allowed\n');
    else if (path === '/live') answer(200, 'live\n');
    else if (path === '/ready')
      answer(options.ready() ? 200 : 503, options.ready() ? 'ready\n' : 'not ready\n');
    else if (path === '/metrics')
      registry.metrics().then(
        (text) => answer(200, text, registry.contentType),
        (error: unknown) => answer(500, `${String(error)}\n`),
      );
    else answer(404, 'not found\n');
  });
  server.maxConnections = 100;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(MeshError.from(error, 'MESH_SYSCALL', `cannot listen on ${options.host} port ${options.port}`)),
    );
    server.listen({ host: options.host, port: options.port }, resolve);
  });
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new MeshError('MESH_SYSCALL', 'no bound address');
  return {
    address: { ip: bound.address, port: bound.port },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
