// SPDX-License-Identifier: Apache-2.0
// Durations and counts of the fault tests: short in `make test`, full in `make soak` (NODEMESH_SOAK=1).

const soak = process.env['NODEMESH_SOAK'] === '1';
const pick = <T>(short: T, full: T): T => (soak ? full : short);

export const scale = {
  soak,
  certificates: {
    /** How long a leaf certificate lives, and how long the load runs. */
    lifetimeMs: 30_000,
    loadMs: pick(60_000, 300_000),
  },
  controlPlane: {
    lifetimeMs: pick(100_000, 600_000),
    /** From "ready" until identity goes: a little before the first renewals. */
    nearRenewalMs: pick(58_000, 370_000),
    identityAwayMs: pick(20_000, 120_000),
    destinationAwayMs: pick(20_000, 300_000),
  },
  optInOut: { cycles: pick(5, 50) },
  /** How often each process is killed, and each worker hurt. */
  kills: pick(3, 20),
  upgrades: pick(1, 7),
  /** On a cluster: how often each replica of the control plane dies, and for how long the API server is away. */
  clusterKills: pick(1, 10),
  apiServerAwayMs: pick(15_000, 120_000),
  /** Each part of the control plane, while agents on a cluster serve. */
  clusterAwayMs: pick(60_000, 300_000),
  rollout: { rolls: pick(2, 30) },
  mixed: {
    workerFaults: pick(['throw'], ['throw', 'heap', 'spin']),
    slowHellos: pick(1_000, 5_000),
  },
  churn: { pods: pick(60, 1000), atOnce: pick(10, 20) },
} as const;
