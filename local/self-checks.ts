// SPDX-License-Identifier: Apache-2.0
// What the agents' self-checks have found, by node, as `mesh local status` shows it.

import { request } from 'node:http';
import { join } from 'node:path';
import { errorMessage } from '#lib/core/errors.ts';
import type { NodeLayout } from './layout.ts';

export interface NodeSelfCheck {
  readonly node: string;
  /** `unknown`: the agent does not answer, or has not checked yet. */
  readonly result: 'ok' | 'repaired' | 'failed' | 'unknown';
  /** ISO 8601; empty before the first check. */
  readonly checkedAt: string;
  /** Since the agent started. */
  readonly repairs: number;
  /** What could not be mended, for a pod with its name in front; of an unknown result the reason. */
  readonly problems: readonly string[];
}

/** The part of the agent's GET /state that is read here. */
export interface AgentState {
  readonly pods: readonly { readonly uid: string; readonly namespace: string; readonly name: string }[];
  readonly selfCheck: {
    readonly lastRunAtMs?: number;
    readonly node?: Outcome;
    readonly pods: Readonly<Record<string, Outcome>>;
    readonly repairs: Readonly<Record<string, number>>;
  };
}

interface Outcome {
  readonly result: 'ok' | 'repaired' | 'failed';
  readonly problems: readonly string[];
}

const ANSWER_MS = 2_000;
const ANSWER_BYTES_MAX = 16 * 1024 * 1024;

export function selfCheckOf(node: string, { pods, selfCheck }: AgentState): NodeSelfCheck {
  const repairs = Object.values(selfCheck.repairs).reduce((sum, count) => sum + count, 0);
  if (selfCheck.lastRunAtMs === undefined || selfCheck.node === undefined)
    return { node, result: 'unknown', checkedAt: '', repairs, problems: ['not checked yet'] };
  const nameOf = (uid: string): string => {
    const pod = pods.find((other) => other.uid === uid);
    return pod === undefined ? uid : `${pod.namespace}/${pod.name}`;
  };
  const problems = [
    ...selfCheck.node.problems,
    ...Object.entries(selfCheck.pods).flatMap(([uid, outcome]) =>
      outcome.problems.map((problem) => `${nameOf(uid)}: ${problem}`),
    ),
  ];
  const outcomes = [selfCheck.node, ...Object.values(selfCheck.pods)];
  const mended = outcomes.some(({ result }) => result === 'repaired');
  return {
    node,
    result: problems.length > 0 ? 'failed' : mended ? 'repaired' : 'ok',
    checkedAt: new Date(selfCheck.lastRunAtMs).toISOString(),
    repairs,
    problems,
  };
}

/** Asks every node's agent; one that is away holds up nobody. */
export function readSelfChecks(nodes: readonly NodeLayout[]): Promise<readonly NodeSelfCheck[]> {
  return Promise.all(
    nodes.map(async ({ name, runDir }): Promise<NodeSelfCheck> => {
      try {
        return selfCheckOf(name, JSON.parse(await getState(join(runDir, 'agent.sock'))) as AgentState);
      } catch (error) {
        const problems = [`the agent does not answer: ${errorMessage(error)}`];
        return { node: name, result: 'unknown', checkedAt: '', repairs: 0, problems };
      }
    }),
  );
}

function getState(socketPath: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(ANSWER_MS);
    const asked = request({ socketPath, path: '/state', agent: false, signal }, (response) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      response.on('data', (chunk: Buffer) => {
        chunks.push(chunk);
        bytes += chunk.length;
        if (bytes > ANSWER_BYTES_MAX) asked.destroy(new Error(`more than ${ANSWER_BYTES_MAX} bytes`));
      });
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        if (response.statusCode === 200) resolve(text);
        else reject(new Error(`status ${response.statusCode}`));
      });
      response.on('error', reject);
    });
    asked.on('error', reject);
    asked.end();
  });
}
