// SPDX-License-Identifier: Apache-2.0
// The webhook's certificate: shared by all replicas through a Secret, made and renewed by whichever comes first, and
// made known to the API server in the webhook's configuration. During a change both authorities are trusted, so that
// a replica with the old certificate is still answered to.

import { X509Certificate } from 'node:crypto';
import type { Clock, Timer } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { KubernetesApi } from '#lib/registry-kubernetes/api-client.ts';
import { ApiFailure } from '#lib/registry-kubernetes/api-failure.ts';
import { pemBlocks } from '#lib/x509/verify.ts';
import { makeServerCertificate, type ServerCertificate } from './make-certificate.ts';

export interface CertificateOptions {
  readonly api: KubernetesApi;
  readonly namespace: string;
  readonly secret: string;
  readonly configuration: string;
  /** The Service that the API server dials. */
  readonly service: string;
  readonly lifetimeMs: number;
  readonly clock: Clock;
  readonly log: Log;
  onChange(certificate: ServerCertificate): void;
}

export interface KeptCertificate {
  /** Whether the API server has been told of the certificate in force. */
  readonly announced: boolean;
  readonly notAfterMs: number;
  /** Looks now instead of at the next interval. */
  check(): Promise<void>;
  close(): void;
}

const CHECK_INTERVAL_MS_MAX = 20_000;
/** A certificate is renewed when a third of it is left: by then each replica looks several times. */
const CHECKS_PER_LIFETIME = 12;
const RETRY_MS = 2_000;

interface Secret {
  readonly metadata: { readonly resourceVersion?: string };
  readonly data?: Readonly<Record<string, string>>;
}

interface Configuration {
  readonly webhooks?: readonly {
    readonly name: string;
    readonly clientConfig: { readonly caBundle?: string };
  }[];
}

export function keepCertificate(options: CertificateOptions): KeptCertificate {
  const { api, clock, log } = options;
  const names = [`${options.service}.${options.namespace}.svc`, `${options.service}.${options.namespace}`];
  const secretPath = `/api/v1/namespaces/${options.namespace}/secrets/${options.secret}`;
  const configurationPath = `/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/${options.configuration}`;
  let current: ServerCertificate | undefined;
  let announced = false;
  let closed = false;
  let timer: Timer | undefined;

  async function check(): Promise<void> {
    const secret = (await api.call({ path: secretPath })) as Secret;
    const stored = storedIn(secret);
    const chosen = stored !== undefined && isFresh(stored) ? stored : await renew(secret, stored ?? current);
    if (chosen.certificatePem !== current?.certificatePem) {
      current = chosen;
      announced = false;
      options.onChange(chosen);
    }
    await announce(chosen.authorityPem);
    announced = true;
  }

  function isFresh({ certificatePem }: ServerCertificate): boolean {
    const certificate = new X509Certificate(certificatePem);
    const leftMs = certificate.validToDate.getTime() - clock.wallMs();
    return leftMs > options.lifetimeMs / 3 && certificate.checkHost(names[0] ?? '') !== undefined;
  }

  /** Another replica may be quicker: then its certificate is taken at the next look. */
  async function renew(secret: Secret, old: ServerCertificate | undefined): Promise<ServerCertificate> {
    const made = await makeServerCertificate(names, clock.wallMs(), options.lifetimeMs);
    const last = old === undefined ? '' : (pemBlocks(old.authorityPem)[0] ?? '');
    const next = { ...made, authorityPem: `${made.authorityPem}${last === '' ? '' : `${last}\n`}` };
    const data = {
      'ca.crt': next.authorityPem,
      'tls.crt': next.certificatePem,
      'tls.key': next.keyPem,
    };
    await api.call({
      method: 'PUT',
      path: secretPath,
      body: {
        ...secret,
        data: Object.fromEntries(
          Object.entries(data).map(([name, text]) => [name, Buffer.from(text).toString('base64')]),
        ),
      },
    });
    log.info({ secret: options.secret, renewed: old !== undefined }, "made the webhook's certificate");
    return next;
  }

  async function announce(authorityPem: string): Promise<void> {
    const wanted = Buffer.from(authorityPem).toString('base64');
    const { webhooks = [] } = (await api.call({ path: configurationPath })) as Configuration;
    const changes = webhooks.flatMap(({ name, clientConfig }, index) =>
      clientConfig.caBundle === wanted
        ? []
        : [
            { op: 'test', path: `/webhooks/${index}/name`, value: name },
            { op: 'add', path: `/webhooks/${index}/clientConfig/caBundle`, value: wanted },
          ],
    );
    if (changes.length === 0) return;
    await api.call({
      method: 'PATCH',
      path: configurationPath,
      contentType: 'application/json-patch+json',
      body: changes,
    });
  }

  async function run(): Promise<void> {
    let nextMs = Math.min(CHECK_INTERVAL_MS_MAX, options.lifetimeMs / CHECKS_PER_LIFETIME);
    try {
      await check();
    } catch (error) {
      nextMs = RETRY_MS;
      // Another replica was quicker.
      const lost = error instanceof ApiFailure && error.status === 409;
      if (!lost)
        log.warn({ reason: errorMessage(error) }, "the webhook's certificate could not be looked after");
    }
    if (!closed) timer = clock.after(nextMs, () => void run());
  }
  void run();

  return {
    get announced() {
      return announced;
    },
    get notAfterMs() {
      return current === undefined ? 0 : new X509Certificate(current.certificatePem).validToDate.getTime();
    },
    check,
    close() {
      closed = true;
      timer?.cancel();
    },
  };
}

function storedIn({ data = {} }: Secret): ServerCertificate | undefined {
  const text = (name: string): string => Buffer.from(data[name] ?? '', 'base64').toString('utf8');
  const stored = { authorityPem: text('ca.crt'), certificatePem: text('tls.crt'), keyPem: text('tls.key') };
  return Object.values(stored).includes('') ? undefined : stored;
}
