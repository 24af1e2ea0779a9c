// SPDX-License-Identifier: Apache-2.0
// What tests with the CNI project's cnitool share.

import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** As it names the container of a network namespace. */
export const containerId = (netns: string): string =>
  `cnitool-${createHash('sha512').update(netns).digest('hex').slice(0, 20)}`;

/** Debian's bridge speaks up to 1.0.0: as `bridge-1.1` in the folder it speaks 1.1.0 too, of which it needs nothing new. */
export function writeNewerBridge(folder: string, bridge: string): void {
  writeFileSync(
    join(folder, 'bridge-1.1'),
    `#!/bin/sh
[ "$CNI_COMMAND" != GC ] && [ "$CNI_COMMAND" != STATUS ] || { cat >/dev/null; exit 0; }
answer=$(mktemp)
sed 's/"cniVersion":"1.1.0"/"cniVersion":"1.0.0"/g' | '${bridge}' >"$answer"
code=$?
[ "$CNI_COMMAND" != VERSION ] || set -- -e 's/"1.0.0"\\]/"1.0.0","1.1.0"]/'
sed -e 's/"cniVersion": *"1.0.0"/"cniVersion":"1.1.0"/' "$@" "$answer"
rm "$answer"
exit $code
`,
    { mode: 0o755 },
  );
}
