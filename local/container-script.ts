// SPDX-License-Identifier: Apache-2.0
// The shell text that turns a process into a pod's container: mounts, hostname, user, capabilities, then the
// command as process 1. Pure. It runs inside namespaces that container.ts has made. A container sees this
// machine's file system with its own /run, /dev, /proc and /sys: enough to hide the mesh's keys and sockets from
// applications; it is no wall against an attacker.

import { MeshError } from '#lib/core/errors.ts';
import type { ContainerSpec, PodSpec } from './objects.ts';

/** What containerd gives to a container by default. */
export const DEFAULT_CAPABILITIES = [
  'AUDIT_WRITE',
  'CHOWN',
  'DAC_OVERRIDE',
  'FOWNER',
  'FSETID',
  'KILL',
  'MKNOD',
  'NET_BIND_SERVICE',
  'NET_RAW',
  'SETFCAP',
  'SETGID',
  'SETPCAP',
  'SETUID',
  'SYS_CHROOT',
] as const;

/** What the script writes to descriptor 3 once everything is in place. */
export const STARTED = 'started';

export interface Mount {
  readonly source: string;
  readonly target: string;
  readonly readOnly: boolean;
}

export interface ContainerUser {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  /** Names without CAP_; `ALL` keeps every one. */
  readonly capabilities: readonly string[];
  readonly noNewPrivileges: boolean;
}

export interface ContainerPlan {
  /** A folder of this container alone, for mount points and the file with its process id. */
  readonly dir: string;
  readonly hostname: string;
  readonly mounts: readonly Mount[];
  readonly user: ContainerUser;
  readonly readOnlyRoot: boolean;
  readonly workingDir: string;
  readonly env: readonly (readonly [string, string])[];
  readonly argv: readonly string[];
}

export const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

const bareName = (capability: string): string => capability.toUpperCase().replace(/^CAP_/, '');

/** The bounding set: containerd's default, first `drop`, then `add`, as Kubernetes has it. */
export function capabilitiesOf(security: ContainerSpec['securityContext']): string[] {
  if (security.privileged === true) return ['ALL'];
  const drop = (security.capabilities?.drop ?? []).map(bareName);
  const add = (security.capabilities?.add ?? []).map(bareName);
  if (add.includes('ALL')) return ['ALL'];
  const kept = drop.includes('ALL') ? [] : DEFAULT_CAPABILITIES.filter((name) => !drop.includes(name));
  return [...new Set([...kept, ...add])].sort();
}

export function userOf(pod: PodSpec, container: ContainerSpec): ContainerUser {
  const { securityContext: own } = container;
  const { securityContext: shared } = pod;
  const uid = own.runAsUser ?? shared.runAsUser ?? 0;
  if ((own.runAsNonRoot ?? shared.runAsNonRoot) === true && uid === 0) {
    throw new MeshError(
      'MESH_MANIFEST_INVALID',
      `container ${container.name} has runAsNonRoot but would run as root`,
      { remedy: 'set runAsUser' },
    );
  }
  return {
    uid,
    gid: own.runAsGroup ?? shared.runAsGroup ?? 0,
    groups: [...(shared.fsGroup === undefined ? [] : [shared.fsGroup]), ...shared.supplementalGroups],
    capabilities: capabilitiesOf(own),
    noNewPrivileges: own.allowPrivilegeEscalation === false,
  };
}

/** Replaces `$(NAME)` by what is known and `$$` by `$`, as Kubernetes does in command, args and env. */
export function expandVariables(text: string, known: ReadonlyMap<string, string>): string {
  return text.replaceAll(/\$\$|\$\(([A-Za-z_][\w.-]*)\)/g, (whole, name: string | undefined) =>
    name === undefined ? '$' : (known.get(name) ?? whole),
  );
}

function becomeUser(user: ContainerUser): string {
  const bounding = user.capabilities.includes('ALL')
    ? []
    : [`--bounding-set=-all${user.capabilities.map((name) => `,+${name.toLowerCase()}`).join('')}`];
  return [
    '/usr/bin/setpriv',
    `--reuid=${user.uid}`,
    `--regid=${user.gid}`,
    user.groups.length === 0 ? '--clear-groups' : `--groups=${user.groups.join(',')}`,
    '--inh-caps=-all',
    '--ambient-caps=-all',
    ...bounding,
    ...(user.noNewPrivileges ? ['--no-new-privs'] : []),
    '--',
  ].join(' ');
}

/** `cd`, environment, user, program: the last lines, shared by the container's command and `exec`. */
export function enterCommand(
  plan: Pick<ContainerPlan, 'user' | 'env' | 'workingDir'>,
  argv: readonly string[],
): string {
  const env = plan.env.map(([name, value]) => quote(`${name}=${value}`)).join(' ');
  return `cd ${quote(plan.workingDir)} && exec env -i ${env} ${becomeUser(plan.user)} ${argv.map(quote).join(' ')}`;
}

/** `/var/run` is a link to `/run` on Debian, and /run is the container's own. */
const realTarget = (target: string): string => target.replace(/^\/var\/run(?=\/|$)/, '/run');

function mountLines(mount: Mount): string[] {
  const target = realTarget(mount.target);
  const options = mount.readOnly ? 'bind,ro' : 'bind';
  if (target.startsWith('/run/')) {
    const inside = `"$run"${quote(target.slice('/run'.length))}`;
    return [`mkdir -p ${inside}`, `mount -n -o ${options} ${quote(mount.source)} ${inside}`];
  }
  return [
    `[ -e ${quote(target)} ] || { echo ${quote(
      `mountPath ${target} does not exist on this machine; use one that does, or one below /run`,
    )} >&2; exit 125; }`,
    `mount -n -o ${options} ${quote(mount.source)} ${quote(target)}`,
  ];
}

/** /etc/resolv.conf may be a link into /run, where the container has nothing yet. */
const bindFile = (source: string, target: string): string[] => [
  `t=$(readlink -f ${target})`,
  `case $t in /run/*) mkdir -p "$run/\${t#/run/}"; rmdir "$run/\${t#/run/}"; cp ${quote(source)} "$run/\${t#/run/}";;`,
  `  *) mount -n -o bind ${quote(source)} "$t";; esac`,
];

export function containerScript(plan: ContainerPlan, files: { resolvConf: string; hosts: string }): string {
  const lines = [
    'set -e',
    // /proc is still the machine's, so this is the process id that the machine knows.
    'read -r pid rest </proc/self/stat',
    `echo "$pid" >${quote(`${plan.dir}/pid`)}`,
    // Copies of these mounts would keep namespaces and maps of others alive.
    'while read -r device mount rest; do',
    '  case $mount in /run/netns|/run/nodemesh-local/*) umount -n -l "$mount" 2>/dev/null || :;; esac',
    'done <<EOF',
    '$(cat /proc/self/mounts)',
    'EOF',
    `run=${quote(`${plan.dir}/run`)} dev=${quote(`${plan.dir}/dev`)}`,
    'mkdir -p "$run" "$dev"',
    'mount -n -t tmpfs -o mode=755,nosuid,nodev run "$run"',
    'mkdir -m 1777 "$run/lock"',
    ...bindFile(files.resolvConf, '/etc/resolv.conf'),
    ...bindFile(files.hosts, '/etc/hosts'),
    ...plan.mounts.flatMap(mountLines),
    'mount -n -t tmpfs -o mode=755,nosuid dev "$dev"',
    'for n in null zero full random urandom tty; do : >"$dev/$n"; mount -n -o bind "/dev/$n" "$dev/$n"; done',
    'mkdir "$dev/pts" "$dev/shm"',
    'mount -n -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$dev/pts"',
    'mount -n -t tmpfs -o mode=1777,nosuid,nodev shm "$dev/shm"',
    'ln -s pts/ptmx "$dev/ptmx"; ln -s /proc/self/fd "$dev/fd"',
    'ln -s fd/0 "$dev/stdin"; ln -s fd/1 "$dev/stdout"; ln -s fd/2 "$dev/stderr"',
    'mount -n --move "$dev" /dev',
    'mount -n --move "$run" /run',
    'mount -n -t proc -o nosuid,nodev,noexec proc /proc',
    `echo ${quote(plan.hostname)} >/proc/sys/kernel/hostname`,
    'for p in sys sysrq-trigger irq bus fs; do [ ! -e "/proc/$p" ] || mount -n -o bind,ro "/proc/$p" "/proc/$p"; done',
    'for p in kcore keys timer_list; do [ ! -e "/proc/$p" ] || mount -n -o bind /dev/null "/proc/$p"; done',
    // A new one shows this network namespace and neither cgroups nor pinned maps.
    'mount -n -t sysfs -o ro,nosuid,nodev,noexec sysfs /sys',
    ...(plan.readOnlyRoot ? ['mount -n -o remount,bind,ro /'] : []),
    // Whoever waits for the container to begin reads this.
    `echo ${STARTED} >&3`,
    'exec 3>&-',
    enterCommand(plan, plan.argv),
  ];
  return `${lines.join('\n')}\n`;
}
