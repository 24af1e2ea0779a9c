// SPDX-License-Identifier: Apache-2.0
// An agent as far as a keeper sees it: puts descriptor 3 under a key, claims to hold, and beats until it is killed.

import { connectKeeper } from '#lib/keeper/client.ts';

const [socketPath = '', key = ''] = process.argv.slice(2);
const client = connectKeeper(socketPath, { timeoutMs: 5000 });
client.put(key, Buffer.from('meta'), 3);
client.setBlob(Buffer.from('snapshot'));
client.hold();
process.stdout.write('holds\n');
setInterval(() => client.beat(), 50);
