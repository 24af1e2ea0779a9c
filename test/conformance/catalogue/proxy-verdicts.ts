// SPDX-License-Identifier: Apache-2.0
// Scenarios of Linkerd's proxy that hold otherwise here, or not at all, and why. Those that hold otherwise have a test
// of what holds instead; its name begins with the scenario's number.

export interface ProxyVerdict {
  readonly id: string;
  readonly verdict: 'different' | 'not applicable';
  /** A sentence of this project's design that asks for it, or why it does not concern us. */
  readonly why: string;
}

const GATEWAYS =
  'Gateways belong to multicluster, which is not there: no pod can be one, config.linkerd.io/enable-gateway is warned of, and a header that names a service is refused.';

const ACCRUAL =
  'Breaking by the share of success is alpha and no part of a released Linkerd. Failures in a row break; the mode "unified" is a value that cannot be read, by which no endpoint is left out.';

export const proxyVerdicts: readonly ProxyVerdict[] = [
  {
    id: 'C-006',
    verdict: 'different',
    why: '"Outbound listener without a recorded destination: close": nobody dialled what reaches it without the record that the kernel keeps of a connect, so there is nobody to answer with 502.',
  },
  {
    id: 'C-007',
    verdict: 'different',
    why: '"Inbound listener with a loopback local address: close": connections from inside the pod are never steered there; what finds the listener all the same is closed instead of answered with 403.',
  },
  {
    id: 'C-289',
    verdict: 'different',
    why: '"anything else as TCP"; "client half-close before and after detection": a client that ends its side first is passed on, not dropped, and what is no request line is not taken for one because it is long.',
  },
  {
    id: 'C-180',
    verdict: 'not applicable',
    why: GATEWAYS,
  },
  {
    id: 'C-182',
    verdict: 'not applicable',
    why: GATEWAYS,
  },
  {
    id: 'C-184',
    verdict: 'not applicable',
    why: GATEWAYS,
  },
  {
    id: 'C-197',
    verdict: 'not applicable',
    why: 'There is no setting that makes the host which an unmeshed client names a label; series would be as many as clients like.',
  },
  {
    id: 'C-231',
    verdict: 'not applicable',
    why: ACCRUAL,
  },
  {
    id: 'C-235',
    verdict: 'not applicable',
    why: ACCRUAL,
  },
  {
    id: 'C-237',
    verdict: 'not applicable',
    why: ACCRUAL,
  },
  {
    id: 'C-238',
    verdict: 'not applicable',
    why: ACCRUAL,
  },
  {
    id: 'C-301',
    verdict: 'not applicable',
    why: 'Plain peak EWMA balances; the variant with penalties is no part of a released Linkerd. Endpoints that fail are left out by their breaker.',
  },
  {
    id: 'C-302',
    verdict: 'not applicable',
    why: 'Only the variant of peak EWMA with penalties reads Retry-After.',
  },
  {
    id: 'C-225',
    verdict: 'different',
    why: '"No answer from destination means wait, then 503 or close. An outage must not downgrade meshed traffic": an error is no answer, so the connection waits and then fails; only a definite "not found" lets it pass.',
  },
  {
    id: 'C-162',
    verdict: 'not applicable',
    why: '"The accepted socket’s local address is the original destination": it is always an address of the pod’s own namespace, further interfaces included.',
  },
  {
    id: 'C-154',
    verdict: 'not applicable',
    why: 'A pod has no proxy process of its own whose environment could be shown.',
  },
  {
    id: 'C-155',
    verdict: 'not applicable',
    why: 'A pod has no proxy process of its own whose environment could be shown.',
  },
  {
    id: 'C-156',
    verdict: 'not applicable',
    why: 'The log is the agent’s and speaks of all pods of the node: a pod’s admin port shows nothing of the others.',
  },
  {
    id: 'C-157',
    verdict: 'not applicable',
    why: 'The log is the agent’s and speaks of all pods of the node: a pod’s admin port shows nothing of the others.',
  },
  {
    id: 'C-158',
    verdict: 'not applicable',
    why: 'The log is the agent’s and speaks of all pods of the node: a pod’s admin port shows nothing of the others.',
  },
  {
    id: 'C-159',
    verdict: 'not applicable',
    why: 'The log is the agent’s and speaks of all pods of the node: a pod’s admin port shows nothing of the others.',
  },
  {
    id: 'C-160',
    verdict: 'not applicable',
    why: 'The log is the agent’s and speaks of all pods of the node: a pod’s admin port shows nothing of the others.',
  },
  {
    id: 'C-046',
    verdict: 'different',
    why: '"Only a definite "not found" lets traffic pass as plain TCP": that a question is wrong says nothing about where it leads. Requests fail until there is an answer.',
  },
  {
    id: 'C-446',
    verdict: 'different',
    why: '"No answer from destination means wait, then 503 or close": connections to unknown destinations end after 10 s instead of waiting for ever.',
  },
  {
    id: 'C-312',
    verdict: 'not applicable',
    why: 'Streams of the control plane have no time limits: gRPC’s keep-alive finds a dead connection within 30 s, and a stream that lives is left alone.',
  },
  {
    id: 'C-310',
    verdict: 'not applicable',
    why: 'Names of the control plane are resolved by the system, and those of applications are their own business.',
  },
];
