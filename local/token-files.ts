// SPDX-License-Identifier: Apache-2.0
// ServiceAccount tokens as files, renewed in time, as the kubelet keeps them. Signing is lib/registry-folder.

import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Clock, Timer } from '#lib/core/clock.ts';
import { type ObjectRef, signLocalToken } from '#lib/registry-folder/token-signer.ts';

/** The audience of tokens for the API server. */
export const API_AUDIENCE = 'https://kubernetes.default.svc.cluster.local';

export interface TokenFile {
  readonly path: string;
  readonly audience: string;
  readonly lifetimeMs: number;
  readonly namespace: string;
  readonly serviceAccount: ObjectRef;
  readonly pod: ObjectRef;
  readonly node?: ObjectRef;
}

/** The kubelet renews at 80 % of the lifetime. */
const RENEW_AT = 0.8;

export class TokenFiles {
  readonly #clock: Clock;
  readonly #privateKeyPem: string;

  constructor(clock: Clock, privateKeyPem: string) {
    this.#clock = clock;
    this.#privateKeyPem = privateKeyPem;
  }

  /** Writes the token now and again before it expires; returns what ends that. */
  keep(file: TokenFile): () => void {
    let timer: Timer | undefined;
    const write = (): void => {
      const token = signLocalToken(
        {
          namespace: file.namespace,
          serviceAccount: file.serviceAccount,
          pod: file.pod,
          ...(file.node === undefined ? {} : { node: file.node }),
          audiences: [file.audience],
          issuedAtMs: this.#clock.wallMs(),
          lifetimeMs: file.lifetimeMs,
        },
        this.#privateKeyPem,
      );
      mkdirSync(dirname(file.path), { recursive: true, mode: 0o755 });
      writeFileSync(`${file.path}.new`, token, { mode: 0o644 });
      renameSync(`${file.path}.new`, file.path);
      timer = this.#clock.after(file.lifetimeMs * RENEW_AT, write);
    };
    write();
    return () => timer?.cancel();
  }
}
