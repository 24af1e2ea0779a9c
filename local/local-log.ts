// SPDX-License-Identifier: Apache-2.0
// The daemon's log: one line per event into a file of the mesh, warnings to the user as well. The file exists only
// while the mesh does.

import { appendFileSync } from 'node:fs';
import type { Log, LogFields, LogLine } from '#lib/core/log.ts';

const LEVELS = ['error', 'warn', 'info', 'debug'] as const;

export interface LocalLog extends Log {
  /** From now on lines go to this file; undefined ends that. */
  writeTo(file: string | undefined): void;
}

export function createLocalLog(level: string, tellUser: (line: string) => void): LocalLog {
  let file: string | undefined;
  const shown = Math.max(
    0,
    LEVELS.findIndex((known) => known === level),
  );
  const at =
    (severity: LogLine['level'], base: LogFields) =>
    (fields: LogFields, message: string): void => {
      if (LEVELS.indexOf(severity) > shown) return;
      const all = { ...base, ...fields };
      if (file !== undefined) {
        appendFileSync(
          file,
          `${JSON.stringify({ time: new Date().toISOString(), level: severity, ...all, message })}\n`,
          {
            mode: 0o600,
          },
        );
      }
      if (severity === 'error' || severity === 'warn') {
        const details = Object.entries(all).map(([key, value]) => `${key}=${String(value)}`);
        tellUser(`${severity}: ${[message, ...details].join(' ')}`);
      }
    };
  const make = (base: LogFields): Log => ({
    error: at('error', base),
    warn: at('warn', base),
    info: at('info', base),
    debug: at('debug', base),
    child: (fields) => make({ ...base, ...fields }),
  });
  return { ...make({}), writeTo: (path) => (file = path) };
}
