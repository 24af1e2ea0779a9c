// SPDX-License-Identifier: Apache-2.0
// The agent's CNI socket: one call per connection, framed as frame.ts says. Garbage, silence and crowds get a
// clear answer or a close, never a crash. It is a door for root only: 0600 in a 0700 folder, peer uid checked.

import { chmodSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { type Clock, systemClock, type Timer } from '#lib/core/clock.ts';
import { errnoName, errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { peerUid as kernelPeerUid } from '#lib/net/peer-uid.ts';
import { type CniRequest, isContainerId } from './call.ts';
import { type CniAnswer, cniCode, errorAnswer } from './errors.ts';
import { decodeRequest, encodeReply, FrameReader, REQUEST_BYTES_MAX } from './frame.ts';
import { handleCni } from './handle.ts';
import type { CniNode } from './node.ts';
import { removeTombstone, takeTombstones } from './tombstones.ts';

export interface CniServerOptions {
  readonly clock?: Clock;
  /** Where the shim leaves notes of removals while the agent is away; taken once listening and every 30 s. */
  readonly tombstones?: string;
  /** The uid on the other side; SO_PEERCRED unless a test says otherwise. */
  readonly peerUid?: (socket: Socket) => number | undefined;
  readonly concurrentMax?: number;
  /** How long a caller may take to send its request. */
  readonly requestMs?: number;
  /** How long the node may take with a call; below the shim's own 30 s. */
  readonly answerMs?: number;
}

export interface CniServer {
  /** Stops listening and ends when the calls under way are answered. */
  close(): Promise<void>;
}

const TOMBSTONES_EVERY_MS = 30_000;

export async function serveCni(
  socketPath: string,
  node: CniNode,
  log: Log,
  options: CniServerOptions = {},
): Promise<CniServer> {
  const clock = options.clock ?? systemClock;
  const concurrentMax = options.concurrentMax ?? 256;
  const requestMs = options.requestMs ?? 5000;
  const answerMs = options.answerMs ?? 25_000;
  const peerUid = options.peerUid ?? kernelPeerUid;
  let underWay = 0;

  const uidOf = (socket: Socket): number | undefined => {
    try {
      return peerUid(socket);
    } catch (error) {
      log.debug({ error: errorMessage(error) }, 'a CNI caller went away');
      return undefined;
    }
  };

  const answer = async (payload: Buffer): Promise<CniAnswer> => {
    let request: CniRequest;
    try {
      request = decodeRequest(payload);
    } catch (error) {
      log.warn({ error: errorMessage(error) }, 'garbage on the CNI socket');
      return errorAnswer(cniCode.decode, errorMessage(error));
    }
    const containerId = request.env.get('CNI_CONTAINERID') ?? '';
    // A note of an earlier sandbox with this id must not be taken for one of the sandbox that comes now.
    if (
      options.tombstones !== undefined &&
      request.env.get('CNI_COMMAND') === 'ADD' &&
      isContainerId(containerId)
    ) {
      removeTombstone(options.tombstones, containerId);
    }
    const started = clock.nowMs();
    let late: Timer | undefined;
    const tooLate = new Promise<CniAnswer>((resolve) => {
      late = clock.after(answerMs, () =>
        resolve(errorAnswer(cniCode.tryAgain, `the agent did not finish within ${answerMs} ms`)),
      );
    });
    const result = await Promise.race([handleCni(request, node), tooLate]);
    late?.cancel();
    const fields = {
      command: request.env.get('CNI_COMMAND'),
      containerId,
      args: request.env.get('CNI_ARGS'),
      ms: Math.round(clock.nowMs() - started),
    };
    if (result.code === 0) log.debug(fields, 'CNI call answered');
    else log.warn({ ...fields, answer: result.stdout.trim() }, 'CNI call refused');
    return result;
  };

  const serve = (socket: Socket): void => {
    const reader = new FrameReader(REQUEST_BYTES_MAX);
    let answered = false;
    let patience: Timer | undefined;
    const reply = (result: CniAnswer): void => {
      answered = true;
      if (socket.destroyed) return;
      // The caller closes, having read: who still writes to a closed socket gets EPIPE and may lose the answer. A
      // caller that does neither is not waited for.
      patience = clock.after(requestMs, () => socket.destroy());
      socket.end(encodeReply(result));
    };
    socket.once('close', () => patience?.cancel());
    socket.on('error', (error) => log.debug({ error: error.message }, 'a CNI caller went away'));
    const uid = uidOf(socket);
    if (uid !== 0) {
      log.warn({ uid }, 'a CNI caller that is not root was refused');
      socket.destroy();
      return;
    }
    if (underWay >= concurrentMax) {
      reply(errorAnswer(cniCode.tryAgain, `the agent has ${underWay} CNI calls under way`));
      socket.resume();
      return;
    }
    underWay++;
    socket.once('close', () => {
      underWay--;
      silence.cancel();
    });
    const silence = clock.after(requestMs, () => {
      log.warn({ requestMs }, 'a CNI caller sent no whole request in time');
      socket.destroy();
    });
    // The shim sends one frame and then only reads; what follows is let go.
    socket.on('data', (chunk: Buffer) => {
      if (answered) return;
      const step = reader.push(chunk);
      if (step.state === 'more') return;
      answered = true;
      silence.cancel();
      if (step.state === 'bad') {
        log.warn({ length: step.length }, 'garbage on the CNI socket');
        reply(errorAnswer(cniCode.decode, `a request of ${step.length} bytes is refused`));
        return;
      }
      void answer(step.payload).then(reply);
    });
    socket.on('end', () => {
      if (!answered) socket.destroy();
    });
  };

  const server = createServer({ allowHalfOpen: true }, serve);
  server.on('error', (error) => log.error({ error: error.message }, 'the CNI socket failed'));
  await listen(server, socketPath);
  const inode = statSync(socketPath).ino;

  let next: Timer | undefined;
  let closed = false;
  const bury = async (folder: string): Promise<void> => {
    await takeTombstones(folder, (containerId, uid) => node.removePod(containerId, uid), log);
    if (!closed) next = clock.after(TOMBSTONES_EVERY_MS, () => void bury(folder));
  };
  if (options.tombstones !== undefined) void bury(options.tombstones);

  return {
    close: () =>
      new Promise((resolve) => {
        closed = true;
        next?.cancel();
        // Another agent may have put its own socket here meanwhile.
        if (inodeOf(socketPath) === inode) rmSync(socketPath, { force: true });
        server.close(() => resolve());
      }),
  };
}

/** Binds beside the final name and renames, so that a caller meets either the old socket or the finished new one. */
async function listen(server: Server, socketPath: string): Promise<void> {
  const folder = dirname(socketPath);
  const beside = `${socketPath}.new`;
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    rmSync(beside, { force: true });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ path: beside, backlog: 512 }, () => {
        server.removeListener('error', reject);
        resolve();
      });
    });
    chmodSync(beside, 0o600);
    renameSync(beside, socketPath);
  } catch (error) {
    throw new MeshError(
      'MESH_CONFIG_INVALID',
      `the CNI socket ${socketPath} cannot be made: ${errorMessage(error)}`,
      {
        cause: error,
        remedy: 'its path must be below 108 bytes and its folder writable',
      },
    );
  }
}

function inodeOf(path: string): number | undefined {
  try {
    return statSync(path).ino;
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return undefined;
    throw error;
  }
}
