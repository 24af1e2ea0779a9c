// SPDX-License-Identifier: Apache-2.0
// The values of the installation in a cluster: what install stored, with issuer and trust anchors as they are now.

import { parse, parseAllDocuments } from 'yaml';
import { MeshError } from '#lib/core/errors.ts';
import { type Credentials, issuerIsExternal, withCredentials } from '../../install/credentials.ts';
import { OVERRIDES_SECRET } from '../../install/objects/config.ts';
import { mergeValues, textAt, type ValuesMap } from '../../install/values.ts';
import { type Cluster, type ClusterObject, configText, secretText } from './cluster.ts';
import { Refusal } from './refusal.ts';

/** As install and upgrade stored them. */
export async function overridesInCluster(
  cluster: Cluster,
  namespace: string,
  remedy: string,
): Promise<ValuesMap> {
  const secret = await cluster.get(`/api/v1/namespaces/${namespace}/secrets/${OVERRIDES_SECRET}`);
  const text = secret === undefined ? undefined : secretText(secret, OVERRIDES_SECRET);
  if (text === undefined) throw new Refusal(`Could not find the ${OVERRIDES_SECRET} secret.\n${remedy}`);
  return overridesOf(text);
}

/** From the text of an install manifest. */
export function overridesInManifest(text: string, source: string): ValuesMap {
  for (const document of parseAllDocuments(text)) {
    const object = document.toJS() as
      | (ClusterObject & { readonly stringData?: Record<string, string> })
      | null;
    if (object?.kind !== 'Secret' || object.metadata.name !== OVERRIDES_SECRET) continue;
    const stored = object.stringData?.[OVERRIDES_SECRET] ?? secretText(object, OVERRIDES_SECRET);
    if (stored !== undefined) return overridesOf(stored);
  }
  throw new MeshError('MESH_NOT_FOUND', `${source} holds no Secret ${OVERRIDES_SECRET}`, {
    remedy: 'give the output of mesh install or mesh upgrade',
  });
}

function overridesOf(text: string): ValuesMap {
  const values: unknown = parse(text);
  return typeof values === 'object' && values !== null && !Array.isArray(values) ? (values as ValuesMap) : {};
}

/**
 * Issuer and anchors as they are in the cluster: they may have been rotated since values were stored, and an upgrade
 * must not turn that back.
 */
export async function withLiveCredentials(
  values: ValuesMap,
  cluster: Cluster,
  namespace: string,
): Promise<ValuesMap> {
  const objects = `/api/v1/namespaces/${namespace}`;
  const roots = await cluster.get(`${objects}/configmaps/linkerd-identity-trust-roots`);
  const anchorsPem = roots === undefined ? undefined : configText(roots, 'ca-bundle.crt');
  const live =
    anchorsPem === undefined ? values : mergeValues(values, { identityTrustAnchorsPEM: anchorsPem });
  if (issuerIsExternal(values)) return live;
  const secret = await cluster.get(`${objects}/secrets/linkerd-identity-issuer`);
  const certificatePem = secret === undefined ? undefined : secretText(secret, 'crt.pem');
  const keyPem = secret === undefined ? undefined : secretText(secret, 'key.pem');
  if (certificatePem === undefined || keyPem === undefined) return live;
  const credentials: Credentials = {
    anchorsPem: anchorsPem ?? textAt(live, 'identityTrustAnchorsPEM'),
    certificatePem,
    keyPem,
  };
  return withCredentials(live, credentials);
}
