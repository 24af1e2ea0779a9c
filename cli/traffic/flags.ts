// SPDX-License-Identifier: Apache-2.0
// What the flags of `mesh stat` and `mesh edges` ask for. What contradicts itself is refused before the cluster is
// reached, in Linkerd's words, with what to do.

import type { Workloads } from '#lib/traffic-queries/traffic-queries.ts';
import { asDurationMs } from '#lib/core/config.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { Refusal } from '../install/refusal.ts';
import { isNamespace, isService, parsePair, parseTargets, type TrafficKind } from './kinds.ts';
import type { Prometheus } from './prometheus.ts';
import type { StatRequest } from './stat.ts';

export interface TrafficFlags {
  readonly linkerdNamespace: string;
  readonly kubeconfig?: string | undefined;
  readonly context?: string | undefined;
  readonly as?: string | undefined;
  readonly asGroup?: readonly string[] | undefined;
  readonly resources: readonly string[];
  readonly namespace?: string | undefined;
  readonly allNamespaces: boolean;
  readonly output: string;
  readonly prometheusUrl?: string | undefined;
}

export interface StatFlags extends TrafficFlags {
  readonly timeWindow: string;
  readonly to?: string | undefined;
  readonly toNamespace?: string | undefined;
  readonly from?: string | undefined;
  readonly fromNamespace?: string | undefined;
  readonly selector?: string | undefined;
  readonly unmeshed: boolean;
}

const outputs = ['table', 'wide', 'json'] as const;
export type TrafficOutput = (typeof outputs)[number];

const WINDOW_MS_MIN = 15_000;

export function outputOf(text: string): TrafficOutput {
  const output = outputs.find((one) => one === text);
  if (output === undefined)
    throw new Refusal(`--output currently only supports table, json and wide, not ${text}`);
  return output;
}

/** Complete but for the namespace, which the kubeconfig names if no flag does. */
export interface Question<Request> {
  in(contextNamespace: string): Request;
}

export function statQuestion(
  flags: StatFlags,
): Question<Omit<StatRequest, 'bytes'>> & { readonly windowMs: number } {
  const { to, from, toNamespace, fromNamespace, allNamespaces } = flags;
  const targets = parseTargets(flags.resources);
  const names = targets.some((target) => target.names.length > 0);
  const windowMs = windowMsOf(flags.timeWindow);
  refuseIf(allNamespaces && flags.namespace !== undefined, ALL_OR_ONE);
  refuseIf(
    allNamespaces && names,
    'stats for a resource cannot be retrieved by name across all namespaces; leave out --all-namespaces or the name',
  );
  refuseIf(
    to !== undefined && from !== undefined,
    '--to and --from flags are mutually exclusive; leave one of them out',
  );
  refuseIf(
    toNamespace !== undefined && fromNamespace !== undefined,
    '--to-namespace and --from-namespace flags are mutually exclusive; leave one of them out',
  );
  refuseIf(toNamespace !== undefined && to === undefined, '--to-namespace says where --to is; add --to');
  refuseIf(
    fromNamespace !== undefined && from === undefined,
    '--from-namespace says where --from is; add --from',
  );
  if (targets.some(({ kind }) => isNamespace(kind))) {
    for (const flag of ['namespace', 'toNamespace', 'fromNamespace'] as const) {
      refuseIf(
        flags[flag] !== undefined,
        `--${kebab(flag)} flag is incompatible with namespace resource type; leave it out`,
      );
    }
  }
  const other = otherOf(to, '--to') ?? otherOf(from, '--from');
  refuseIf(
    targets.some(({ kind }) => isService(kind)) && other !== undefined,
    "service is not supported as a target on 'from' queries, or as a target with 'to' queries; name a workload, with --to svc/NAME for what it sends to a service",
  );
  refuseIf(
    from !== undefined && other?.kind.name === 'service',
    'service is not supported by --from: a service sends nothing; name a workload',
  );
  return {
    windowMs,
    in(contextNamespace) {
      const namespace = allNamespaces ? undefined : (flags.namespace ?? contextNamespace);
      const across = targets.some(({ kind }) => isNamespace(kind));
      // Of a target that is everywhere, so is what it talks to.
      const own = toNamespace ?? fromNamespace ?? (across ? undefined : namespace);
      const workloads: Workloads | undefined = other && {
        label: other.kind.label,
        names: other.names,
        namespace: own,
      };
      return {
        targets,
        namespace,
        selector: flags.selector,
        to: to === undefined ? undefined : workloads,
        from: from === undefined ? undefined : workloads,
        windowMs,
        unmeshed: flags.unmeshed,
      };
    },
  };
}

export function edgesQuestion(
  flags: TrafficFlags,
): Question<{ readonly kind: TrafficKind; readonly namespace: string | undefined }> {
  refuseIf(flags.allNamespaces && flags.namespace !== undefined, ALL_OR_ONE);
  const targets = parseTargets(flags.resources);
  const [target, ...others] = targets;
  const named = targets.flatMap(({ names }) => names);
  refuseIf(
    named.length > 0,
    `Edges cannot be returned for a specific resource name; remove ${named.join(' ')} from query`,
  );
  const refused = others.length > 0 ? 'all' : target !== undefined && isService(target.kind) ? 'service' : '';
  if (target === undefined || refused !== '')
    throw new Refusal(
      `Resource type is not supported: ${refused}; name one type of workload, such as deploy`,
    );
  return {
    in: (contextNamespace) => ({
      kind: target.kind,
      namespace: flags.allNamespaces
        ? undefined
        : (flags.namespace ?? namespaceOf(target.kind, contextNamespace)),
    }),
  };
}

/** Namespaces are in none. */
const namespaceOf = (kind: TrafficKind, contextNamespace: string): string | undefined =>
  isNamespace(kind) ? undefined : contextNamespace;

/** An increase needs values from within the window. */
export async function checkInterval(windowMs: number, prometheus: Prometheus): Promise<void> {
  const intervalMs = (await prometheus.scrapeIntervalMs()) ?? 0;
  refuseIf(
    windowMs < intervalMs,
    `invalid time window: time window (${windowMs / 1000}s) must be at least as long as the Prometheus scrape interval (${intervalMs / 1000}s); give a longer --time-window`,
  );
}

const ALL_OR_ONE = '--all-namespaces and --namespace flags are mutually exclusive; leave one of them out';

function windowMsOf(text: string): number {
  let windowMs: number;
  try {
    windowMs = asDurationMs(text);
  } catch (error) {
    throw new Refusal(`--time-window ${text}: ${errorMessage(error)}`);
  }
  refuseIf(
    windowMs < WINDOW_MS_MIN,
    `metrics time window needs to be at least 15s; give a longer --time-window than ${text}`,
  );
  return windowMs;
}

function otherOf(text: string | undefined, flag: string) {
  if (text === undefined) return undefined;
  refuseIf(text === 'all', `resource type 'all' is not supported as a filter; give ${flag} one type`);
  return parsePair(text);
}

const kebab = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

function refuseIf(condition: boolean, message: string): void {
  if (condition) throw new Refusal(message);
}
