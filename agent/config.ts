// SPDX-License-Identifier: Apache-2.0
// Every setting of the agent. Nothing else reads the environment.

import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import {
  asDurationMs,
  asInteger,
  asList,
  asOneOf,
  asText,
  type ConfigOf,
  loadConfig,
  setting,
} from '#lib/core/config.ts';
import { parseSocketAddress } from '#lib/core/addresses.ts';
import { MeshError } from '#lib/core/errors.ts';
import { INFLIGHT_MAX } from '#lib/bpf/abi.ts';

/**
 * Those of a list that Kubernetes has filled in, with commas between: it leaves `$(X_SERVICE_HOST)` as it is where there
 * is no Service, and writes IPv6 addresses without brackets.
 */
function asServerAddresses(text: string): string {
  const filled = asList(text)
    .filter((address) => !address.includes('$('))
    .map((address) => address.replace(/^([0-9a-f]*(?::[0-9a-f]*){2,}):(\d+)$/i, '[$1]:$2'));
  const isOne = (address: string): boolean =>
    parseSocketAddress(address) !== undefined || /^[^:[\]]+:\d{1,5}$/.test(address);
  if (filled.length === 0 || !filled.every(isOne))
    throw new Error('expected ip:port or name:port, or several with commas between');
  return filled.join(',');
}

export const agentSettings = {
  nodeName: setting(
    'NODEMESH_NODE_NAME',
    undefined,
    asText,
    "The node's name, as the token's claims name it.",
  ),
  nodeIps: setting(
    'NODEMESH_NODE_IPS',
    undefined,
    asList,
    "The node's InternalIPs; metrics listen on the first.",
  ),
  cluster: setting('NODEMESH_CLUSTER', 'local', asText, 'The cluster part of every key.'),
  namespace: setting('NODEMESH_NAMESPACE', 'nodemesh', asText, 'The namespace the mesh is installed in.'),
  serviceAccount: setting(
    'NODEMESH_SERVICE_ACCOUNT',
    'nodemesh-agent',
    asText,
    "The agent's ServiceAccount in that namespace.",
  ),
  runDir: setting(
    'NODEMESH_RUN_DIR',
    '/run/nodemesh',
    asText,
    'Sockets (agent.sock, cni.sock), lists and kept counts; made 0700.',
  ),
  keeperSocket: setting(
    'NODEMESH_KEEPER_SOCKET',
    '',
    asText,
    'The socket of the keeper, which holds listeners over restarts; empty: keeper.sock in the run directory.',
  ),
  stateDir: setting(
    'NODEMESH_STATE_DIR',
    '/var/lib/nodemesh',
    asText,
    'The list of enrolled namespaces and pods, which the CNI shim reads; kept over a reboot.',
  ),
  bpffs: setting(
    'NODEMESH_BPFFS',
    '/sys/fs/bpf',
    asText,
    'A mounted bpffs; links and maps are pinned below nodemesh/<layout>.',
  ),
  bpfObjects: setting(
    'NODEMESH_BPF_OBJECTS',
    'build/bpf',
    asText,
    'The folder of the compiled eBPF objects.',
  ),
  connectTest: setting(
    'NODEMESH_CONNECT_TEST',
    'build/connect-test',
    asText,
    'The compiled program that makes the test connections of the self-check.',
  ),
  podsCgroup: setting(
    'NODEMESH_PODS_CGROUP',
    '',
    asText,
    "The pods' parent cgroup (cgroup2 path), for the connect hooks; empty: found by the agent's own pod.",
  ),
  nodeCgroup: setting(
    'NODEMESH_NODE_CGROUP',
    '',
    asText,
    "An ancestor cgroup of the agent and of all pods, for sockops; empty: the pods', which the agent is one of.",
  ),
  cgroupMount: setting(
    'NODEMESH_CGROUP_MOUNT',
    '/sys/fs/cgroup',
    asText,
    "The node's cgroups, where the pods' parent is looked for.",
  ),
  probeSocket: setting(
    'NODEMESH_PROBE_SOCKET',
    '',
    asText,
    'A socket of this agent alone, which answers /live and /ready from its start to its end; empty: none.',
  ),
  podUid: setting('NODEMESH_POD_UID', '', asText, "The uid of the agent's own pod."),
  workers: setting(
    'NODEMESH_WORKERS',
    String(Math.min(4, availableParallelism())),
    asInteger(1, 64),
    'Proxy worker threads.',
  ),
  slots: setting('NODEMESH_LISTENER_SLOTS', '4', asInteger(1, 16), 'Listener slots per pod and direction.'),
  inflightMax: setting(
    'NODEMESH_INFLIGHT_MAX',
    String(INFLIGHT_MAX),
    asInteger(16, INFLIGHT_MAX),
    'Unfinished handshakes of redirected connects on the node; a pod may have a quarter. More are refused.',
  ),
  trustDomain: setting('NODEMESH_TRUST_DOMAIN', 'cluster.local', asText, 'identityTrustDomain.'),
  identityNamespace: setting(
    'NODEMESH_IDENTITY_NAMESPACE',
    'linkerd',
    asText,
    'identity.namespace: the part of identities after "identity."',
  ),
  anchorsFile: setting(
    'NODEMESH_TRUST_ANCHORS_FILE',
    undefined,
    asText,
    'Trust anchors, PEM; reloaded when it changes.',
  ),
  identityAddress: setting(
    'NODEMESH_IDENTITY_ADDRESS',
    undefined,
    asServerAddresses,
    'ip:port or name:port of the identity service, or several, dialled in turn until one answers; names of them are looked up when no address does.',
  ),
  identityName: setting(
    'NODEMESH_IDENTITY_NAME',
    undefined,
    asText,
    'TLS identity that the identity service must prove.',
  ),
  identityTokenFile: setting(
    'NODEMESH_IDENTITY_TOKEN_FILE',
    undefined,
    asText,
    'Token for Certify, audience identity.nodemesh.io/agent.',
  ),
  destinationAddress: setting(
    'NODEMESH_DESTINATION_ADDRESS',
    undefined,
    asServerAddresses,
    'ip:port or name:port of the destination service, or several, as with identity.',
  ),
  destinationName: setting(
    'NODEMESH_DESTINATION_NAME',
    undefined,
    asText,
    'TLS identity that the destination service must prove.',
  ),
  destinationTokenFile: setting(
    'NODEMESH_DESTINATION_TOKEN_FILE',
    undefined,
    asText,
    'Token for the node stream, audience destination.nodemesh.io/node.',
  ),
  linkerdDestinationAddress: setting(
    'NODEMESH_LINKERD_DESTINATION_ADDRESS',
    '',
    asText,
    "ip:port or name:port of a stock Linkerd's destination, which is then asked for endpoints and profiles; empty: our own is. All four of NODEMESH_LINKERD_* are set, or none.",
  ),
  linkerdDestinationName: setting(
    'NODEMESH_LINKERD_DESTINATION_NAME',
    '',
    asText,
    'TLS identity that it must prove.',
  ),
  linkerdPolicyAddress: setting(
    'NODEMESH_LINKERD_POLICY_ADDRESS',
    '',
    asText,
    "ip:port or name:port of the same Linkerd's policy service, which is then asked for outbound policies.",
  ),
  linkerdPolicyName: setting('NODEMESH_LINKERD_POLICY_NAME', '', asText, 'TLS identity that it must prove.'),
  metricsPort: setting(
    'NODEMESH_METRICS_PORT',
    '4191',
    asInteger(1, 65535),
    "Port of /metrics, /live and /ready on the node's address.",
  ),
  sameNode: setting(
    'NODEMESH_SAME_NODE',
    'memory',
    asOneOf('memory', 'carrier', 'mtls'),
    'How two meshed pods of this node speak: HTTP in memory, or over a connection without TLS (as TCP always does), or with mutual TLS.',
  ),
  drainGraceMs: setting(
    'NODEMESH_SHUTDOWN_GRACE',
    '120s',
    asDurationMs,
    'How long a stopping agent waits for connections to end.',
  ),
  selfCheckIntervalMs: setting(
    'NODEMESH_SELF_CHECK_INTERVAL',
    '60s',
    asDurationMs,
    'About how often the kernel is compared with what should be, and mended.',
  ),
  hostProc: setting(
    'NODEMESH_HOST_PROC',
    '/proc',
    asText,
    "A /proc that shows the node's processes: running pods that nobody announced are found there.",
  ),
  leaveGraceMs: setting(
    'NODEMESH_LEAVE_GRACE',
    '30s',
    asDurationMs,
    'How long at least a running pod that opted out serves its mesh port after it was withdrawn.',
  ),
  leaveLimitMs: setting(
    'NODEMESH_LEAVE_LIMIT',
    '120s',
    asDurationMs,
    'After this time what a pod that opted out still has open is cut.',
  ),
  failfastMs: setting('NODEMESH_FAILFAST', '3s', asDurationMs, 'How long a request waits for an endpoint.'),
  logLevel: setting('NODEMESH_LOG_LEVEL', 'info', asOneOf('error', 'warn', 'info', 'debug'), 'Log level.'),
} as const;

export type AgentConfig = ConfigOf<typeof agentSettings>;

export function loadAgentConfig(env: Readonly<Record<string, string | undefined>>): AgentConfig {
  const config = loadConfig(agentSettings, env);
  requireAllOrNone(config, [
    'linkerdDestinationAddress',
    'linkerdDestinationName',
    'linkerdPolicyAddress',
    'linkerdPolicyName',
  ]);
  return { ...config, keeperSocket: config.keeperSocket || join(config.runDir, 'keeper.sock') };
}

function requireAllOrNone(config: AgentConfig, keys: readonly (keyof AgentConfig)[]): void {
  const empty = keys.filter((key) => config[key] === '');
  if (empty.length === 0 || empty.length === keys.length) return;
  const named = (some: typeof keys): string => some.map((key) => agentSettings[key].env).join(', ');
  throw new MeshError('MESH_CONFIG_INVALID', `${named(empty)}: empty, while others of its kind are set`, {
    remedy: `set all of ${named(keys)}, or none to ask our own destination`,
  });
}
