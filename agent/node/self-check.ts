// SPDX-License-Identifier: Apache-2.0
// Compares about once a minute what the kernel holds with what should be, for the node and for each pod, and keeps
// the outcome for metrics and the admin socket. What is compared and mended is the redirection's business; this file
// says when, a piece at a time so that the control thread is never held up, and tells those who must know.
// The kernel tells nobody that a program was detached or a record deleted, so a cheap glance each second looks for just
// that: a difference there is compared and mended at once.

import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { type CheckName, checkNames, type Difference, differenceOf } from './self-check-difference.ts';
import type { KernelRedirection, PodCheck } from './redirection.ts';
import type { TestConnects } from './test-connects.ts';

export interface CheckedPod {
  readonly uid: string;
  /** namespace/name */
  readonly name: string;
  /** Where the container runtime keeps its network namespace, if that is known. */
  readonly netnsPath: string | undefined;
}

export interface SelfCheckOptions {
  readonly redirection: Pick<KernelRedirection, 'checkNode' | 'checkInflight' | 'podChecks' | 'unsound'>;
  /** Connects from pods; what went wrong, by uid. */
  readonly testConnects: TestConnects;
  /** Puts new listeners in the place of a pod's dead ones; how many. Throws if it cannot. */
  readonly repairListeners: (uid: string) => number;
  /** Enrolled pods. */
  readonly pods: () => readonly CheckedPod[];
  /** A pod has a problem that could not be mended. */
  readonly failed: (uid: string, message: string) => void;
  /** It has none any more. */
  readonly recovered: (uid: string) => void;
  /** The inode of a path; undefined if there is nothing. */
  readonly inodeOf: (path: string) => bigint | undefined;
  readonly intervalMs: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface CheckOutcome {
  readonly checkedAtMs: number;
  readonly result: 'ok' | 'repaired' | 'failed';
  /** Since the agent started. */
  readonly repairs: number;
  /** What is wrong now and could not be mended, `<check>: <what>`. */
  readonly problems: readonly string[];
}

export interface SelfCheckState {
  readonly lastRunAtMs: number | undefined;
  readonly durationMs: number;
  /** The longest piece of the last run: for so long the control thread did nothing else. */
  readonly longestPieceMs: number;
  readonly node: CheckOutcome | undefined;
  readonly pods: ReadonlyMap<string, CheckOutcome>;
  readonly repairs: ReadonlyMap<CheckName, number>;
  /** Problems that stand, by check. */
  readonly failures: ReadonlyMap<CheckName, number>;
}

export interface SelfCheck {
  readonly state: SelfCheckState;
  /** A run from its beginning to its end, starting now or after the one under way. */
  run(): Promise<SelfCheckState>;
  /** No more writing to the kernel, once the piece under way has ended. */
  close(): void;
}

/** For so long at most, give or take a run, what passes by is not noticed. */
const GLANCE_MS = 1_000;
/** A piece that takes longer is worth a line in the log. */
const PIECE_WARN_MS = 50;
const NODE = '';

interface Subject {
  checkedAtMs: number;
  result: CheckOutcome['result'];
  repairs: number;
  problems: string[];
  failures: CheckName[];
}

export function createSelfCheck(options: SelfCheckOptions): SelfCheck {
  const { clock, random, log, redirection, intervalMs } = options;
  const subjects = new Map<string, Subject>();
  const repairs = new Map<CheckName, number>(checkNames.map((name) => [name, 0]));
  let lastRunAtMs: number | undefined;
  let durationMs = 0;
  let longestPieceMs = 0;
  let timer: Timer | undefined;
  let glancing: Timer | undefined;
  /** What the last run found unsound and left so. */
  let unmended = '';
  let running = false;
  /** Pods whose last test connection failed. */
  let astrayBefore: ReadonlySet<string> = new Set();
  let closed = false;
  let queue: Promise<unknown> = Promise.resolve();

  const isClosed = (): boolean => closed;

  const judge = (uid: string, name: string, found: readonly Difference[]): void => {
    const before = subjects.get(uid);
    const mended = found.filter(({ repaired }) => repaired);
    const left = found.filter(({ repaired }) => !repaired);
    for (const { check, message } of mended) {
      repairs.set(check, (repairs.get(check) ?? 0) + 1);
      log.warn({ ...nameOf(name), check, message }, 'the self-check found a difference and mended it');
    }
    const problems = left.map(({ check, message }) => `${check}: ${message}`);
    for (const { check, message } of left)
      if (before?.problems.includes(`${check}: ${message}`) !== true)
        log.error({ ...nameOf(name), check, message }, 'the self-check found what it cannot mend');
    subjects.set(uid, {
      checkedAtMs: clock.wallMs(),
      result: left.length > 0 ? 'failed' : mended.length > 0 ? 'repaired' : 'ok',
      repairs: (before?.repairs ?? 0) + mended.length,
      problems,
      failures: left.map(({ check }) => check),
    });
    if (uid === NODE || problems.join() === (before?.problems ?? []).join()) return;
    if (problems.length > 0) options.failed(uid, problems.join('; '));
    else options.recovered(uid);
  };

  /** One piece of the run; whatever it throws is a problem of that subject, not the end of the run. */
  const piece = async <T>(what: string, fallback: T, look: () => T): Promise<T> => {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    if (isClosed()) return fallback;
    const startMs = clock.nowMs();
    try {
      return look();
    } catch (error) {
      log.error({ what, error: errorMessage(error) }, 'a self-check could not be made');
      return fallback;
    } finally {
      const tookMs = clock.nowMs() - startMs;
      longestPieceMs = Math.max(longestPieceMs, tookMs);
      if (tookMs > PIECE_WARN_MS) log.warn({ what, tookMs }, 'a piece of the self-check took long');
    }
  };

  const replaceListeners = (uid: string): Difference[] =>
    differenceOf('pod-listeners', () => {
      const replaced = options.repairListeners(uid);
      return replaced === 0 ? undefined : `${replaced} of its listeners did not listen any more`;
    });

  /** After all that can be mended is. Once may be chance (a pod that is starting or busy): only twice running counts. */
  const connectFrom = async (checks: readonly PodCheck[]): Promise<ReadonlyMap<string, Difference[]>> => {
    const pods = await piece('test connections', [], () =>
      checks.flatMap(({ uid, testable }) => {
        const how = testable();
        return how === undefined ? [] : [{ uid, ...how }];
      }),
    );
    const before = astrayBefore;
    const now =
      isClosed() || pods.length === 0 ? new Map<string, string>() : await options.testConnects(pods);
    astrayBefore = new Set(now.keys());
    return new Map(
      [...now]
        .filter(([uid]) => before.has(uid))
        .map(([uid, error]) => [
          uid,
          [
            {
              check: 'pod-connect',
              repaired: false,
              message: `a test connection from the pod does not come to the agent: ${error}`,
            },
          ],
        ]),
    );
  };

  const runOnce = async (): Promise<void> => {
    if (isClosed()) return;
    running = true;
    const startMs = clock.nowMs();
    longestPieceMs = 0;
    const found = [...(await piece('node', [], () => redirection.checkNode()))];
    const inflight = redirection.checkInflight();
    for (let more = true; more && !isClosed(); ) {
      const step = await piece('inflight', undefined, () => inflight.next());
      if (step === undefined) more = false;
      else if (step.done === true) {
        found.push(...step.value);
        more = false;
      }
    }
    if (isClosed()) return;
    judge(NODE, '', found);
    const pods = new Map(options.pods().map((pod) => [pod.uid, pod]));
    const checks = await piece('pods', [], () => redirection.podChecks());
    const judged: { uid: string; name: string; differences: Difference[] }[] = [];
    for (const { uid, inode, check } of checks) {
      const pod = pods.get(uid);
      if (pod === undefined) continue;
      const differences = await piece(pod.name, [], () => {
        const there = pod.netnsPath === undefined ? undefined : options.inodeOf(pod.netnsPath);
        /** Nothing there: the pod is on its way out, and CNI DEL or GC will say so. */
        if (there === undefined || there === inode()) return [...replaceListeners(uid), ...check()];
        const message = `${pod.netnsPath} leads to another network namespace than the one that was enrolled`;
        return [{ check: 'pod-namespace' as const, repaired: false, message }];
      });
      judged.push({ uid, name: pod.name, differences });
    }
    const astray = await connectFrom(checks.filter(({ uid }) => pods.has(uid)));
    /** Some may have left meanwhile: nobody wants to hear of them. */
    const present = new Set(options.pods().map(({ uid }) => uid));
    for (const { uid, name, differences } of judged)
      if (!isClosed() && present.has(uid)) judge(uid, name, [...differences, ...(astray.get(uid) ?? [])]);
    for (const uid of subjects.keys()) if (uid !== NODE && !present.has(uid)) subjects.delete(uid);
    lastRunAtMs = clock.wallMs();
    durationMs = clock.nowMs() - startMs;
  };

  const schedule = (): void => {
    timer?.cancel();
    if (isClosed()) return;
    timer = clock.after(intervalMs * (0.8 + 0.4 * random()), () => void run());
  };

  const glance = (): void => {
    try {
      const wrong = running ? '' : unsound();
      if (wrong !== '' && wrong !== unmended) void run();
    } catch (error) {
      log.error({ error: errorMessage(error) }, 'the glance at the kernel failed');
    }
    if (!isClosed()) glancing = clock.after(GLANCE_MS, glance);
  };
  const unsound = (): string => JSON.stringify(redirection.unsound()).replace('[]', '');

  const run = async (): Promise<SelfCheckState> => {
    const turn = queue.then(runOnce).finally(() => {
      running = false;
      unmended = isClosed() ? '' : unsound();
    });
    queue = turn.catch((error: unknown) =>
      log.error({ error: errorMessage(error) }, 'the self-check ended before its end'),
    );
    await queue;
    schedule();
    return state();
  };

  const outcome = ({ checkedAtMs, result, repairs: count, problems }: Subject): CheckOutcome => ({
    checkedAtMs,
    result,
    repairs: count,
    problems,
  });

  const state = (): SelfCheckState => {
    const node = subjects.get(NODE);
    const failures = new Map<CheckName, number>(checkNames.map((name) => [name, 0]));
    for (const subject of subjects.values())
      for (const check of subject.failures) failures.set(check, (failures.get(check) ?? 0) + 1);
    return {
      lastRunAtMs,
      durationMs,
      longestPieceMs,
      node: node === undefined ? undefined : outcome(node),
      pods: new Map(
        [...subjects].filter(([uid]) => uid !== NODE).map(([uid, subject]) => [uid, outcome(subject)]),
      ),
      repairs,
      failures,
    };
  };

  schedule();
  glancing = clock.after(GLANCE_MS, glance);
  return {
    get state() {
      return state();
    },
    run,
    close() {
      closed = true;
      timer?.cancel();
      glancing?.cancel();
    },
  };
}

const nameOf = (name: string): { pod?: string } => (name === '' ? {} : { pod: name });
