// SPDX-License-Identifier: Apache-2.0
// The images that `make cluster-up` imports: their sizes, and what they share.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { imageTag, TEST_IMAGE } from '../../scripts/images/layout.ts';

const archive = join(import.meta.dirname, '../../build/images/nodemesh.tar');
const MB = 1_000_000;

interface Image {
  readonly layers: readonly string[];
  readonly bytes: number;
  readonly user: string | undefined;
}

const tar = (...args: readonly string[]): string =>
  execFileSync('tar', [`--file=${archive}`, ...args], { encoding: 'utf8' });
const member = (path: string): string => tar('--extract', '--to-stdout', `./${path}`);

function readImages(): Map<string, Image> {
  const sizes = new Map(
    [...tar('--list', '--verbose').matchAll(/^\S+ \S+ +(\d+) \S+ \S+ \.\/(.*)$/gm)].map((match) => [
      match[2],
      Number(match[1]),
    ]),
  );
  const manifest = JSON.parse(member('manifest.json')) as {
    Config: string;
    RepoTags: [string];
    Layers: string[];
  }[];
  return new Map(
    manifest.map(({ Config, RepoTags, Layers }) => {
      const { config } = JSON.parse(member(Config)) as { config: { User?: string } };
      const bytes = Layers.reduce((sum, layer) => sum + (sizes.get(layer) ?? Number.NaN), 0);
      return [RepoTags[0], { layers: Layers, bytes, user: config.User }];
    }),
  );
}

describe('the images', () => {
  const images = readImages();
  const image = (tag: string): Image => images.get(tag) ?? assert.fail(`no image ${tag}`);

  for (const [name, most] of Object.entries({ controller: 260, agent: 250, keeper: 3 })) {
    test(`${name} has less than ${most} MB unpacked`, () => {
      const { bytes } = image(imageTag(name));
      assert.ok(bytes > 0 && bytes < most * MB, `${bytes} bytes`);
    });
  }

  test('with Node.js share their lowest layer', () => {
    const lowest = [imageTag('controller'), imageTag('agent'), TEST_IMAGE].map((tag) => image(tag).layers[0]);
    assert.equal(new Set(lowest).size, 1);
  });

  test('run the control plane as a user who is not root', () => {
    assert.equal(image(imageTag('controller')).user, '2103');
  });
});
