// SPDX-License-Identifier: Apache-2.0
// `mesh install`: looks whether the cluster can take an installation, and prints it. Standard output has objects
// only, so that it can always be piped into kubectl.

import { errorMessage, MeshError } from '#lib/core/errors.ts';
import {
  checkCredentials,
  credentialsOf,
  hasCredentials,
  issuerIsExternal,
  makeCredentials,
  withCredentials,
} from '../../install/credentials.ts';
import { controlPlaneObjects } from '../../install/manifest.ts';
import { CONFIG_MAP } from '../../install/objects/config.ts';
import { CONTROL_PLANE_LABEL } from '../../install/objects/common.ts';
import { type OutputFormat, printObjects } from '../../install/print.ts';
import { checkValues, lookUp, mergeValues, type Values, type ValuesMap } from '../../install/values.ts';
import { type Cluster, secretText } from './cluster.ts';
import { definitionObjects, requireDefinitions } from './definitions.ts';
import { Refusal } from './refusal.ts';

export interface InstallArguments {
  readonly namespace: string;
  readonly output: OutputFormat;
  /** Only the CustomResourceDefinitions. */
  readonly crds: boolean;
  /** Of flags and files, over the defaults. */
  readonly values: ValuesMap;
  /** undefined: the cluster is not asked. */
  readonly cluster: Cluster | undefined;
  readonly version: string;
  readonly wallMs: number;
  /** A line for standard error. */
  readonly note: (line: string) => void;
}

export async function install(options: InstallArguments): Promise<string> {
  const { cluster, namespace } = options;
  if (cluster !== undefined) {
    try {
      if (!options.crds) await requireDefinitions(cluster, 'install');
      await refuseSecond(cluster, namespace);
    } catch (error) {
      if (error instanceof Refusal) throw error;
      throw unreachable(error);
    }
  }
  const { values, ignored } = checkValues(options.values);
  noteIgnored(ignored, options.note);
  if (options.crds) {
    const objects = await definitionObjects({ ...options, values });
    options.note('Rendering nodemesh CRDs...');
    options.note('Next, run `mesh install | kubectl apply -f -` to install the control plane.\n');
    return printObjects(objects, options.output);
  }
  const complete = await completeCredentials(values, options);
  return printObjects(
    controlPlaneObjects({ values: complete, namespace, version: options.version }),
    options.output,
  );
}

export function noteIgnored(ignored: readonly string[], note: (line: string) => void): void {
  if (ignored.length > 0) {
    note(`These values mean nothing in a mesh without sidecars and are left out: ${ignored.join(', ')}`);
  }
}

export const unreachable = (error: unknown, what = 'the nodemesh control plane'): Refusal =>
  new Refusal(
    `Unable to install ${what}. Cannot connect to the Kubernetes cluster:\n\n${errorMessage(error)}\n\nYou can use the --ignore-cluster flag if you just want to generate the installation config.`,
  );

/** There is one mesh in a cluster, and upgrading is another command. */
export async function refuseSecond(cluster: Cluster, namespace: string): Promise<void> {
  const here = await cluster.get(`/api/v1/namespaces/${namespace}/configmaps/${CONFIG_MAP}`);
  if (here !== undefined) {
    const ours = here.metadata.labels?.[CONTROL_PLANE_LABEL] !== undefined;
    throw new Refusal(
      `Can't install the nodemesh control plane in the '${namespace}' namespace. Reason: ConfigMap/${CONFIG_MAP} already exists.\n${
        ours
          ? 'Run the command `mesh upgrade`, if you are looking to upgrade nodemesh.'
          : 'It belongs to Linkerd: remove its control plane first, or install into another namespace with --linkerd-namespace.'
      }`,
    );
  }
  const elsewhere = await cluster.list('/api/v1/configmaps', CONTROL_PLANE_LABEL);
  const other = elsewhere?.find(({ metadata }) => metadata.name === CONFIG_MAP)?.metadata.namespace;
  if (other !== undefined) {
    throw new Refusal(
      `Can't install the nodemesh control plane in the '${namespace}' namespace. Reason: it is installed in the namespace '${other}', and a cluster has one.\nRun the command \`mesh upgrade -L ${other}\`, if you are looking to upgrade nodemesh, or first \`mesh uninstall -L ${other} | kubectl delete -f -\` to move it.`,
    );
  }
}

/** Values with an issuer and anchors: those given, those of another program, or new ones. */
async function completeCredentials(values: Values, options: InstallArguments): Promise<Values> {
  const { cluster, namespace, wallMs } = options;
  if (issuerIsExternal(values)) {
    const anchorsGiven = lookUp(values, 'identityTrustAnchorsPEM') !== '';
    if (anchorsGiven || lookUp(values, 'identity.externalCA') === true) return values;
    if (cluster === undefined) {
      throw new MeshError(
        'MESH_CONFIG_INVALID',
        '--ignore-cluster is not supported when --identity-external-issuer=true',
        {
          remedy:
            'give the trust anchors with --set-file identityTrustAnchorsPEM=FILE, or --identity-external-ca',
        },
      );
    }
    const secret = await cluster.get(`/api/v1/namespaces/${namespace}/secrets/linkerd-identity-issuer`);
    const anchorsPem = secret === undefined ? undefined : secretText(secret, 'ca.crt');
    if (anchorsPem === undefined || anchorsPem === '') {
      throw new MeshError(
        'MESH_NOT_FOUND',
        `there is no Secret linkerd-identity-issuer with ca.crt, tls.crt and tls.key in namespace ${namespace}`,
        { remedy: 'let the other program make it first, or give --set-file identityTrustAnchorsPEM=FILE' },
      );
    }
    return mergeValues(values, { identityTrustAnchorsPEM: anchorsPem });
  }
  if (hasCredentials(values)) {
    await checkCredentials(credentialsOf(values), wallMs);
    return values;
  }
  if (cluster === undefined) {
    throw new MeshError('MESH_CONFIG_INVALID', '--ignore-cluster needs an issuer', {
      remedy:
        'give --identity-issuer-certificate-file, --identity-issuer-key-file and --identity-trust-anchors-file; one that is made anew each time would cut off every workload with the next output',
    });
  }
  return withCredentials(values, await makeCredentials(values, wallMs));
}
