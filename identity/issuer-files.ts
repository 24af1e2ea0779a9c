// SPDX-License-Identifier: Apache-2.0
// The issuer and the trust anchors as files: loaded at the start, taken over when they change and hold, else the
// old ones stay in force and the log says why.

import type { Clock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { type FileTexts, readTexts, watchFiles } from '#lib/files/watch-files.ts';
import type { PodEvent } from '#lib/registry/registry.ts';
import { parseCertificates } from '#lib/x509/verify.ts';
import { type CertificateIssuer, createIssuer } from '#lib/x509-authority/issuer.ts';

type IssuerFile = 'anchors' | 'certificate' | 'key';

export interface IssuerFilesOptions {
  readonly files: Readonly<Record<IssuerFile, string>>;
  readonly clock: Clock;
  readonly intervalMs: number;
  readonly log: Log;
  /** As Linkerd's identity tells them: IssuerUpdated, IssuerUpdateSkipped; TrustAnchorsUpdated is ours. */
  readonly tell: (event: PodEvent) => void;
}

export interface IssuerFiles {
  readonly issuer: CertificateIssuer;
  readonly anchorsPem: string;
  /** Called after both have changed over. */
  onChange(listener: () => void | Promise<void>): void;
  /** Looks at the files now. */
  check(): Promise<void>;
  close(): void;
}

/** Rejects if what the files hold at the start cannot be used. */
export async function loadIssuerFiles(options: IssuerFilesOptions): Promise<IssuerFiles> {
  const { clock, log, tell } = options;
  const listeners: (() => void | Promise<void>)[] = [];
  const known = await readTexts(options.files);
  let current = await load(known, clock);
  log.info(
    { issuer: current.issuer.subject, validUntil: new Date(current.issuer.notAfterMs).toISOString() },
    'issuer loaded',
  );
  const watch = watchFiles({
    files: options.files,
    known,
    clock,
    intervalMs: options.intervalMs,
    async onChange(texts) {
      const next = await load(texts, clock);
      const issuerChanged = next.texts.certificate !== current.texts.certificate;
      const anchorsChanged = next.anchorsPem !== current.anchorsPem;
      current = next;
      const until = new Date(next.issuer.notAfterMs).toISOString();
      if (issuerChanged) {
        const message = `The issuer is ${next.issuer.subject} now, valid until ${until}`;
        tell({ type: 'Normal', reason: 'IssuerUpdated', message });
      }
      if (anchorsChanged) {
        const count = parseCertificates(next.anchorsPem, 'the trust anchors').length;
        const message = `Trust anchors were read anew: ${count} certificates`;
        tell({ type: 'Normal', reason: 'TrustAnchorsUpdated', message });
      }
      log.info(
        { issuer: current.issuer.subject, validUntil: new Date(current.issuer.notAfterMs).toISOString() },
        'issuer or trust anchors changed',
      );
      for (const listener of listeners) await listener();
    },
    onError(error) {
      const reason = errorMessage(error);
      const message = `New issuer or trust anchors are not usable, ${current.issuer.subject} stays in force: ${reason}`;
      tell({ type: 'Warning', reason: 'IssuerUpdateSkipped', message });
      log.error(
        { reason, issuer: current.issuer.subject },
        'new issuer or trust anchors not usable, the old ones stay in force',
      );
    },
  });
  return {
    get issuer() {
      return current.issuer;
    },
    get anchorsPem() {
      return current.anchorsPem;
    },
    onChange: (listener) => void listeners.push(listener),
    check: () => watch.check(),
    close: () => watch.close(),
  };
}

async function load(
  texts: FileTexts<IssuerFile>,
  clock: Clock,
): Promise<{ issuer: CertificateIssuer; anchorsPem: string; texts: FileTexts<IssuerFile> }> {
  const issuer = await createIssuer(
    { certificatePem: texts.certificate, keyPem: texts.key, anchorsPem: texts.anchors },
    clock.wallMs(),
  );
  return { issuer, anchorsPem: texts.anchors, texts };
}
