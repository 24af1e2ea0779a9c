// SPDX-License-Identifier: Apache-2.0
// Puts the webhook together: HTTPS server, certificate, admin port.

import { createServer, type Server } from 'node:https';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Registry } from 'prom-client';
import { serveAdminPort } from '#lib/admin-port/admin-port.ts';
import type { Clock } from '#lib/core/clock.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { KubernetesApi } from '#lib/registry-kubernetes/api-client.ts';
import { keepCertificate } from './certificate.ts';
import type { WebhookConfig } from './config.ts';
import { createWebhookMetrics } from './metrics.ts';
import { answerReview } from './review.ts';
import { untilQuiet } from './until-quiet.ts';

export interface WebhookOptions {
  readonly config: WebhookConfig;
  readonly api: KubernetesApi;
  readonly metrics: Registry;
  readonly clock: Clock;
  readonly log: Log;
}

export interface RunningWebhook {
  readonly address: { readonly ip: string; readonly port: number };
  /** Looks after the certificate now. */
  checkCertificate(): Promise<void>;
  /** Answers until nobody has sent anything here for so long. */
  close(graceMs?: number): Promise<void>;
}

const NAME = 'linkerd-policy-validator';
/** etcd takes objects of 1.5 MB; a review carries two. */
const BODY_BYTES_MAX = 8 * 1024 * 1024;
const CONNECTIONS_MAX = 1000;
/** Of the end: twenty seconds, of the thirty that a pod has. */
const LOOKS_MAX = 80;

export async function startWebhook(options: WebhookOptions): Promise<RunningWebhook> {
  const { config, clock, log, metrics } = options;
  const server: Server = createServer({ minVersion: 'TLSv1.2' }, (request, response) => {
    answer(request).then(
      ({ status, body }) => send(response, status, body),
      (error: unknown) => {
        log.warn({ reason: errorMessage(error) }, 'a review could not be read');
        send(response, 400, { message: errorMessage(error) });
      },
    );
  });
  server.maxConnections = CONNECTIONS_MAX;

  let serving = true;
  let asked = 0;

  async function answer(request: IncomingMessage): Promise<{ status: number; body: object }> {
    asked++;
    if (request.method !== 'POST' || (request.url ?? '').split('?')[0] !== '/') {
      request.resume();
      return { status: 404, body: { message: 'not found' } };
    }
    const answered = answerReview(JSON.parse(await readBody(request)) as unknown);
    if (answered === undefined) {
      counts.reviewed('invalid');
      return { status: 400, body: { message: 'expected an AdmissionReview' } };
    }
    counts.reviewed(answered.allowed ? 'allowed' : 'refused', answered.kind);
    return { status: 200, body: answered.body };
  }

  const certificate = keepCertificate({
    api: options.api,
    namespace: config.namespace,
    secret: `${NAME}-k8s-tls`,
    configuration: 'nodemesh-policy-validator',
    service: NAME,
    lifetimeMs: config.certificateLifetimeMs,
    clock,
    log,
    onChange: ({ certificatePem, keyPem }) =>
      server.setSecureContext({ cert: certificatePem, key: keyPem, minVersion: 'TLSv1.2' }),
  });
  const counts = createWebhookMetrics(metrics, () => certificate.notAfterMs, clock);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(MeshError.from(error, 'MESH_SYSCALL', `cannot listen on port ${config.listen.port}`)),
    );
    server.listen(config.listen, resolve);
  });
  const admin = await serveAdminPort({
    ...config.adminListen,
    ready: () => serving && certificate.announced,
    metrics: { contentType: metrics.contentType, text: () => metrics.metrics() },
  });
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new MeshError('MESH_SYSCALL', 'no bound address');
  log.info({ port: bound.port }, 'webhook is serving');
  return {
    address: { ip: bound.address, port: bound.port },
    checkCertificate: () => certificate.check(),
    async close(graceMs = 0) {
      serving = false;
      certificate.close();
      if (graceMs > 0) await untilQuiet({ clock, asked: () => asked, quietMs: graceMs, looksMax: LOOKS_MAX });
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
      await admin.close();
    },
  };
}

function send(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES_MAX)
      throw new MeshError('MESH_LIMIT', `a review has more than ${BODY_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
