// SPDX-License-Identifier: Apache-2.0
// The handlers of Destination and NodeService for any gRPC server: who calls is a parameter, so that TLS is none
// of their business.

import type { Clock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type {
  DuplexCall,
  DuplexHandler,
  Handlers,
  ServerCall,
  ServerStream,
  StreamHandler,
  UnaryHandler,
} from '#lib/grpc/call.ts';
import type { DestinationService, GetDestination } from '#lib/proto/gen/linkerd/destination.ts';
import type { InboundServerPoliciesService, PortSpec } from '#lib/proto/gen/linkerd/inbound.ts';
import type { OutboundPoliciesService, TrafficSpec } from '#lib/proto/gen/linkerd/outbound.ts';
import type { FromNode, NodeServiceService, ToNode } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import type { MeshSettings } from '#lib/registry/mesh-settings.ts';
import type { AnyRoute } from '#lib/registry/model.ts';
import type { Leadership } from '#lib/registry/leadership.ts';
import type { Registry, Watch } from '#lib/registry/registry.ts';
import type { TokenReviewer } from '#lib/registry/token-review.ts';
import { type Caller, Callers } from './callers.ts';
import { type ClusterIndex, createClusterIndex, routeKinds } from './cluster-index.ts';
import { type ContextToken, parseContextToken, parseWorkload } from './context-token.ts';
import { EnrolmentReports } from './enrolment-reports.ts';
import { createLookupTargets, type LookupContext, serveGet } from './get.ts';
import { serveGetProfile } from './get-profile.ts';
import type { DestinationMetrics } from './metrics.ts';
import { authenticateNode } from './node-authentication.ts';
import { ServedNode } from './node-stream.ts';
import { inboundServer, serveWatchPort } from './inbound-policies.ts';
import { outboundPolicy, serveWatch } from './outbound-policy.ts';
import { createPodEvents } from './pod-events.ts';
import { type Asker, routeProblem } from './route-message.ts';
import { CallError, status } from '#lib/grpc/status.ts';

export interface DestinationServicesOptions {
  readonly registry: Registry;
  readonly reviewer: TokenReviewer;
  readonly leadership: Leadership;
  readonly settings: MeshSettings;
  readonly cluster: string;
  readonly agentServiceAccount: string;
  readonly version: string;
  /** The identity and connection of a call's client; undefined if it has no identity. */
  readonly callerOf: (call: ServerCall) => Caller | undefined;
  readonly metrics: DestinationMetrics;
  readonly clock: Clock;
  readonly log: Log;
}

export interface DestinationServices {
  readonly index: ClusterIndex;
  readonly destination: Handlers<typeof DestinationService>;
  readonly outboundPolicies: Handlers<typeof OutboundPoliciesService>;
  readonly inboundPolicies: Handlers<typeof InboundServerPoliciesService>;
  readonly node: Handlers<typeof NodeServiceService>;
  close(): void;
}

const HELLO_TIMEOUT_MS = 10_000;
const noToken = Buffer.alloc(0);

const tokenOfGet = ({ contextToken }: GetDestination): ContextToken => parseContextToken(contextToken);
const sourceOf = ({ sourceWorkload }: TrafficSpec): ContextToken => requireWorkload(sourceWorkload);
const workloadOf = ({ workload }: PortSpec): ContextToken => requireWorkload(workload);

function requireWorkload(text: string): ContextToken {
  const token = parseWorkload(text);
  if (token === undefined) {
    throw new CallError(
      status.INVALID_ARGUMENT,
      `"${text}" names no workload: expected {"ns":…,"pod":…} or namespace:pod`,
    );
  }
  return token;
}

export function createDestinationServices(options: DestinationServicesOptions): DestinationServices {
  const { registry, settings, cluster, metrics, log } = options;
  const index = createClusterIndex({ registry, settings });
  const callers = new Callers({ ...options, index });
  const reports = new EnrolmentReports({ registry, log });
  const targets = createLookupTargets(settings.clusterDomain, cluster);
  const context: LookupContext = { index, settings, cluster, targets };
  const events = createPodEvents({ registry, leadership: options.leadership, log });
  const routes = routeWatches(registry, log);
  index.onPod({ changed: (meshPod) => events.tell(meshPod), removed: (uid) => events.forget(uid) });

  const requireCaller = (call: ServerCall): Caller => {
    const caller = options.callerOf(call);
    if (caller === undefined) {
      throw new CallError(status.UNAUTHENTICATED, `${call.peer} showed no certificate with an identity`);
    }
    return caller;
  };

  const askerOf = ({ identity }: Caller): Asker => (identity === callers.agentIdentity ? 'agent' : 'proxy');

  /** What a call is answered with that went wrong; logged and counted. */
  const refusal = (name: string, call: ServerCall, error: unknown): CallError => {
    const known = error instanceof CallError ? error : new CallError(status.INTERNAL, errorMessage(error));
    const level =
      known.code === status.NOT_FOUND || known.code === status.INVALID_ARGUMENT ? 'debug' : 'warn';
    log[level](
      { call: name, peer: call.peer, code: status[known.code], reason: known.details },
      'call refused',
    );
    metrics.streamRefused(name, status[known.code]);
    return known;
  };

  /** Runs an async handler; what it throws ends the call with its status. */
  const guard = (name: string, call: ServerStream<never>, run: () => Promise<void>): void => {
    metrics.streamOpened(name, call);
    run().catch((error: unknown) => call.fail(refusal(name, call, error)));
  };

  const lookup =
    <Question, Answer>(
      name: string,
      tokenOf: (request: Question) => ContextToken,
      serve: (
        context: LookupContext,
        request: Question,
        call: ServerStream<Answer>,
        token: ContextToken,
        caller: Caller,
      ) => void,
    ): StreamHandler<Question, Answer> =>
    (request, call) => {
      guard(name, call, async () => {
        await index.synced();
        const token = tokenOf(request);
        const caller = requireCaller(call);
        await callers.authorize(caller, token);
        if (!call.ended) serve(context, request, call, token, caller);
      });
    };

  /** The same for questions with one answer. */
  const ask =
    <Question, Answer>(
      name: string,
      tokenOf: (request: Question) => ContextToken,
      answer: (context: LookupContext, request: Question, token: ContextToken, caller: Caller) => Answer,
    ): UnaryHandler<Question, Answer> =>
    async (request, call) => {
      try {
        await index.synced();
        const token = tokenOf(request);
        const caller = requireCaller(call);
        await callers.authorize(caller, token);
        return answer(context, request, token, caller);
      } catch (error) {
        throw refusal(name, call, error);
      }
    };

  const connect: DuplexHandler<FromNode, ToNode> = (call) => {
    guard('Connect', call, async () => {
      await index.synced();
      await serveNode(call);
    });
  };

  async function serveNode(call: DuplexCall<FromNode, ToNode>): Promise<void> {
    const caller = requireCaller(call);
    const first = await firstMessage(call, options.clock);
    if (first?.message?.$case !== 'hello') {
      throw new CallError(status.FAILED_PRECONDITION, 'the first message of a node stream is Hello');
    }
    const { hello } = first.message;
    const agent = await authenticateNode({ ...options, index, callers }, caller, hello);
    const unbind = callers.bind(caller, hello.nodeName);
    const { connection } = caller;
    const fields = {
      node: hello.nodeName,
      instance: hello.instanceId,
      version: hello.version,
      peer: connection,
    };
    log.info(fields, 'node stream begins');
    call.listen({
      ended() {
        unbind();
        log.info(fields, 'node stream ends');
      },
    });
    if (call.ended) return;
    const served = new ServedNode({
      ...options,
      call,
      // Nobody needs the secret any more, and it would hold the 64 KiB of which it is a part.
      hello: { ...hello, token: noToken },
      agent,
      index,
      reports,
      onReport: (outcome) => metrics.reportTaken(outcome),
    });
    call.receive({ message: (message) => served.take(message), finished: () => call.end() });
  }

  return {
    index,
    destination: {
      get: lookup('Get', tokenOfGet, serveGet),
      getProfile: lookup('GetProfile', tokenOfGet, serveGetProfile),
    },
    outboundPolicies: {
      get: ask('GetPolicy', sourceOf, (own, request, token, caller) =>
        outboundPolicy(own, request, token, askerOf(caller)),
      ),
      watch: lookup('Watch', sourceOf, (own, request, call, token, caller) =>
        serveWatch(own, request, call, token, askerOf(caller)),
      ),
    },
    inboundPolicies: {
      getPort: ask('GetPort', workloadOf, inboundServer),
      watchPort: lookup('WatchPort', workloadOf, serveWatchPort),
    },
    node: { connect },
    close() {
      for (const watch of routes) watch.close();
      index.close();
    },
  };
}

/** Whoever wrote a route that cannot be served finds the reason in the log. */
function routeWatches(registry: Registry, log: Log): Watch[] {
  const tell = (route: AnyRoute): void => {
    const problem = routeProblem(route);
    const { namespace, name } = route.metadata;
    if (problem !== '') {
      log.warn(
        { route: `${namespace}/${name}`, kind: route.kind, problem },
        'a route cannot be used and is left out',
      );
    }
  };
  return routeKinds.map((kind) =>
    registry.watch(kind, { added: tell, changed: tell, removed: () => undefined }),
  );
}

/** Those after it wait until somebody receives them. */
function firstMessage(call: DuplexCall<FromNode, ToNode>, clock: Clock): Promise<FromNode | undefined> {
  return new Promise((resolve, reject) => {
    const timer = clock.after(HELLO_TIMEOUT_MS, () =>
      reject(new CallError(status.DEADLINE_EXCEEDED, `no Hello within ${HELLO_TIMEOUT_MS} ms`)),
    );
    const settle = (message: FromNode | undefined): void => {
      timer.cancel();
      resolve(message);
    };
    call.receive({
      message(message) {
        call.receive(undefined);
        settle(message);
      },
      finished: () => settle(undefined),
    });
    call.listen({ ended: () => settle(undefined) });
  });
}
