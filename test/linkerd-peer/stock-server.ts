// SPDX-License-Identifier: Apache-2.0
// A stock Linkerd's destination and policy services in a pod, with one identity on both ports. What they know of the
// cluster is in a file, which is read again when it changes.
//   node stock-server.ts FILE

import { readFileSync, watchFile } from 'node:fs';
import { ownCertificate } from './environment.ts';
import { type Picture, StockLinkerd } from './stock-linkerd.ts';

const [file = ''] = process.argv.slice(2);
const picture = (): Picture => JSON.parse(readFileSync(file, 'utf8')) as Picture;

const linkerd = new StockLinkerd(picture());
const shown = await ownCertificate();
await linkerd.listen(shown, { host: '::', port: 8086 }, 'Destination/');
await linkerd.listen(shown, { host: '::', port: 8090 }, 'OutboundPolicies/');
watchFile(file, { interval: 100 }, () => linkerd.show(picture()));
