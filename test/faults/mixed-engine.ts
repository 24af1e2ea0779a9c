// SPDX-License-Identifier: Apache-2.0
// Many connections of mixed protocols that are held open, each asked a nonce now and then: what came of it, each
// protocol apart. A connection that is lost is opened anew, and the loss is written down. Runs in a pod
// (programs/mixed-client.ts) or in a test. For a fixed rate of requests see load-engine.ts.

import { randomBytes } from 'node:crypto';
import { type MixedKind, mixedKinds, type MixedTarget, openTalk, type Talk } from './mixed-talks.ts';

export interface MixedOptions extends MixedTarget {
  /** Of each kind. */
  readonly connections: Readonly<Partial<Record<MixedKind, number>>>;
  /** Each connection asks so often. */
  readonly periodMs: number;
  /** All are opened within this time. */
  readonly rampMs: number;
  readonly timeoutMs: number;
}

export type LossKind =
  | 'timeout'
  | 'bad-answer'
  | 'wrong-nonce'
  | 'ended-idle'
  | 'ended-asked'
  /** Provably not looked at; asked again on another connection. */
  | 'refused';

export interface Loss {
  readonly connection: MixedKind;
  readonly kind: LossKind;
  readonly detail: string;
  readonly askedMs: number;
  readonly atMs: number;
  /** Answers on this very connection before. */
  readonly served: number;
}

export interface MixedStatus {
  /** Connections that are open and were answered. */
  readonly open: number;
  readonly wanted: number;
  /** Of the slot whose last answer is the oldest. */
  readonly oldestAnswerMs: number;
  readonly losses: number;
}

export interface MixedReport extends MixedStatus {
  readonly answered: Readonly<Record<MixedKind, number>>;
  /** Ends that the other side announced and that cost nothing. */
  readonly politeEnds: Readonly<Record<MixedKind, number>>;
  readonly openMax: number;
  readonly lost: readonly Loss[];
  readonly latencyMaxMs: number;
}

const LOSSES_KEPT = 10_000;
const AGAIN_MS = 200;
const zeros = (): Record<MixedKind, number> =>
  Object.fromEntries(mixedKinds.map((kind) => [kind, 0])) as Record<MixedKind, number>;

export interface MixedEngine {
  status(): MixedStatus;
  stop(): MixedReport;
}

export function startMixed(options: MixedOptions): MixedEngine {
  const answered = zeros();
  const politeEnds = zeros();
  const lost: Loss[] = [];
  const slots: Slot[] = [];
  let [losses, latencyMaxMs, openMax, open] = [0, 0, 0, 0];
  let stopping = false;

  class Slot {
    readonly #kind: MixedKind;
    lastAnswerMs = 0;
    #talk: Talk | undefined;
    #served = 0;
    #nonce: string | undefined;
    #askedMs = 0;
    #timer: NodeJS.Timeout | undefined;

    constructor(kind: MixedKind, startMs: number) {
      this.#kind = kind;
      this.#timer = setTimeout(() => this.#ask(), startMs);
    }

    stop(): void {
      clearTimeout(this.#timer);
      this.#talk?.close();
    }

    #ask(): void {
      if (this.#talk !== undefined && this.#kind === 'http1-new') this.#close();
      this.#nonce = randomBytes(8).toString('hex');
      this.#askedMs = Date.now();
      clearTimeout(this.#timer);
      this.#timer = setTimeout(
        () => this.#lose('timeout', `after ${options.timeoutMs} ms`),
        options.timeoutMs,
      );
      this.#talk ??= this.#open();
      if (this.#talk.ask(this.#nonce)) return;
      this.#closePolitely();
      this.#talk = this.#open();
      this.#talk.ask(this.#nonce);
    }

    #open(): Talk {
      this.#served = 0;
      return openTalk(this.#kind, options, {
        answer: (text) => this.#answered(text),
        bad: (detail) => this.#lose('bad-answer', detail),
        end: (how, polite, again) => this.#ended(how, polite, again === true),
      });
    }

    #answered(text: string): void {
      if (text !== this.#nonce) {
        this.#lose('wrong-nonce', `${text.slice(0, 40)} instead of ${this.#nonce ?? 'nothing'}`);
        return;
      }
      this.#nonce = undefined;
      this.lastAnswerMs = Date.now();
      latencyMaxMs = Math.max(latencyMaxMs, this.lastAnswerMs - this.#askedMs);
      answered[this.#kind]++;
      if (this.#served++ === 0) openMax = Math.max(openMax, ++open);
      this.#next(options.periodMs * (0.75 + Math.random() / 2));
    }

    #ended(how: string, polite: boolean, again: boolean): void {
      const asked = this.#nonce !== undefined;
      if (asked && !again) return this.#lose('ended-asked', how);
      if (!polite) return this.#lose('ended-idle', how);
      if (asked) return this.#lose('refused', how);
      this.#closePolitely();
      this.#next(AGAIN_MS);
    }

    #lose(kind: LossKind, detail: string): void {
      losses++;
      const loss: Loss = {
        connection: this.#kind,
        kind,
        detail,
        askedMs: this.#askedMs,
        atMs: Date.now(),
        served: this.#served,
      };
      if (lost.length < LOSSES_KEPT) lost.push(loss);
      this.#close();
      this.#next(AGAIN_MS);
    }

    #closePolitely(): void {
      const nonce = this.#nonce;
      politeEnds[this.#kind]++;
      this.#close();
      this.#nonce = nonce;
    }

    #close(): void {
      this.#talk?.close();
      this.#talk = undefined;
      this.#nonce = undefined;
      if (this.#served > 0) open--;
      this.#served = 0;
    }

    #next(inMs: number): void {
      clearTimeout(this.#timer);
      if (!stopping) this.#timer = setTimeout(() => this.#ask(), inMs);
    }
  }

  const kinds = mixedKinds.flatMap((kind) =>
    Array.from({ length: options.connections[kind] ?? 0 }, (_, index) => ({ kind, index })),
  );
  // Of each kind one after the other, so that none waits until the others are there.
  kinds.sort((left, right) => left.index - right.index);
  kinds.forEach(({ kind }, index) =>
    slots.push(new Slot(kind, (options.rampMs * index) / Math.max(1, kinds.length))),
  );
  const status = (): MixedStatus => ({
    open,
    wanted: slots.length,
    oldestAnswerMs: slots.reduce((oldest, { lastAnswerMs }) => Math.min(oldest, lastAnswerMs), Infinity),
    losses,
  });
  return {
    status,
    stop() {
      stopping = true;
      const last = status();
      for (const slot of slots) slot.stop();
      return { ...last, answered, politeEnds, openMax, lost, latencyMaxMs };
    },
  };
}
