// SPDX-License-Identifier: Apache-2.0
// The issuer and the trust anchors as files: loaded at the start, taken over when they change and hold, else the
// old ones stay in force and the log says why.

import type { Clock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { type FileTexts, readTexts, watchFiles } from '#lib/files/watch-files.ts';
import { type CertificateIssuer, createIssuer } from '#lib/x509-authority/issuer.ts';

type IssuerFile = 'anchors' | 'certificate' | 'key';

export interface IssuerFilesOptions {
  readonly files: Readonly<Record<IssuerFile, string>>;
  readonly clock: Clock;
  readonly intervalMs: number;
  readonly log: Log;
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
  const { clock, log } = options;
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
      current = await load(texts, clock);
      log.info(
        { issuer: current.issuer.subject, validUntil: new Date(current.issuer.notAfterMs).toISOString() },
        'issuer or trust anchors changed',
      );
      for (const listener of listeners) await listener();
    },
    onError: (error) =>
      log.error(
        { reason: errorMessage(error), issuer: current.issuer.subject },
        'new issuer or trust anchors not usable, the old ones stay in force',
      ),
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
): Promise<{ issuer: CertificateIssuer; anchorsPem: string }> {
  const issuer = await createIssuer(
    { certificatePem: texts.certificate, keyPem: texts.key, anchorsPem: texts.anchors },
    clock.wallMs(),
  );
  return { issuer, anchorsPem: texts.anchors };
}
