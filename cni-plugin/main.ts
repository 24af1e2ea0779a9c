// SPDX-License-Identifier: Apache-2.0
// The CNI plugin without its C shim: `node cni-plugin/main.ts` reads the CNI environment and stdin, asks the agent
// over the same socket and answers alone when the agent is away. For debugging and for machines without a
// compiler; the shim starts some fifty times faster.

import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { errorMessage } from '#lib/core/errors.ts';
import { answerAlone, isListed } from './logic/alone.ts';
import {
  type CniConfig,
  type CniRequest,
  isExcluded,
  parseCommand,
  parseConfig,
  passedResult,
  podArguments,
  spokenVersion,
  supportedVersions,
} from './logic/call.ts';
import { type CniAnswer, CniError, cniCode, errorAnswer, success } from './logic/errors.ts';
import { decodeReply, encodeRequest, FrameReader, REPLY_BYTES_MAX } from './logic/frame.ts';

const CONNECT_MS = 2000;
const CONNECT_RETRY_MS = 50;

/** The agent's answer; undefined if it cannot be had. */
function ask(config: CniConfig, request: CniRequest): Promise<CniAnswer | undefined> {
  return new Promise((resolve) => {
    const reader = new FrameReader(REPLY_BYTES_MAX);
    const socket = connect(config.socket);
    const end = (answer: CniAnswer | undefined): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(config.deadlineMs, () => end(undefined));
    socket.on('connect', () => socket.write(encodeRequest(request)));
    socket.on('error', () => end(undefined));
    socket.on('close', () => end(undefined));
    socket.on('data', (chunk: Buffer) => {
      const step = reader.push(chunk);
      if (step.state === 'more') return;
      end(step.state === 'done' && step.payload.length >= 4 ? decodeReply(step.payload) : undefined);
    });
  });
}

async function run(request: CniRequest): Promise<CniAnswer> {
  const command = parseCommand(request.env);
  if (command === 'VERSION') {
    const answer = { cniVersion: spokenVersion(request.stdin), supportedVersions };
    return { code: 0, stdout: `${JSON.stringify(answer)}\n` };
  }
  const config = parseConfig(request.stdin);
  if (isExcluded(config, podArguments(request.env).namespace)) {
    if (command === 'ADD') return { code: 0, stdout: passedResult(config) };
    if (command === 'DEL' || command === 'CHECK') return success;
  }
  // Worth waiting for an agent that restarts only where the answer without it is a failure.
  const patient = command === 'STATUS' || (command === 'ADD' && isListed(config, request));
  const giveUp = performance.now() + Math.min(CONNECT_MS, config.deadlineMs);
  for (;;) {
    const answer = await ask(config, request);
    if (answer !== undefined) return answer;
    if (!patient || performance.now() + CONNECT_RETRY_MS > giveUp) return answerAlone(config, request);
    await new Promise((resolve) => setTimeout(resolve, CONNECT_RETRY_MS));
  }
}

const env = new Map<string, string>();
for (const [key, value] of Object.entries(process.env)) {
  if (key.startsWith('CNI_') && value !== undefined) env.set(key, value);
}
let stdin = '';
let answer: CniAnswer;
try {
  stdin = readFileSync(0, 'utf8');
  answer = await run({ env, stdin });
} catch (error) {
  const code = error instanceof CniError ? error.cniCode : cniCode.io;
  answer = errorAnswer(code, errorMessage(error), spokenVersion(stdin));
}
process.stdout.write(answer.stdout);
process.exitCode = answer.code;
