// SPDX-License-Identifier: Apache-2.0
// The TLS contexts of a worker: one per identity, made at the first use and made anew when its certificate or the
// trust anchors change. Connections keep the context they began with.

import type { SecureContext } from 'node:tls';
import { createMeshContext } from '#lib/tls/mesh-context.ts';
import type { Certificate } from '../model.ts';

export class TlsContexts {
  #anchorsPem: string;
  readonly #certificates = new Map<string, Certificate>();
  readonly #contexts = new Map<string, SecureContext>();

  constructor(anchorsPem: string) {
    this.#anchorsPem = anchorsPem;
  }

  setAnchors(pem: string): void {
    if (pem === this.#anchorsPem) return;
    this.#anchorsPem = pem;
    this.#contexts.clear();
  }

  setCertificate(certificate: Certificate): void {
    this.#certificates.set(certificate.identity, certificate);
    this.#contexts.delete(certificate.identity);
  }

  /**
   * Lets go of what no pod uses. A certificate stays until it ends: it may belong to a pod that is not known yet, and
   * is not sent again for the next pod of its account.
   */
  retain(identities: ReadonlySet<string>, wallMs: number): void {
    for (const [identity, certificate] of this.#certificates) {
      if (identities.has(identity)) continue;
      this.#contexts.delete(identity);
      if (certificate.notAfterMs < wallMs) this.#certificates.delete(identity);
    }
  }

  /** The key goes too; connections keep the context that they began with. */
  dropCertificate(identity: string): void {
    this.#certificates.delete(identity);
    this.#contexts.delete(identity);
  }

  has(identity: string): boolean {
    return this.#certificates.has(identity);
  }

  /** For both sides of connections of this identity; undefined without a certificate. Throws if it is unusable. */
  contextOf(identity: string): SecureContext | undefined {
    const known = this.#contexts.get(identity);
    if (known !== undefined) return known;
    const certificate = this.#certificates.get(identity);
    if (certificate === undefined) return undefined;
    const context = createMeshContext({ certificate, anchorsPem: this.#anchorsPem });
    this.#contexts.set(identity, context);
    return context;
  }
}
