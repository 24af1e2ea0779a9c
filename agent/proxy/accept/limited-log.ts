// SPDX-License-Identifier: Apache-2.0
// A log that a client cannot flood: of each message only so many lines in a while, then a count of what was left out.

import type { Clock } from '#lib/core/clock.ts';
import type { Log, LogFields } from '#lib/core/log.ts';

const WINDOW_MS = 10_000;
const LINES_PER_WINDOW = 20;

interface Window {
  startMs: number;
  lines: number;
  leftOut: number;
}

export function limitLog(log: Log, clock: Clock): Log {
  return limited(log, clock, new Map());
}

function limited(log: Log, clock: Clock, windows: Map<string, Window>): Log {
  const at =
    (level: 'error' | 'warn' | 'info' | 'debug') =>
    (fields: LogFields, message: string): void => {
      const now = clock.nowMs();
      let window = windows.get(message);
      if (window === undefined) {
        window = { startMs: now, lines: 0, leftOut: 0 };
        windows.set(message, window);
      }
      if (now - window.startMs >= WINDOW_MS) {
        const { leftOut } = window;
        window.startMs = now;
        window.lines = 0;
        window.leftOut = 0;
        if (leftOut > 0) log[level]({ ...fields, leftOut }, message);
        else log[level](fields, message);
        window.lines++;
        return;
      }
      if (window.lines++ < LINES_PER_WINDOW) log[level](fields, message);
      else window.leftOut++;
    };
  return {
    error: at('error'),
    warn: at('warn'),
    info: at('info'),
    debug: (fields, message) => log.debug(fields, message),
    child: (fields) => limited(log.child(fields), clock, windows),
  };
}
