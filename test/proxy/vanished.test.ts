// SPDX-License-Identifier: Apache-2.0
import { describeVanished } from './vanished-scenarios.ts';

describeVanished('peers that are gone');
