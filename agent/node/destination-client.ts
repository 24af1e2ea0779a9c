// SPDX-License-Identifier: Apache-2.0
// The agent's one connection to destination. Node stream and lookups share it on purpose: destination knows by
// the node stream's token for which node the connection may look things up.

import { Channel, type ChannelCredentials, type ChannelOptions, type Interceptor } from '@grpc/grpc-js';
import { DestinationClient } from '#lib/proto/gen/linkerd/destination.ts';
import { OutboundPoliciesClient } from '#lib/proto/gen/linkerd/outbound.ts';
import { NodeServiceClient } from '#lib/proto/gen/nodemesh/node/v1/node.ts';

export interface DestinationConnection {
  readonly node: NodeServiceClient;
  readonly destination: DestinationClient;
  readonly policies: OutboundPoliciesClient;
  close(): void;
}

/** `channel` as lib/grpc/client.ts makes it. */
export function connectDestination(
  address: string,
  channel: { readonly credentials: ChannelCredentials; readonly options: ChannelOptions },
  interceptor?: Interceptor,
): DestinationConnection {
  const shared = new Channel(address, channel.credentials, channel.options);
  const options = {
    channelOverride: shared,
    ...(interceptor === undefined ? {} : { interceptors: [interceptor] }),
  };
  return {
    node: new NodeServiceClient(address, channel.credentials, options),
    destination: new DestinationClient(address, channel.credentials, options),
    policies: new OutboundPoliciesClient(address, channel.credentials, options),
    close: () => shared.close(),
  };
}
