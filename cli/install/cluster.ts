// SPDX-License-Identifier: Apache-2.0
// What the commands of the installation ask a cluster. An interface, so that they do not depend on how it is reached.

export interface ClusterObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly [key: string]: unknown;
}

export interface Cluster {
  /** undefined: it does not exist. */
  get(path: string): Promise<ClusterObject | undefined>;
  /** undefined: the kind is not served. */
  list(path: string, labelSelector?: string): Promise<readonly ClusterObject[] | undefined>;
  /** Makes it, or changes it to be so (server-side apply). */
  apply(path: string, object: object): Promise<void>;
  /** What the API server makes of an object that is only a question (a SelfSubjectAccessReview). */
  ask(path: string, object: object): Promise<ClusterObject>;
  /** An answer that is no object, such as a pod's metrics through the API server. */
  text(path: string, query?: Readonly<Record<string, string>>): Promise<string>;
  /** No error if it does not exist. */
  remove(path: string): Promise<void>;
  close(): void;
}

/** The text of a key of a Secret. */
export function secretText(secret: ClusterObject, key: string): string | undefined {
  const text = (secret['data'] as Readonly<Record<string, string>> | undefined)?.[key];
  return text === undefined ? undefined : Buffer.from(text, 'base64').toString('utf8');
}

/** The text of a key of a ConfigMap. */
export const configText = (map: ClusterObject, key: string): string | undefined =>
  (map['data'] as Readonly<Record<string, string>> | undefined)?.[key];
