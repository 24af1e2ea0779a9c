// SPDX-License-Identifier: Apache-2.0
// CPU per request of the HTTP/1 path alone against haproxy doing the same hop in the same run, over loopback.
// Only the ratio means something, and only from one run. Not the product's bench: no redirection, no mesh (bench/).
//
//   node bench/engine/h1.ts [--connections 1,32,128] [--rounds 5] [--seconds 3] [--bytes 128] [--close] [--profile DIR]
//
// Needs Debian's nginx (the server), haproxy and wrk. `--profile` writes a .cpuprofile of our process.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';

const { values: options } = parseArgs({
  options: {
    connections: { type: 'string', default: '1,32,128' },
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '3' },
    bytes: { type: 'string', default: '128' },
    close: { type: 'boolean', default: false },
    profile: { type: 'string' },
  },
});
const TICKS_PER_SECOND = 100;
const run = promisify(execFile);
const folder = mkdtempSync(join(tmpdir(), 'nodemesh-bench-'));
const children: ChildProcess[] = [];

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

async function listening(port: number): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    const socket = connect(port, '127.0.0.1');
    const open = await once(socket, 'connect').then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (open) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`nothing listens on port ${port}`);
}

function start(program: string, args: readonly string[], output: 'pipe' | 'ignore' = 'ignore'): ChildProcess {
  const child = spawn(program, args, { stdio: ['ignore', output, 'inherit'] });
  children.push(child);
  return child;
}

/** utime + stime in microseconds. */
function cpuUs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return ((Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND) * 1e6;
}

async function startServer(): Promise<number> {
  const port = await freePort();
  const file = join(folder, 'nginx.conf');
  chmodSync(folder, 0o755);
  writeFileSync(join(folder, 'body'), 'x'.repeat(Number(options.bytes)));
  writeFileSync(
    file,
    `daemon off; worker_processes 1; pid ${folder}/nginx.pid; error_log /dev/null;
events { worker_connections 4096; }
http { access_log off; open_file_cache max=10; keepalive_requests 100000000; keepalive_timeout 600s; default_type text/plain;
  server { listen 127.0.0.1:${port} backlog=1024; root ${folder}; location / { try_files /body =404; } } }
`,
  );
  start('/usr/sbin/nginx', ['-c', file, '-p', folder]);
  await listening(port);
  return port;
}

async function startHaproxy(serverPort: number): Promise<{ pid: number; port: number }> {
  const port = await freePort();
  const file = join(folder, 'haproxy.cfg');
  writeFileSync(
    file,
    `global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  http-reuse always
frontend f
  bind 127.0.0.1:${port}
  default_backend b
backend b
  server s 127.0.0.1:${serverPort}
`,
  );
  const child = start('/usr/sbin/haproxy', ['-db', '-f', file]);
  await listening(port);
  return { pid: child.pid as number, port };
}

async function startOurs(serverPort: number): Promise<{ pid: number; port: number }> {
  const profile = options.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${options.profile}`];
  const program = join(import.meta.dirname, 'h1-proxy.ts');
  const flags = ['--max-semi-space-size=4', ...profile];
  const child = start(process.execPath, [...flags, program, String(serverPort)], 'pipe');
  const [line] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  return { pid: child.pid as number, port: Number.parseInt(line.toString(), 10) };
}

async function measure(proxy: { pid: number; port: number }, connections: number): Promise<number> {
  const before = cpuUs(proxy.pid);
  const { stdout } = await run('wrk', [
    '-t1',
    `-c${connections}`,
    `-d${options.seconds}s`,
    ...(options.close ? ['-H', 'Connection: close'] : []),
    `http://127.0.0.1:${proxy.port}/path?query=1`,
  ]);
  const used = cpuUs(proxy.pid) - before;
  const requests = Number(/(\d+) requests in/.exec(stdout)?.[1]);
  if (/Socket errors|Non-2xx/.test(stdout)) throw new Error(stdout);
  return used / requests;
}

const median = (list: readonly number[]): number =>
  [...list].sort((a, b) => a - b)[list.length >> 1] ?? Number.NaN;

try {
  const serverPort = await startServer();
  const haproxy = await startHaproxy(serverPort);
  const ours = await startOurs(serverPort);
  for (const connections of options.connections.split(',').map(Number)) {
    const mine: number[] = [];
    const theirs: number[] = [];
    const ratios: number[] = [];
    await measure(ours, connections);
    for (let round = 0; round < Number(options.rounds); round++) {
      const [a, b] = [await measure(ours, connections), await measure(haproxy, connections)];
      mine.push(a);
      theirs.push(b);
      ratios.push(a / b);
    }
    const spread = `${Math.min(...ratios).toFixed(2)}-${Math.max(...ratios).toFixed(2)}`;
    process.stdout.write(
      `connections ${connections}: ours ${median(mine).toFixed(1)} us, haproxy ${median(theirs).toFixed(1)} us, ` +
        `ratio ${median(ratios).toFixed(2)} (${spread})\n`,
    );
  }
} finally {
  for (const child of children) child.kill('SIGTERM');
  for (const child of children) {
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  }
  rmSync(folder, { recursive: true });
}
