// SPDX-License-Identifier: Apache-2.0
// What programs/sidecar.ts is told, and what it answers.

export interface SidecarConfig {
  readonly dns: string;
  readonly names: Readonly<
    Record<'identity' | 'destination' | 'policy', { readonly host: string; readonly tls: string }>
  >;
  readonly tokenFile: string;
  readonly anchorsFile: string;
  readonly identity: string;
  readonly pod: { readonly namespace: string; readonly name: string; readonly node: string };
  /** Of the service that it asks for: name and port, address and port, and how many endpoints it has. */
  readonly authority: string;
  readonly serviceIp: string;
  readonly endpoints: number;
}

export interface SidecarAnswers {
  readonly identity: string;
  readonly endpoints: readonly string[];
  readonly profile: string;
  readonly outbound: boolean;
  readonly authorizations: number;
}
