// SPDX-License-Identifier: Apache-2.0
// The flags of `mesh install`, `mesh upgrade` and `mesh install-cni`, Linkerd's where it has one, and the values that
// they stand for.

import type { Options } from 'yargs';
import { MeshError } from '#lib/core/errors.ts';
import { setValues } from '../../install/set-values.ts';
import { mergeValues, type ValuesMap, valuesOf } from '../../install/values.ts';
import { highAvailabilityValues } from '../../install/values-table.ts';

/** The flags of one kind of command. */
export interface FlagSet {
  readonly values: readonly ValueFlag[];
  readonly files: readonly { readonly flag: string; readonly path: string; readonly describe: string }[];
  /** Linkerd's flags for what does not exist here: taken, with a word on standard error. */
  readonly meaningless: readonly { readonly flag: string; readonly type: 'string' | 'boolean' }[];
}

interface ValueFlag {
  readonly flag: string;
  readonly path: string;
  readonly type: 'string' | 'number' | 'boolean';
  readonly describe: string;
  /** Only of a first installation: it cannot be changed afterwards. */
  readonly installOnly?: boolean;
  /** What is put at the path. */
  readonly value?: (given: string | number | boolean) => unknown;
}

const valueFlags: readonly ValueFlag[] = [
  {
    flag: 'cluster-domain',
    path: 'clusterDomain',
    type: 'string',
    describe: "the domain that services' names end in",
    installOnly: true,
  },
  {
    flag: 'identity-trust-domain',
    path: 'identityTrustDomain',
    type: 'string',
    describe: 'the end of every identity; else the cluster domain',
    installOnly: true,
  },
  {
    flag: 'identity-external-issuer',
    path: 'identity.issuer.scheme',
    type: 'boolean',
    describe: 'another program keeps Secret linkerd-identity-issuer (kubernetes.io/tls)',
    installOnly: true,
    value: (given) => (given === true ? 'kubernetes.io/tls' : 'linkerd.io/tls'),
  },
  {
    flag: 'identity-external-ca',
    path: 'identity.externalCA',
    type: 'boolean',
    describe: 'another program keeps ConfigMap linkerd-identity-trust-roots',
    installOnly: true,
  },
  {
    flag: 'identity-issuance-lifetime',
    path: 'identity.issuer.issuanceLifetime',
    type: 'string',
    describe: 'how long certificates of workloads last',
  },
  {
    flag: 'identity-clock-skew-allowance',
    path: 'identity.issuer.clockSkewAllowance',
    type: 'string',
    describe: 'added to both ends of a validity',
  },
  {
    flag: 'controller-log-level',
    path: 'controllerLogLevel',
    type: 'string',
    describe: 'error, warn, info or debug',
  },
  {
    flag: 'controller-replicas',
    path: 'controllerReplicas',
    type: 'number',
    describe: 'replicas of each part of the control plane',
  },
  { flag: 'controller-uid', path: 'controllerUID', type: 'number', describe: 'user of the control plane' },
  { flag: 'controller-gid', path: 'controllerGID', type: 'number', describe: 'group of the control plane' },
  {
    flag: 'image-pull-policy',
    path: 'imagePullPolicy',
    type: 'string',
    describe: 'Always, IfNotPresent or Never',
  },
  {
    flag: 'registry',
    path: 'nodemesh.registry',
    type: 'string',
    describe: 'host and path before the names of images',
  },
  {
    flag: 'skip-inbound-ports',
    path: 'proxyInit.ignoreInboundPorts',
    type: 'string',
    describe: 'ports and ranges whose inbound connections pass by the mesh',
  },
  {
    flag: 'skip-outbound-ports',
    path: 'proxyInit.ignoreOutboundPorts',
    type: 'string',
    describe: 'ports and ranges whose outbound connections pass by the mesh',
  },
  {
    flag: 'default-inbound-policy',
    path: 'proxy.defaultInboundPolicy',
    type: 'string',
    describe: 'policy of pods that name none',
  },
];

/** Flags with a file, and where its text goes. */
const fileFlags: FlagSet['files'] = [
  {
    flag: 'identity-issuer-certificate-file',
    path: 'identity.issuer.tls.crtPEM',
    describe: "the issuer's certificate, PEM",
  },
  {
    flag: 'identity-issuer-key-file',
    path: 'identity.issuer.tls.keyPEM',
    describe: "the issuer's ECDSA key, PEM",
  },
  {
    flag: 'identity-trust-anchors-file',
    path: 'identityTrustAnchorsPEM',
    describe: 'the trust anchors, PEM',
  },
];

const meaninglessFlags: FlagSet['meaningless'] = [
  ...['linkerd-cni-enabled', 'disable-h2-upgrade', 'disable-heartbeat', 'enable-endpoint-slices'].map(
    (flag) => ({ flag, type: 'boolean' as const }),
  ),
  { flag: 'enable-external-profiles', type: 'boolean' },
  ...[
    'proxy-image',
    'proxy-version',
    'inbound-port',
    'outbound-port',
    'control-port',
    'admin-port',
    'proxy-uid',
    'proxy-gid',
    'proxy-log-level',
    'proxy-cpu',
    'proxy-memory',
    'proxy-cpu-request',
    'proxy-cpu-limit',
    'proxy-memory-request',
    'proxy-memory-limit',
  ].map((flag) => ({ flag, type: 'string' as const })),
];

export const controlPlaneFlags: FlagSet = {
  values: valueFlags,
  files: fileFlags,
  meaningless: meaninglessFlags,
};

const registryFlag = valueFlags.filter(({ flag }) => flag === 'registry');

export const cniFlags: FlagSet = {
  values: [
    ...registryFlag,
    {
      flag: 'dest-cni-net-dir',
      path: 'destCNINetDir',
      type: 'string',
      describe: "the nodes' folder of CNI configurations",
    },
    {
      flag: 'dest-cni-bin-dir',
      path: 'destCNIBinDir',
      type: 'string',
      describe: "the nodes' folder of CNI plugins",
    },
    {
      flag: 'cni-log-level',
      path: 'logLevel',
      type: 'string',
      describe: 'error, warn, info or debug',
    },
    {
      flag: 'priority-class-name',
      path: 'priorityClassName',
      type: 'string',
      describe: 'priority class of agents and keepers',
    },
  ],
  files: [],
  meaningless: [
    { flag: 'use-wait-flag', type: 'boolean' },
    ...[
      'linkerd-version',
      'cni-image',
      'cni-image-version',
      'proxy-uid',
      'proxy-gid',
      'inbound-port',
      'outbound-port',
      'control-port',
      'admin-port',
      'skip-inbound-ports',
      'skip-outbound-ports',
      'redirect-ports',
    ].map((flag) => ({ flag, type: 'string' as const })),
  ],
};

const many = { type: 'string', array: true, requiresArg: true } as const;

/** Of every command that takes values. */
const fileOptions: Record<string, Options> = {
  values: { ...many, alias: 'f', describe: 'file or URL with values; commas or repeated, later ones win' },
  set: { ...many, describe: 'key=value, with commas or repeated' },
  'set-string': { ...many, describe: 'as --set, always text' },
  'set-file': { ...many, describe: 'key=file, whose content is the value' },
};

/** For yargs. */
export const valueOptions = (verb: 'install' | 'upgrade'): Record<string, Options> => ({
  ha: {
    type: 'boolean',
    default: false,
    describe: 'three replicas, spread over nodes, with disruption budgets',
  },
  ...optionsOf(controlPlaneFlags, verb === 'install'),
});

export const cniOptions = (): Record<string, Options> => optionsOf(cniFlags, true);

/** -f is --force there. */
export function removalOptions(): Record<string, Options> {
  const options = cniOptions();
  return { ...options, values: { ...many, describe: fileOptions['values']?.describe } };
}

function optionsOf(flags: FlagSet, first: boolean): Record<string, Options> {
  const options = { ...fileOptions };
  for (const { flag, type, describe, installOnly } of flags.values) {
    if (installOnly === true && !first) continue;
    options[flag] = { type, describe, ...(type === 'boolean' ? {} : { requiresArg: true }) };
  }
  for (const { flag, describe } of flags.files)
    options[flag] = { type: 'string', requiresArg: true, describe };
  for (const { flag, type } of flags.meaningless) options[flag] = { type, hidden: true };
  return options;
}

/** The meaningless ones that were given. */
export const meaninglessOf = (
  given: Readonly<Record<string, unknown>>,
  flags: FlagSet = controlPlaneFlags,
): string[] => flags.meaningless.flatMap(({ flag }) => (given[flag] === undefined ? [] : [`--${flag}`]));

export interface ValueReader {
  /** The text of a file or URL. */
  read(source: string): Promise<string>;
  /** As an object. */
  parse(text: string, source: string): ValuesMap;
}

/** What the command line says over `base`: flags, then files, then --set, as with Helm the later wins. */
export async function valuesOfFlags(
  base: ValuesMap,
  given: Readonly<Record<string, unknown>>,
  reader: ValueReader,
  flags: FlagSet = controlPlaneFlags,
): Promise<ValuesMap> {
  let values = base;
  if (given['ha'] === true) values = mergeValues(values, highAvailabilityValues);
  for (const { flag, path, value } of flags.values) {
    const said = given[flag] as string | number | boolean | undefined;
    if (said === undefined) continue;
    if (Array.isArray(said)) throw twice(flag);
    values = mergeValues(values, valuesOf(path, value === undefined ? said : value(said)));
  }
  for (const { flag, path } of flags.files) {
    const file = given[flag] as string | undefined;
    if (Array.isArray(file)) throw twice(flag);
    if (file !== undefined) values = mergeValues(values, valuesOf(path, await reader.read(file)));
  }
  for (const source of textsOf(given['values']).flatMap((one) => one.split(','))) {
    values = mergeValues(values, reader.parse(await reader.read(source), source));
  }
  for (const text of textsOf(given['set'])) values = setValues(values, text, 'typed');
  for (const text of textsOf(given['set-string'])) values = setValues(values, text, 'text');
  for (const text of textsOf(given['set-file'])) {
    const equals = text.indexOf('=');
    const content = equals < 0 ? '' : await reader.read(text.slice(equals + 1));
    values = setValues(values, equals < 0 ? text : `${text.slice(0, equals)}=${content}`, 'whole');
  }
  return values;
}

const textsOf = (given: unknown): readonly string[] => (Array.isArray(given) ? given.map(String) : []);

const twice = (flag: string): MeshError =>
  new MeshError('MESH_CONFIG_INVALID', `--${flag} may be given once`);
