// SPDX-License-Identifier: Apache-2.0
// The logger of the programs: JSON lines on stdout through pino, flushed when the process ends.

import { destination, pino } from 'pino';
import type { Log } from '#lib/core/log.ts';

/** A logger for `component`; `level` as pino names them (error, warn, info, debug). */
export function createLog(component: string, level: string): Log {
  const sink = destination({ fd: 1, sync: true });
  return pino({ base: { component }, level, timestamp: pino.stdTimeFunctions.isoTime }, sink);
}
