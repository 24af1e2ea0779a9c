// SPDX-License-Identifier: Apache-2.0
// The peer as a pod's server.

import { ownCertificate } from './environment.ts';
import { servePeer } from './serve-peer.ts';

servePeer(await ownCertificate());
