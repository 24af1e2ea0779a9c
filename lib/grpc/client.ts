// SPDX-License-Identifier: Apache-2.0
// Options and credentials of gRPC channels to the control plane: mesh TLS instead of the TLS of the web, and with
// every reconnect the newest certificate and anchors. What is called over the channel is the caller's business; where the
// server is reached is server-addresses.ts'.

import { CallCredentials, ChannelCredentials, type ChannelOptions, type experimental } from '@grpc/grpc-js';
import { secureMesh } from '#lib/tls/mesh-client.ts';
import { createMeshContext, type MeshMaterial } from '#lib/tls/mesh-context.ts';
import { limitConnect } from './connect-limit.ts';
import { type Dial, dialOf } from './server-addresses.ts';

export interface MeshChannel {
  readonly credentials: ChannelCredentials;
  readonly options: ChannelOptions;
}

export interface MeshChannelOptions {
  /** The identity that the server must prove. */
  readonly serverIdentity: string;
  /** Asked at every connect; a certificate is optional. */
  readonly material: () => MeshMaterial;
  readonly messageBytesMax?: number;
  /** Of a TCP connect, 2 s if absent. */
  readonly connectTimeoutMs?: number;
  readonly handshakeTimeoutMs?: number;
  /** The longest pause between two connects, 10 s if absent. */
  readonly reconnectMaxMs?: number;
  /** Hears of each dial that failed: gRPC itself only tells the calls, and of one. */
  readonly onDialFailure?: (failure: DialFailure) => void;
}

export interface DialFailure extends Dial {
  /** Of the connect, or of the TLS handshake. */
  readonly error: unknown;
}

const CONNECT_TIMEOUT_MS = 2000;

/** What to pass as credentials and options to a generated client: `new XClient(targetOf('ip:port'), c.credentials, c.options)`. */
export function createMeshChannel(options: MeshChannelOptions): MeshChannel {
  const bytesMax = options.messageBytesMax ?? 4 * 1024 * 1024;
  return {
    credentials: new MeshChannelCredentials(options),
    options: {
      'grpc.default_authority': options.serverIdentity,
      'grpc.enable_channelz': 0,
      'grpc.enable_http_proxy': 0,
      'grpc.service_config_disable_resolution': 1,
      // Subchannels are shared between channels otherwise, with the credentials of whichever came first.
      'grpc.use_local_subchannel_pool': 1,
      // Both are jittered by grpc-js.
      'grpc.initial_reconnect_backoff_ms': 200,
      'grpc.max_reconnect_backoff_ms': options.reconnectMaxMs ?? 10_000,
      'grpc.keepalive_time_ms': 20_000,
      'grpc.keepalive_timeout_ms': 10_000,
      'grpc.max_receive_message_length': bytesMax,
      'grpc.max_send_message_length': bytesMax,
    },
  };
}

class MeshChannelCredentials extends ChannelCredentials {
  readonly #options: MeshChannelOptions;

  constructor(options: MeshChannelOptions) {
    super();
    this.#options = options;
  }

  override _isSecure(): boolean {
    return true;
  }

  override _equals(other: ChannelCredentials): boolean {
    return other === this;
  }

  override _createSecureConnector(
    target: experimental.GrpcUri,
    _options: ChannelOptions,
    callCredentials?: CallCredentials,
  ): experimental.SecureConnector {
    const options = this.#options;
    const calls = callCredentials ?? CallCredentials.createEmpty();
    const failed = (host: string, port: number, error: unknown): void =>
      options.onDialFailure?.({ ...dialOf(target.path, host, port), error });
    return {
      async connect(socket) {
        // It has none any more when TLS has failed.
        const { remoteAddress = '', remotePort = 0 } = socket;
        try {
          const encrypted = await secureMesh(socket, {
            context: createMeshContext(options.material()),
            serverIdentity: options.serverIdentity,
            handshakeTimeoutMs: options.handshakeTimeoutMs ?? 10_000,
          });
          return { socket: encrypted, secure: true };
        } catch (error) {
          socket.destroy();
          failed(remoteAddress, remotePort, error);
          throw error;
        }
      },
      // What grpc-js calls before it connects.
      waitForReady() {
        limitConnect({ ms: options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS, failed });
        return Promise.resolve();
      },
      getCallCredentials: () => calls,
      destroy: () => undefined,
    };
  }
}
