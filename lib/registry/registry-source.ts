// SPDX-License-Identifier: Apache-2.0
// The setting that says where a program of the control plane reads the cluster.

export type RegistrySource =
  | { readonly kind: 'folder'; readonly folder: string }
  /** `kubeconfig` empty: the pod's own ServiceAccount. */
  | { readonly kind: 'kubernetes'; readonly kubeconfig: string };

export const REGISTRY_DOC =
  'Where the cluster is read from: kubernetes (by the ServiceAccount of the pod), kubernetes:/path of a kubeconfig, ' +
  'or folder:/path.';

export function asRegistrySource(text: string): RegistrySource {
  if (text === 'kubernetes') return { kind: 'kubernetes', kubeconfig: '' };
  const [, kind, path = ''] = /^(folder|kubernetes):(\/.+)$/.exec(text) ?? [];
  if (kind === 'folder') return { kind, folder: path };
  if (kind === 'kubernetes') return { kind, kubeconfig: path };
  throw new Error('expected kubernetes, kubernetes:/path or folder:/path');
}
