// SPDX-License-Identifier: Apache-2.0
// The tests that a document names as `file`: "name", for checks that there are such tests.

export interface DocumentTest {
  readonly file: string;
  readonly name: string;
}

export function namedTests(markdown: string): DocumentTest[] {
  const pattern = /`([\w./-]+\.test\.ts)`:\s+"([^"]+)"/g;
  return [...markdown.matchAll(pattern)].map(([, file = '', name = '']) => ({
    file,
    name: name.replaceAll(/\s+/g, ' '),
  }));
}
