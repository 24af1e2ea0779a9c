// SPDX-License-Identifier: Apache-2.0
// scripts/setup.sh on machines that lack something (each: one line with its remedy), and how it installs packages
// without starting services. What is missing is taken away in mount and network namespaces of their own; apt-get
// and dpkg-query are stand-ins, so that nothing is really installed.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

const root = join(import.meta.dirname, '../..');
const script = join(root, 'scripts/setup.sh');

let dir = '';
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'nodemesh-setup-'));
  chmodSync(dir, 0o755);
});
after(() => rmSync(dir, { recursive: true }));

function standIn(name: string, text: string): void {
  writeFileSync(join(dir, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
}

interface Outcome {
  readonly code: number | null;
  readonly lines: readonly string[];
}

/** Runs shell text whose $SETUP is the script, in mount and network namespaces of its own. */
function run(text: string, standIns: Readonly<Record<string, string>> = {}): Outcome {
  for (const [name, body] of Object.entries(standIns)) standIn(name, body);
  // The other set-up of this machine may hold the lock, and waits for us.
  const env = {
    ...process.env,
    SETUP: script,
    SETUP_LOCKED: '1',
    PATH: `${dir}:${process.env['PATH'] ?? ''}`,
  };
  const result = spawnSync('unshare', ['--mount', '--net', 'sh', '-c', text], { encoding: 'utf8', env });
  for (const name of Object.keys(standIns)) rmSync(join(dir, name));
  return { code: result.status, lines: result.stderr.split('\n').filter((line) => line !== '') };
}

function refused(outcome: Outcome, problem: RegExp, remedy: RegExp): void {
  assert.equal(outcome.code, 1, outcome.lines.join('\n'));
  assert.equal(outcome.lines.length, 1, outcome.lines.join('\n'));
  assert.match(outcome.lines[0] ?? '', problem);
  assert.match(outcome.lines[0] ?? '', remedy);
}

describe('what is missing is said in one line, with the remedy', () => {
  test('root', () => {
    refused(run('exec setpriv --reuid 65534 --clear-groups sh "$SETUP"'), /not root/, /sudo/);
  });
  test('a new enough kernel', () => {
    const uname = 'case "$1" in -s) echo Linux ;; *) echo 5.10.0-28-amd64 ;; esac';
    refused(run('"$SETUP"', { uname }), /kernel 5\.10\.0-28-amd64 is too old/, /boot a newer/);
  });
  test('BTF', () => {
    refused(run('mount -t tmpfs none /sys/kernel/btf && "$SETUP"'), /no BTF/, /CONFIG_DEBUG_INFO_BTF/);
  });
  test('cgroup2', () => {
    const unmount = `awk '$3 == "cgroup2" { print $2 }' /proc/self/mounts | xargs -r -n 1 umount -l`;
    refused(run(`${unmount}; "$SETUP"`), /cgroup2 is not mounted/, /mount -t cgroup2/);
  });
  test('Node.js 20', () => {
    refused(run('"$SETUP"', { node: 'echo 18' }), /Node\.js 20 or newer is missing/, /install it/);
  });
  test('Debian', () => {
    const only =
      'mkdir "$0" && for p in awk cat cksum grep id node npm sed sh sort tail uname mkdir dirname; do';
    const link = 'ln -s "$(command -v $p)" "$0/$p"; done; PATH="$0" sh "$SETUP"';
    refused(
      run(`set -- ; ${`${only} ${link}`.replaceAll('$0', join(dir, 'bin'))}`),
      /neither Debian nor Ubuntu/,
      /use/,
    );
  });
  test('the network, for packages', () => {
    const outcome = run('"$SETUP"', {
      'dpkg-query': 'exit 1',
      'apt-get': 'echo "E: Temporary failure resolving a host" >&2; exit 100',
    });
    assert.equal(outcome.code, 1);
    assert.match(outcome.lines.at(-1) ?? '', /no answer from the network; connect this machine/);
  });
});

describe('installing packages', () => {
  /** An overlay keeps what is written to /usr/sbin away from this machine. */
  const overlay = [
    'mkdir -p "$LAYER"',
    'mount -t tmpfs none "$LAYER"',
    'mkdir "$LAYER/upper" "$LAYER/work"',
    'mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$LAYER/upper,workdir=$LAYER/work" /usr/sbin',
    'rm -f /usr/sbin/policy-rc.d',
  ].join(' && ');
  const withLayer = (text: string): string => `LAYER=${join(dir, 'layer')}; ${overlay} && ${text}`;
  /** All there but curl; everything apt-get is asked for is noted, with what policy-rc.d says meanwhile. */
  const standIns = (apt: string): Record<string, string> => ({
    'dpkg-query': `shift 3; for p in "$@"; do [ "$p" = curl ] || echo "ii $p"; done`,
    'apt-get': `/usr/sbin/policy-rc.d; echo "policy $? $*" >>${join(dir, 'asked')}\n${apt}`,
  });
  const asked = (): string => readFileSync(join(dir, 'asked'), 'utf8');

  test('only the missing ones, with services forbidden to start, and nothing left of that afterwards', () => {
    const outcome = run(withLayer('"$SETUP" && ls /usr/sbin/policy-rc.d*'), standIns('exit 0'));
    assert.equal(outcome.code, 2, outcome.lines.join('\n')); // of ls: none there
    assert.match(asked(), /^policy 101 .*update\npolicy 101 .*install -y --no-install-recommends curl\n$/);
    rmSync(join(dir, 'asked'));
  });

  test("a policy-rc.d of the machine's own is put back, also when installing fails", () => {
    const own = 'printf "#!/bin/sh\\nexit 7\\n" >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d';
    const outcome = run(
      withLayer(`${own}; "$SETUP"; /usr/sbin/policy-rc.d`),
      standIns('case "$*" in *install*) exit 100 ;; esac'),
    );
    assert.equal(outcome.code, 7, outcome.lines.join('\n'));
    assert.match(outcome.lines.at(-1) ?? '', /installing curl failed/);
    rmSync(join(dir, 'asked'));
  });

  test('a policy-rc.d that a killed run left is taken away by the next one', () => {
    const left =
      'printf "#!/bin/sh\\nexit 101\\n" >/usr/sbin/policy-rc.d; printf none-before-nodemesh >/usr/sbin/policy-rc.d.nodemesh';
    const outcome = run(withLayer(`${left}; "$SETUP"; ls /usr/sbin/policy-rc.d*`), standIns('exit 0'));
    assert.equal(outcome.code, 2, outcome.lines.join('\n'));
  });

  test('what only clusters need is installed when it is asked for', () => {
    const missing = {
      ...standIns('exit 0'),
      'dpkg-query': `shift 3; for p in "$@"; do [ "$p" = runc ] || echo "ii $p"; done`,
    };
    writeFileSync(join(dir, 'asked'), '');
    run(withLayer('"$SETUP"'), missing);
    assert.equal(asked(), '');
    run(withLayer('"$SETUP" cluster'), missing);
    assert.match(asked(), /install -y --no-install-recommends runc\n$/);
    rmSync(join(dir, 'asked'));
  });
});
