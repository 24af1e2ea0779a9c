// SPDX-License-Identifier: Apache-2.0
import { describeVanished } from './vanished-scenarios.ts';

describeVanished('peers of the same node that are gone, in memory', 'memory');
