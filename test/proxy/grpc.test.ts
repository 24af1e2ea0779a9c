// SPDX-License-Identifier: Apache-2.0
import { describeGrpc } from './grpc-scenarios.ts';

describeGrpc('gRPC');
