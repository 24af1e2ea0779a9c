// SPDX-License-Identifier: Apache-2.0
import { describeHttp2 } from './http2-scenarios.ts';

describeHttp2('HTTP/2 on one node, in memory', 'memory');
