// SPDX-License-Identifier: Apache-2.0
// What the CNI specification asks of a chained plugin, in our own words, and the test that holds it. Written out as
// docs/reference/cni-conformance.md; a test beside this file checks that every named test exists.

const plugin = 'test/cni/plugin.test.ts';
const handle = 'cni-plugin/logic/handle.test.ts';
const chain = 'test/cni/chain.test.ts';
const tool = 'test/cni/cnitool.test.ts';
const kills = 'test/cni/kills.test.ts';
const enrolment = 'agent/node/enrolment.test.ts';
const installed = 'lib/cni-install/install.test.ts';

export interface ConformanceRow {
  /** Version and section of the specification. */
  readonly section: string;
  /** MUST, SHOULD or MAY. */
  readonly strength: 'must' | 'should' | 'may';
  readonly rule: string;
  readonly verdict: 'held' | 'different' | 'not applicable';
  /** Of a difference or of what does not concern us: why. */
  readonly why?: string;
  /** File and name of each test. */
  readonly tests: readonly (readonly [string, string])[];
}

const rows: ConformanceRow[] = [];

function section(name: string): {
  held(strength: ConformanceRow['strength'], rule: string, ...tests: ConformanceRow['tests']): void;
  other(
    verdict: 'different' | 'not applicable',
    strength: ConformanceRow['strength'],
    rule: string,
    why: string,
    ...tests: ConformanceRow['tests']
  ): void;
} {
  return {
    held: (strength, rule, ...tests) => {
      rows.push({ section: name, strength, rule, verdict: 'held', tests });
    },
    other: (verdict, strength, rule, why, ...tests) => {
      rows.push({ section: name, strength, rule, verdict, why, tests });
    },
  };
}

const configuration = section('1.1.0 §1, configuration');
configuration.held(
  'must',
  'A list of plugins keeps fields that nobody here knows, for the list itself and for every other plugin.',
  [installed, 'is the first usable one of the cluster with our plugin last, unknown fields kept'],
);
configuration.held(
  'must',
  'The type names a file in the plugin path; nothing but the plugin has that name.',
  [installed, 'puts both files in place, once, and leaves every byte as it was when removed'],
);
configuration.held(
  'should',
  'Well-known fields mean what they always mean, or are refused: a plugin without addresses of its own takes neither ipam nor ipMasq.',
  [handle, 'refuses fields that ask for addresses, naming key and value'],
  [plugin, 'refuses a result of a version that it does not know, and fields that it cannot serve'],
);
configuration.held(
  'may',
  'Unknown fields may be refused; they are let be, args among them, since shim, agent and installer of neighbouring versions meet.',
  [plugin, 'refuses a result of a version that it does not know, and fields that it cannot serve'],
);
configuration.held(
  'must',
  'Within a major version the configuration stays usable backwards and forwards.',
  [handle, 'speaks ${version}'],
  [tool, 'adds, checks and deletes a pod of the mesh in ${version}'],
);

const protocol = section('1.1.0 §2, parameters and errors');
protocol.held(
  'must',
  'The command is one of ADD, DEL, CHECK, GC, STATUS and VERSION; anything else is an error.',
  [plugin, 'names missing and wrong input'],
  [handle, 'names what is wrong with the environment with code 4'],
);
protocol.held(
  'must',
  'The container id is not empty, starts with a letter or digit and goes on with letters, digits, underscore, dot and hyphen.',
  [handle, 'names what is wrong with the environment with code 4'],
  [plugin, 'never writes a tombstone outside its folder'],
);
protocol.held('must', 'An interface name that cannot be used is an error.', [
  handle,
  'names what is wrong with the environment with code 4',
]);
protocol.held(
  'must',
  'The namespace is a path; that of the node itself, or what is no namespace, is refused.',
  [handle, 'refuses the network namespace of the node itself'],
  [handle, 'refuses what is no namespace'],
);
protocol.held(
  'must',
  'Exit status 0 for success, another one for failure.',
  [plugin, 'carries ADD and DEL to the agent and its answers back'],
  [plugin, "carries the agent's refusal"],
);
protocol.held(
  'should',
  'A failure is an error object on standard output.',
  [plugin, "carries the agent's refusal"],
  [plugin, 'names missing and wrong input'],
  [plugin, 'survives damaged configurations'],
);

const add = section('1.1.0 §2, ADD');
add.held(
  'should',
  'Adjusts the interface that is there already, or makes one; here: redirection for the pod in its namespace.',
  [chain, 'makes the interface, then meshes the pod, and hands both addresses on'],
  [tool, 'adds, checks and deletes a pod of the mesh in ${version}'],
);
add.held('must', 'Success is a result on standard output.', [
  plugin,
  'carries ADD and DEL to the agent and its answers back',
]);
add.held(
  'must',
  'A previous result is handed on or changed on purpose; here it is handed on byte for byte.',
  [plugin, 'hands a result of ${version} on as it is, with the agent there or not'],
  [handle, 'changes nothing in the result, not even a number that no double holds, nor its version'],
);
add.other(
  'not applicable',
  'must',
  'An interface of the requested name that exists already is an error.',
  'for plugins that make interfaces; ours needs the one that the plugin before has made',
);
add.held('must', 'Container id, namespace and interface name are needed.', [
  plugin,
  'names the variable that is missing, with the agent there or not',
]);
add.held(
  'should',
  'No runtime adds an attachment twice; if it does, nothing is doubled, and a further interface changes nothing.',
  [enrolment, 'leaves the pod in the mesh when a further interface of it comes and goes'],
  [kills, 'calls at once, half of them killed, leave nothing after DEL'],
);

const del = section('1.1.0 §2, DEL');
del.held(
  'should',
  'Undoes what ADD did.',
  [chain, 'makes the interface, then meshes the pod, and hands both addresses on'],
  [tool, 'adds, checks and deletes a pod of the mesh in ${version}'],
);
del.held('should', 'Succeeds without a previous result.', [
  handle,
  'succeeds every time, also with an empty CNI_NETNS and without prevResult or arguments',
]);
del.held(
  'should',
  'Succeeds as far as possible though something is missing: namespace, interface, agent, a configuration that was changed since.',
  [handle, 'succeeds every time, also with an empty CNI_NETNS and without prevResult or arguments'],
  [handle, 'succeeds though the configuration has become unusable'],
  [plugin, 'leaves a tombstone for DEL while the agent is away, which the agent takes'],
);
del.held(
  'must',
  'May come several times.',
  [plugin, 'carries ADD and DEL to the agent and its answers back'],
  [tool, 'adds, checks and deletes a pod of the mesh in ${version}'],
);
del.held('must', 'The container id is needed.', [handle, 'needs a container id']);
del.other(
  'different',
  'must',
  'The interface name is needed.',
  'taken into account if it is there, not asked for: DEL never fails for want of something that it can do without',
  [handle, 'succeeds every time, also with an empty CNI_NETNS and without prevResult or arguments'],
);

const check = section('1.1.0 §2, CHECK');
check.held(
  'must',
  'The previous result says which addresses are expected; they must be in the pod.',
  [plugin, 'carries CHECK to the agent and its complaint back'],
  [tool, 'adds, checks and deletes a pod of the mesh in ${version}'],
);
check.held(
  'must',
  'A later plugin may have changed routes and the like; only addresses are looked at, and only that they are there.',
  [enrolment, 'checks a pod: in the mesh, in that namespace, by that sandbox'],
);
check.other(
  'not applicable',
  'should',
  'Something of the result that the plugin itself made is missing: an error.',
  'ours makes nothing that stands in a result',
);
check.held(
  'should',
  'Something of its own that no result names is missing: an error; here: the pod is not meshed, or not in this namespace.',
  [enrolment, 'checks a pod: in the mesh, in that namespace, by that sandbox'],
  [handle, 'says what is wrong with a pod'],
);
check.other(
  'different',
  'should',
  'A daemon that is needed is missing: an error.',
  'an agent that restarts is away for a moment, while a runtime may take a failed CHECK for a pod broken for good; STATUS says that the agent is away',
  [plugin, 'answers CHECK with success, GC with 11 and STATUS with 50 while the agent is away'],
);
check.held('should', 'The pod is known to be unreachable: an error.', [
  handle,
  'says what is wrong with a pod',
]);
check.held(
  'must',
  'May come right after ADD; a step under way is waited for.',
  [enrolment, 'checks a pod: in the mesh, in that namespace, by that sandbox'],
  [tool, 'adds, checks and deletes a pod of the mesh in ${version}'],
);
check.held(
  'must',
  'Container id, namespace, interface name and previous result are needed.',
  [handle, 'needs what ADD needs'],
  [plugin, 'names the variable that is missing, with the agent there or not'],
);

const status = section('1.1.0 §2, STATUS');
status.held(
  'must',
  'Success when ADD can be served: the socket is there and the lists are loaded; control plane and DNS do not matter.',
  [handle, 'answers STATUS with silence'],
  [tool, 'asks for the status, and collects garbage of its own network only'],
);
status.held(
  'must',
  'Failure with an error object when it cannot: code 50 without an agent.',
  [plugin, 'answers CHECK with success, GC with 11 and STATUS with 50 while the agent is away'],
  [tool, 'without an agent: no pod of the mesh starts, status says 50, removals are noted and taken up'],
);
status.held('must', 'Nothing rests on STATUS being asked; other commands are served whatever it said.', [
  chain,
  'starts pods outside the mesh, holds back those of the mesh and notes removals without an agent',
]);
status.other(
  'not applicable',
  'may',
  'Code 51 when pods that run may have limited connectivity.',
  'the plugin cannot know it: listeners outlive the agent for a while',
);

const gc = section('1.1.0 §2, GC');
gc.held(
  'should',
  'Whatever belongs to attachments that are not in the list goes, of this network.',
  [handle, 'keeps the attachments that the runtime names, of this network'],
  [enrolment, 'keeps, of a network, only the attachments that the runtime still has'],
  [tool, 'asks for the status, and collects garbage of its own network only'],
);
gc.held('should', 'It goes on after a failure, and reports it.', [
  handle,
  'reports what could not be removed',
]);
gc.held(
  'must',
  'The list is part of the input; without it, or if it cannot be read, nothing is taken for stale.',
  [handle, 'takes no list, or one that it cannot read, never for an empty one'],
);
gc.held('must', 'No output on success.', [
  plugin,
  'answers CHECK with success, GC with 11 and STATUS with 50 while the agent is away',
]);

const version = section('1.1.0 §2 and §5, VERSION');
version.held(
  'must',
  'Tells the version that it was asked in, and all that it supports; it needs nothing but the command.',
  [plugin, 'answers VERSION alone, in the version it was asked in'],
  [handle, 'answers VERSION in the version it was asked in, without a usable configuration too'],
);

const execution = section('1.1.0 §3, execution');
execution.held('must', 'Calls for different containers may run at the same time.', [
  kills,
  'calls at once, half of them killed, leave nothing after DEL',
]);
execution.held(
  'must',
  'DEL follows an ADD that failed.',
  [chain, 'fails the pod with "try again" and takes the interface down'],
  [tool, 'refuses an address that is not in the pod, and takes the interface down again'],
);
execution.held(
  'must',
  'An attachment is its container id and interface name.',
  [handle, 'keeps the attachments that the runtime names, of this network'],
  [enrolment, 'keeps, of a network, only the attachments that the runtime still has'],
);

section('1.1.0 §4, delegation').other(
  'not applicable',
  'must',
  'Commands are passed on to delegated plugins.',
  'ours delegates nothing',
);

const result = section('1.1.0 §5, results');
result.held('must', 'A plugin that changes nothing answers with what is equivalent to the previous result.', [
  plugin,
  'hands a result of ${version} on as it is, with the agent there or not',
]);
result.held(
  'must',
  'The result has the version of the call; a previous one without a version gets it, one that has its own keeps it.',
  [plugin, 'hands a result of ${version} on as it is, with the agent there or not'],
  [handle, 'speaks ${version}'],
);
result.held('should', 'An error has version, code, message and details.', [
  plugin,
  'refuses versions that it does not know with code 1 and says which it does',
]);
result.held(
  'must',
  'Codes below 100 mean what the table says: 1, a version that is not supported, with those that are.',
  [plugin, 'refuses versions that it does not know with code 1 and says which it does'],
  [handle, 'refuses commands that the version does not have with code 1'],
);
result.held('must', '2, a field that is not supported; the message has key and value.', [
  plugin,
  'refuses a result of a version that it does not know, and fields that it cannot serve',
]);
result.other(
  'not applicable',
  'may',
  '3, a container that is unknown: the runtime need not clean up.',
  'never said: a pod that the agent does not know may have been added while it was away',
);
result.held('must', '4, a variable that is missing or wrong; the message names it.', [
  plugin,
  'names the variable that is missing, with the agent there or not',
]);
result.held('must', '6, what cannot be decoded; 7, a configuration that is wrong.', [
  handle,
  'tells undecodable input (6) from a wrong configuration (7)',
]);
result.held(
  'must',
  '11, a condition that will pass: the pod cannot be meshed yet, or the agent is away and the pod is of the mesh.',
  [handle, 'answers code 11 when the pod cannot be meshed now'],
  [plugin, 'holds a pod of the mesh back while the agent is away'],
);
result.held('may', 'Standard error is free for logs; nothing is written there.', [
  plugin,
  'carries ADD and DEL to the agent and its answers back',
]);

const older = section('0.4.0 and 0.3.1, where they say more');
older.held(
  'should',
  'State is kept by network, container id and interface name.',
  [enrolment, 'keeps, of a network, only the attachments that the runtime still has'],
  [enrolment, 'leaves the pod in the mesh when a further interface of it comes and goes'],
);
older.held(
  'should',
  'DEL releases everything that the container holds, without namespace and previous result too.',
  [handle, 'succeeds every time, also with an empty CNI_NETNS and without prevResult or arguments'],
);
older.held('must', 'The previous result is passed on, changed or suppressed explicitly; 0.3.x: echoed.', [
  plugin,
  'hands a result of ${version} on as it is, with the agent there or not',
]);
older.held('should', 'Unknown args are ignored.', [
  plugin,
  'refuses a result of a version that it does not know, and fields that it cannot serve',
]);
older.held(
  'must',
  'CHECK says nothing or fails; 0.3.1 does not have it, nor do versions before 1.1.0 have GC and STATUS.',
  [handle, 'refuses commands that the version does not have with code 1'],
  [tool, 'adds, checks and deletes a pod of the mesh in ${version}'],
);
older.held('must', 'The configuration comes on standard input and need not be a file; of up to 1 MiB.', [
  plugin,
  'carries a configuration of nearly 1 MiB, and refuses a longer one',
]);

export const conformanceRows: readonly ConformanceRow[] = rows;

const cell = (text: string): string => text.replaceAll('|', '\\|');

export function cniConformancePage(note: string): string {
  const lines = conformanceRows.map(({ section: at, strength, rule, verdict, why, tests }) => {
    const named = tests.map(([file, name]) => `\`${file}\`: ${cell(name)}`).join('<br>');
    const said = why === undefined ? verdict : `${verdict}: ${why}`;
    return `| ${at} | ${strength} | ${cell(rule)} | ${cell(said)} | ${named} |`;
  });
  return [
    '# The CNI plugin and the CNI specification',
    '',
    note,
    '',
    'What versions 0.3.1 to 1.1.0 of the specification ask of a plugin that is chained after others, in our words, and the',
    'tests that hold it. What they ask of container runtimes, of plugins that make interfaces and of those for addresses is',
    'left out where nothing of it concerns us.',
    '',
    '| where | strength | rule | nodemesh-cni | tests |',
    '| --- | --- | --- | --- | --- |',
    ...lines,
  ].join('\n');
}
