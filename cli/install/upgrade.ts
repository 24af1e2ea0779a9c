// SPDX-License-Identifier: Apache-2.0
// `mesh upgrade`: the objects of this version with the values of the installation, changed by what the command line
// says. Issuer and trust anchors stay unless new ones are given.

import {
  checkCredentials,
  credentialsOf,
  hasCredentials,
  issuerIsExternal,
} from '../../install/credentials.ts';
import { controlPlaneObjects } from '../../install/manifest.ts';
import { type OutputFormat, printObjects } from '../../install/print.ts';
import { checkValues, type ValuesMap } from '../../install/values.ts';
import type { Cluster } from './cluster.ts';
import { definitionObjects, requireDefinitions } from './definitions.ts';
import { noteIgnored } from './install.ts';
import { Refusal } from './refusal.ts';
import { overridesInCluster, overridesInManifest, withLiveCredentials } from './stored.ts';

export interface UpgradeArguments {
  readonly cluster: Cluster;
  readonly namespace: string;
  readonly output: OutputFormat;
  readonly crds: boolean;
  /** Whether new credentials are taken without being checked. */
  readonly force: boolean;
  /** An install manifest to take the values from instead of the cluster. */
  readonly manifest: { readonly source: string; readonly text: string } | undefined;
  /** What the command line says over the values of the installation. */
  readonly change: (stored: ValuesMap) => Promise<ValuesMap>;
  readonly newIssuer: boolean;
  readonly newAnchors: boolean;
  readonly version: string;
  readonly wallMs: number;
  readonly note: (line: string) => void;
}

const NO_OVERRIDES = 'If nodemesh was installed with Helm, please use Helm to perform upgrades';

export async function upgrade(options: UpgradeArguments): Promise<string> {
  const { cluster, namespace, manifest, note, version } = options;
  if (!options.crds) await requireDefinitions(cluster, 'upgrade');
  const stored =
    manifest === undefined
      ? await overridesInCluster(cluster, namespace, NO_OVERRIDES)
      : overridesInManifest(manifest.text, manifest.source);
  const live = manifest === undefined ? await withLiveCredentials(stored, cluster, namespace) : stored;
  if (options.newIssuer && issuerIsExternal(live)) {
    throw new Refusal('cannot update issuer certificates if you are using external cert management solution');
  }
  const { values, ignored } = checkValues(await options.change(live));
  noteIgnored(ignored, note);
  if (options.crds) {
    return printObjects(
      await definitionObjects({ cluster, namespace, values, version, note }),
      options.output,
    );
  }
  if (!issuerIsExternal(values)) {
    if (!hasCredentials(values)) {
      throw new Refusal(
        `There is neither an issuer in the cluster (Secret linkerd-identity-issuer in ${namespace}) nor in the stored values.\nGive --identity-issuer-certificate-file, --identity-issuer-key-file and --identity-trust-anchors-file.`,
      );
    }
    if (!options.force) await checkCredentials(credentialsOf(values), options.wallMs);
  }
  if (options.newAnchors) {
    note('‼ Rotating the trust anchors will affect existing proxies');
    note('See docs/install.md for the order in which nothing fails');
  }
  return printObjects(controlPlaneObjects({ values, namespace, version }), options.output);
}
