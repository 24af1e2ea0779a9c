// SPDX-License-Identifier: Apache-2.0
// Which categories run, in Linkerd's order.

import { identityCertificates, webhookCertificate } from './certificate-checks.ts';
import type { Category } from './check.ts';
import { customResources, kubernetesApi, kubernetesVersion, preInstall } from './cluster-checks.ts';
import {
  cliVersion,
  controlPlaneVersion,
  existence,
  highAvailability,
  installedObjects,
} from './control-plane-checks.ts';
import { dataPlane } from './data-plane-checks.ts';
import { nodeAgents, nodes } from './node-checks.ts';

/** `pre`: before an installation. `crds`: only the CRDs. `proxy`: the data plane too. */
export type CheckSet = 'default' | 'pre' | 'crds' | 'proxy';

const both: readonly CheckSet[] = ['default', 'proxy'];
const all: readonly CheckSet[] = [...both, 'pre', 'crds'];

export const allCategories: readonly (readonly [Category, readonly CheckSet[]])[] = [
  [kubernetesApi, all],
  [kubernetesVersion, all],
  [preInstall, ['pre']],
  [customResources, [...both, 'crds']],
  // Before what depends on it: each of the checks below reads what the installation stored.
  [installedObjects, both],
  [existence, both],
  [identityCertificates, both],
  [webhookCertificate, both],
  [nodes, both],
  [nodeAgents, both],
  [cliVersion, all],
  [controlPlaneVersion, ['default']],
  [dataPlane, ['proxy']],
  [highAvailability, both],
];

export const categoriesOf = (set: CheckSet): readonly Category[] =>
  allCategories.filter(([, sets]) => sets.includes(set)).map(([category]) => category);
