// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { describe, it } from 'node:test';
import 'reflect-metadata';
import { Pkcs10CertificateRequest, SubjectAlternativeNameExtension } from '@peculiar/x509';
import * as fc from 'fast-check';
import { MeshError } from '#lib/core/errors.ts';
import { createCertificateRequest } from './csr.ts';
import { derElement, derObjectIdentifier } from './der.ts';

const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const label = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/);

describe('createCertificateRequest', () => {
  it('is read back by an X.509 library, whatever the name', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(label, { minLength: 1, maxLength: 7 }), async (labels) => {
        const name = labels.join('.');
        const request = new Pkcs10CertificateRequest(Uint8Array.from(createCertificateRequest(name, keys)));
        assert.equal(request.subject, '');
        assert.ok(await request.verify());
        assert.deepEqual(
          Buffer.from(request.publicKey.rawData),
          keys.publicKey.export({ type: 'spki', format: 'der' }),
        );
        const names = Array.from(request.extensions).flatMap((extension) =>
          extension instanceof SubjectAlternativeNameExtension ? extension.names.items : [],
        );
        assert.deepEqual(
          names.map((item) => [item.type, item.value]),
          [['dns', name]],
        );
      }),
      { numRuns: 50 },
    );
  });

  it('is verified and read by OpenSSL', () => {
    const name = `${'web.'.repeat(40)}serviceaccount.identity.linkerd.cluster.local`;
    const text = execFileSync('openssl', ['req', '-inform', 'der', '-noout', '-text', '-verify'], {
      input: createCertificateRequest(name, keys),
      encoding: 'utf8',
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    assert.match(text, /Subject: \n/);
    assert.match(text, /NIST CURVE: P-256/);
    assert.match(text, /X509v3 Subject Alternative Name: critical\s+DNS:web\.web/);
    assert.ok(text.includes(`DNS:${name}\n`));
    assert.match(text, /Signature Algorithm: ecdsa-with-SHA256/);
  });

  it('refuses what can be no DNS name', () => {
    for (const name of ['', 'a b', 'ümlaut', 'x'.repeat(256), 'a\u0000b'])
      assert.throws(() => createCertificateRequest(name, keys), MeshError);
  });
});

describe('DER', () => {
  it('writes lengths in the shortest form', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 70_000 }), (length) => {
        const element = derElement(0x04, Buffer.alloc(length));
        const first = element[1] ?? 0;
        if (length < 128) return element.length === length + 2 && first === length;
        const count = first & 0x7f;
        const read = element.readUIntBE(2, count);
        const isShortest = length >= 2 ** (8 * (count - 1)) || length < 256;
        return first > 0x80 && read === length && isShortest && element.length === 2 + count + length;
      }),
      { examples: [[0], [127], [128], [255], [256], [65_535], [65_536]] },
    );
  });

  it('writes object identifiers as OpenSSL reads them', () => {
    for (const dotted of [
      '1.2.840.113549.1.9.14',
      '2.5.29.17',
      '1.3.6.1.4.1.11129.2.4.2',
      '2.999.128.16384',
    ]) {
      const text = execFileSync('openssl', ['asn1parse', '-inform', 'der', '-oid', '/dev/null'], {
        input: derObjectIdentifier(dotted),
        encoding: 'utf8',
      });
      const shown = text.split('OBJECT')[1]?.replace(/^\s*:/, '').trim() ?? '';
      const known: Record<string, string> = {
        '1.2.840.113549.1.9.14': 'Extension Request',
        '2.5.29.17': 'X509v3 Subject Alternative Name',
        '1.3.6.1.4.1.11129.2.4.2': 'CT Precertificate SCTs',
      };
      assert.equal(shown, known[dotted] ?? dotted);
    }
  });
});
