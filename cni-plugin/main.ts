// SPDX-License-Identifier: Apache-2.0
// The CNI plugin without its C shim: `node cni-plugin/main.ts` reads the CNI environment and stdin, asks the agent
// over the same socket and answers alone when the agent is away. For debugging and for machines without a
// compiler; the shim starts some fifty times faster.

import { statSync } from 'node:fs';
import { connect } from 'node:net';
import { answerAlone, heldBack } from './logic/alone.ts';
import {
  type CniConfig,
  type CniRequest,
  decodeConfig,
  isExcluded,
  parseCommand,
  parseConfig,
  passedResult,
  podArguments,
  requireContainerId,
  requireIfname,
  requireNetns,
  requirePrevResult,
  spokenVersion,
  supportedVersions,
} from './logic/call.ts';
import { answerOf, type CniAnswer, CniError, cniCode, success } from './logic/errors.ts';
import { decodeReply, encodeRequest, FrameReader, REPLY_BYTES_MAX } from './logic/frame.ts';

const CONNECT_MS = 2000;
const CONNECT_RETRY_MS = 50;
const STDIN_BYTES_MAX = 1 << 20;

/** The agent's answer, or why there is none. */
type Asked = { readonly answer: CniAnswer } | { readonly away: string; readonly final: boolean };

const absent: Asked = { away: 'the agent of this node cannot be reached', final: false };
const garbled: Asked = { away: 'the agent of this node gave no usable answer', final: true };

function ask(config: CniConfig, request: CniRequest): Promise<Asked> {
  return new Promise((resolve) => {
    const reader = new FrameReader(REPLY_BYTES_MAX);
    const socket = connect(config.socket);
    let connected = false;
    const end = (asked: Asked): void => {
      socket.destroy();
      resolve(asked);
    };
    const late = `the agent of this node gave no answer within ${config.deadlineMs} ms`;
    const timer = setTimeout(() => end({ away: late, final: true }), config.deadlineMs);
    socket.on('connect', () => {
      connected = true;
      // Whoever made the socket; the shim asks the kernel who listens.
      const uid = statSync(config.socket, { throwIfNoEntry: false })?.uid;
      if (uid === undefined) end(absent);
      else if (uid === 0) socket.write(encodeRequest(request));
      else end({ away: `the agent's socket belongs to another user (${uid})`, final: true });
    });
    socket.on('error', () => end(connected ? garbled : absent));
    socket.on('close', () => {
      clearTimeout(timer);
      end(garbled);
    });
    socket.on('data', (chunk: Buffer) => {
      const step = reader.push(chunk);
      if (step.state !== 'more') end(step.state === 'done' ? answerFrom(step.payload) : garbled);
    });
  });
}

function answerFrom(payload: Buffer): Asked {
  try {
    const answer = decodeReply(payload);
    if (answer.code !== 0) decodeConfig(answer.stdout);
    return { answer };
  } catch {
    return garbled; // why is all the same to the caller
  }
}

async function run(request: CniRequest): Promise<CniAnswer> {
  const command = parseCommand(request.env);
  if (command === 'VERSION') {
    const answer = { cniVersion: spokenVersion(request.stdin), supportedVersions };
    return { code: 0, stdout: `${JSON.stringify(answer)}\n` };
  }
  const config = parseConfig(request.stdin, command);
  if (command === 'ADD' || command === 'CHECK' || command === 'DEL') requireContainerId(request.env);
  if (command === 'ADD' || command === 'CHECK') {
    requireNetns(request.env);
    requireIfname(request.env);
    requirePrevResult(config);
  }
  if (isExcluded(config, podArguments(request.env).namespace)) {
    if (command === 'ADD') return { code: 0, stdout: passedResult(request.stdin) };
    if (command === 'DEL' || command === 'CHECK') return success;
  }
  // Worth waiting for an agent that restarts only where the answer without it is a failure.
  const patient = command === 'STATUS' || (command === 'ADD' && heldBack(config, request) !== undefined);
  const giveUp = performance.now() + Math.min(CONNECT_MS, config.deadlineMs);
  for (;;) {
    const asked = await ask(config, request);
    if ('answer' in asked) {
      const added = command === 'ADD' && asked.answer.code === 0;
      return added ? { code: 0, stdout: passedResult(request.stdin) } : asked.answer;
    }
    if (asked.final || !patient || performance.now() + CONNECT_RETRY_MS > giveUp) {
      return answerAlone(config, request, asked.away);
    }
    await new Promise((resolve) => setTimeout(resolve, CONNECT_RETRY_MS));
  }
}

const env = new Map<string, string>();
for (const [key, value] of Object.entries(process.env)) {
  if (key.startsWith('CNI_') && value !== undefined) env.set(key, value);
}
/** Not by readFileSync: a runtime's pipe may be non-blocking, and that fails where it would wait. */
async function readStdin(): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > STDIN_BYTES_MAX) {
      throw new CniError(cniCode.decode, 'the network configuration is longer than 1 MiB');
    }
  }
  return Buffer.concat(chunks).toString();
}

let stdin = '';
let answer: CniAnswer;
try {
  stdin = await readStdin();
  answer = await run({ env, stdin });
} catch (error) {
  answer = answerOf(error, spokenVersion(stdin), cniCode.io);
}
process.stdout.write(answer.stdout);
process.exitCode = answer.code;
