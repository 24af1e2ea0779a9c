// SPDX-License-Identifier: Apache-2.0
// What the parts need of a logger. Entry points pass a pino logger (lib/log/pino.ts), tests `silentLog` or
// a recording one. Fields are camelCase; messages are fixed texts, what varies goes into fields.

export type LogFields = Readonly<Record<string, unknown>>;

export interface Log {
  error(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  debug(fields: LogFields, message: string): void;
  child(fields: LogFields): Log;
}

export const silentLog: Log = {
  error: () => undefined,
  warn: () => undefined,
  info: () => undefined,
  debug: () => undefined,
  child: () => silentLog,
};

export interface LogLine {
  readonly level: 'error' | 'warn' | 'info' | 'debug';
  readonly message: string;
  readonly fields: LogFields;
}

/** A log that keeps its lines, for tests that check what an operator is told. */
export function recordingLog(
  lines: LogLine[] = [],
  base: LogFields = {},
): Log & { readonly lines: LogLine[] } {
  const at = (level: LogLine['level']) => (fields: LogFields, message: string) => {
    lines.push({ level, message, fields: { ...base, ...fields } });
  };
  return {
    lines,
    error: at('error'),
    warn: at('warn'),
    info: at('info'),
    debug: at('debug'),
    child: (fields) => recordingLog(lines, { ...base, ...fields }),
  };
}
