// SPDX-License-Identifier: Apache-2.0
// `make demo`: two nodes, the sample shop and a live table until Ctrl-C. With --check: 20 s of traffic, one JSON
// document on stdout, and exit code 0 only if the mesh did what it promises.

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { type CheckDocument, judge } from './check.ts';
import { computeFigures, type Scrape } from './figures.ts';
import { ShopMesh, shopMarker } from './shop-mesh.ts';
import { renderFigures } from './table.ts';

const CHECK_SECONDS = 20;
const REDRAW_MS = 2000;
/** The live table shows the last 10 s. */
const KEPT_SCRAPES = 6;
const TRAFFIC_WAIT_MS = 30_000;
/** How long an earlier run may take to go. */
const REMOVAL_MS = 20_000;

const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort());

const tell = (line: string): void => {
  process.stderr.write(`${line}\n`);
};

/** False if the user has had enough. */
async function pause(ms: number): Promise<boolean> {
  await sleep(ms, undefined, { signal: stop.signal }).catch(() => undefined);
  return !stop.signal.aborted;
}

/** Waits until requests have passed through the whole shop. */
async function waitForTraffic(mesh: ShopMesh): Promise<void> {
  const giveUp = performance.now() + TRAFFIC_WAIT_MS;
  const flows = (scrape: Scrape): boolean =>
    scrape.some(
      ({ name, labels, value }) =>
        name === 'response_total' &&
        labels['direction'] === 'inbound' &&
        labels['deployment'] === 'cart' &&
        labels['tls'] === 'true' &&
        value > 0,
    );
  while (!flows(await mesh.scrape())) {
    if (performance.now() > giveUp) {
      tell(`no traffic reached the last servers within ${TRAFFIC_WAIT_MS / 1000} s`);
      return;
    }
    if (!(await pause(500))) return;
  }
}

async function check(mesh: ShopMesh): Promise<CheckDocument> {
  const marker = shopMarker();
  const control = `control-${randomBytes(12).toString('hex')}`;
  const capture = mesh.capture();
  try {
    await waitForTraffic(mesh);
    const seenBefore = await capture.control(`${control}-before`);
    tell(`watching ${CHECK_SECONDS} s of traffic`);
    const started = performance.now();
    const before = await mesh.scrape();
    if (!(await pause(CHECK_SECONDS * 1000))) throw new Error('interrupted');
    const after = await mesh.scrape();
    const seconds = (performance.now() - started) / 1000;
    const seenAfter = await capture.control(`${control}-after`);
    const pods = await mesh.pods();
    const figures = computeFigures(pods, before, after, seconds);
    const { document, failures } = judge({
      figures,
      pods,
      nodes: await mesh.nodes(pods),
      // The one by HTTP status, the other by grpc-status.
      failingWorkloads: ['cart', 'recommendation'],
      markerSeen: capture.contains(marker),
      controlSeen: seenBefore && seenAfter,
    });
    tell(renderFigures(figures));
    for (const failure of failures) tell(`FAILED: ${failure}`);
    return document;
  } finally {
    await capture.close();
  }
}

async function show(mesh: ShopMesh): Promise<void> {
  const terminal = process.stdout.isTTY;
  const scrapes: { readonly at: number; readonly samples: Scrape }[] = [];
  if (terminal) process.stdout.write('\u001b[?25l');
  try {
    for (;;) {
      try {
        scrapes.push({ at: performance.now(), samples: await mesh.scrape() });
        if (scrapes.length > KEPT_SCRAPES) scrapes.shift();
        const [first, last] = [scrapes[0], scrapes.at(-1)];
        if (first !== undefined && last !== undefined && last.at > first.at) {
          const seconds = (last.at - first.at) / 1000;
          const figures = computeFigures(await mesh.pods(), first.samples, last.samples, seconds);
          const head = `the shop on two nodes, last ${Math.round(seconds)} s (Ctrl-C ends and removes everything)`;
          // Home, draw, clear what is left of a longer picture: no flicker.
          const text = `${head}\n\n${renderFigures(figures)}`;
          process.stdout.write(
            terminal ? `\u001b[H${text.replaceAll('\n', '\u001b[K\n')}\u001b[J` : `${text}\n`,
          );
        } else if (terminal) {
          process.stdout.write('\u001b[2J');
        }
      } catch (error) {
        // An agent that restarts is part of the show.
        if (!stop.signal.aborted) tell(errorMessage(error));
      }
      if (!(await pause(REDRAW_MS))) return;
    }
  } finally {
    if (terminal) process.stdout.write('\u001b[?25h');
  }
}

/** Starts the mesh; one that is just being removed by an interrupted run is waited for. */
async function start(): Promise<ShopMesh> {
  const giveUp = performance.now() + REMOVAL_MS;
  for (;;) {
    try {
      return await ShopMesh.start(tell);
    } catch (error) {
      const another = error instanceof MeshError && error.code === 'MESH_ALREADY_EXISTS';
      if (!another || performance.now() > giveUp || !(await pause(1000))) throw error;
    }
  }
}

async function main(): Promise<number> {
  const checking = process.argv.includes('--check');
  let document: CheckDocument = { ok: false, workloads: [], edges: [], nodes: [] };
  let mesh: ShopMesh | undefined;
  try {
    const started = performance.now();
    // Whoever loses patience now need not wait: the mesh's own process removes it when this one ends.
    const impatient = (): never => process.exit(130);
    stop.signal.addEventListener('abort', impatient);
    mesh = await start();
    stop.signal.removeEventListener('abort', impatient);
    tell(`the shop is open after ${((performance.now() - started) / 1000).toFixed(1)} s`);
    if (checking) document = await check(mesh);
    else await show(mesh);
  } catch (error) {
    tell(`the demo failed: ${errorMessage(error)}`);
    if (!checking) process.exitCode = 1;
  } finally {
    await mesh?.down();
  }
  if (!checking) return Number(process.exitCode ?? 0);
  process.stdout.write(`${JSON.stringify(document)}\n`);
  return document.ok ? 0 : 1;
}

process.exitCode = await main();
// Everything is removed; nothing that still listens shall keep the process.
process.exit();
