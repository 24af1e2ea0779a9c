// SPDX-License-Identifier: Apache-2.0
// Every rule of Certify with what it refuses, and what is issued beside it. Tokens, reviews, registries and
// certificates are real; where a rule is about a part that fails, that part fails on purpose.
import assert from 'node:assert/strict';
import { generateKeyPairSync, webcrypto, X509Certificate } from 'node:crypto';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import 'reflect-metadata';
import { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension } from '@peculiar/x509';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import type { CertifyRequest } from '#lib/proto/gen/linkerd/identity.ts';
import type { Registry } from '#lib/registry/registry.ts';
import { tokenAudiences, type TokenReviewer } from '#lib/registry/token-review.ts';
import { createLocalTokenReviewer } from '#lib/registry-folder/token-review.ts';
import { makeTokenKey } from '#lib/registry-folder/token-signer.ts';
import { createCertificateRequest } from '#lib/x509/csr.ts';
import { checkChain, parseCertificates } from '#lib/x509/verify.ts';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import { createAccounts, type Accounts } from './accounts.ts';
import { whyNotMeshed } from './identity.ts';
import { defaultReviewLimits } from '#lib/registry/cached-reviews.ts';
import { type CertifyRule, certifyRules, Refusal } from './rules.ts';
import { type Certify, type CertifyOptions, createCertify } from './service.ts';
import { cluster, clusterWith, domain, idOf, pod, TestCluster } from './test-cluster.ts';

const HOUR_MS = 3_600_000;
const nowMs = Math.floor(Date.now() / 1000) * 1000;
const tested = new Set<CertifyRule>();
let authority: TestAuthority;

describe('Certify', () => {
  let lines: LogLine[] = [];
  let test: TestCluster;
  let opened: Accounts[] = [];

  before(async () => {
    authority = await makeTestAuthority(nowMs);
  });
  beforeEach(() => {
    lines = [];
    opened = [];
    test = new TestCluster(nowMs);
  });
  afterEach(async () => {
    for (const accounts of opened) accounts.close();
    await test.close();
  });
  after(() => {
    assert.deepEqual([...tested].sort(), Object.keys(certifyRules).sort(), 'every rule has its test');
  });

  /** Certify over the cluster; `seen` is what identity has read, if that is not what the reviewer knows. */
  async function certifier(
    options: Partial<CertifyOptions> & { seen?: typeof cluster; seenRegistry?: Registry } = {},
  ): Promise<Certify> {
    const registry = options.seenRegistry ?? test.registry(options.seen);
    const reviewed = test.registry();
    const accounts = createAccounts({
      registry,
      cluster: 'local',
      whyNotMeshed: (one) => whyNotMeshed(one, { registry, namespace: 'nodemesh' }),
    });
    opened.push(accounts);
    if (options.seenRegistry === undefined) await registry.synced();
    await reviewed.synced();
    return createCertify({
      domain,
      agent: { namespace: 'nodemesh', name: 'nodemesh-agent' },
      accounts,
      issuer: () => authority.issuer,
      reviewer: createLocalTokenReviewer({
        publicKeyPem: test.tokenKey.publicKeyPem,
        registry: reviewed,
        cluster: 'local',
        clock: test.clock,
      }),
      leafLifetimeMs: 24 * HOUR_MS,
      clockSkewMs: 20_000,
      clock: test.clock,
      log: recordingLog(lines),
      onResult: () => undefined,
      ...options,
    });
  }

  async function refused(
    certify: Certify,
    request: CertifyRequest,
    rule: CertifyRule,
    message: RegExp,
  ): Promise<void> {
    tested.add(rule);
    await assert.rejects(certify(request), (error: unknown) => {
      assert.ok(error instanceof Refusal, String(error));
      assert.equal(error.rule, rule, error.message);
      assert.match(error.message, message);
      return true;
    });
  }

  const issued = async (certify: Certify, request: CertifyRequest): Promise<X509Certificate> => {
    const response = await certify(request);
    return new X509Certificate(response.leafCertificate);
  };

  describe('issues', () => {
    it('to a pod its own account', async () => {
      const certify = await certifier();
      const leaf = await issued(certify, test.request(idOf('web'), test.podToken('web', 'web-1')));
      assert.equal(leaf.subjectAltName, `DNS:${idOf('web')}`);
    });

    it('to an agent its own account, with either audience', async () => {
      const certify = await certifier();
      const own = idOf('nodemesh-agent', 'nodemesh');
      for (const audience of [tokenAudiences.agent, tokenAudiences.identity])
        await issued(certify, test.request(own, test.agentToken({ audiences: [audience] })));
    });

    it('to an agent the accounts of meshed pods of its own node, and says for which node', async () => {
      const certify = await certifier();
      await issued(certify, test.request(idOf('web'), test.agentToken()));
      const line = lines.find(({ message }) => message === 'certificate issued');
      assert.equal(line?.fields['identity'], idOf('web'));
      assert.equal(line?.fields['node'], 'n1');
    });

    it('a certificate for both sides of TLS that is no authority, with the chain up to the anchor', async () => {
      const certify = await certifier();
      const response = await certify(test.request(idOf('web'), test.agentToken()));
      const leaf = new X509Certificate(response.leafCertificate);
      const intermediates = response.intermediateCertificates.map((der) => new X509Certificate(der));
      const anchors = parseCertificates(authority.anchorPem, 'anchor');
      assert.ok('path' in checkChain({ leaf, intermediates, anchors, wallMs: nowMs }));
      assert.ok(leaf.checkPrivateKey(test.keys.privateKey));
      assert.equal(leaf.ca, false);
      assert.deepEqual(leaf.keyUsage, ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2']);
      assert.equal(leaf.subject, undefined);
    });

    it('for 24 hours and the clock skew on both ends', async () => {
      const certify = await certifier();
      const response = await certify(test.request(idOf('web'), test.agentToken()));
      const leaf = new X509Certificate(response.leafCertificate);
      assert.equal(leaf.validFromDate.getTime(), nowMs - 20_000);
      assert.equal(leaf.validToDate.getTime(), nowMs + 24 * HOUR_MS + 20_000);
      assert.equal(Number(response.validUntil?.seconds) * 1000, leaf.validToDate.getTime());
    });

    it('never beyond the end of the issuer', async () => {
      const certify = await certifier({ leafLifetimeMs: 400 * 24 * HOUR_MS });
      const leaf = await issued(certify, test.request(idOf('web'), test.agentToken()));
      assert.equal(leaf.validToDate.getTime(), authority.issuer.notAfterMs);
    });

    it('with random serial numbers', async () => {
      const certify = await certifier();
      const serials = new Set<string>();
      for (let count = 0; count < 5; count++)
        serials.add((await issued(certify, test.request(idOf('web'), test.agentToken()))).serialNumber);
      assert.equal(serials.size, 5);
      for (const serial of serials) assert.match(serial, /^[4-7][0-9A-F]{31}$/);
    });
  });

  describe('refuses by the request', () => {
    it('fields that are missing', async () => {
      const certify = await certifier();
      const whole = test.request(idOf('web'), test.agentToken());
      await refused(certify, { ...whole, identity: '' }, 'field-missing', /identity/);
      await refused(certify, { ...whole, token: Buffer.alloc(0) }, 'field-missing', /token/);
      await refused(
        certify,
        { ...whole, certificateSigningRequest: Buffer.alloc(0) },
        'field-missing',
        /certificate signing request/,
      );
    });

    it('fields that are too long, at the first byte', async () => {
      const certify = await certifier();
      const whole = test.request(idOf('web'), test.agentToken());
      const csr = whole.certificateSigningRequest;
      await refused(
        certify,
        { ...whole, identity: 'a'.repeat(254) },
        'field-too-long',
        /254 bytes, at most 253/,
      );
      await refused(certify, { ...whole, identity: 'a'.repeat(253) }, 'request-names', /must name/);
      await refused(certify, { ...whole, token: Buffer.alloc(16_385) }, 'field-too-long', /at most 16384/);
      await refused(
        certify,
        { ...whole, certificateSigningRequest: Buffer.concat([csr, Buffer.alloc(8193 - csr.length)]) },
        'field-too-long',
        /at most 8192/,
      );
    });

    it('a request that is none', async () => {
      const certify = await certifier();
      for (const garbage of [
        Buffer.from('garbage'),
        Buffer.from([0x30, 0x82]),
        Buffer.from(authority.issuerPem),
      ])
        await refused(
          certify,
          test.request(idOf('web'), test.agentToken(), garbage),
          'request-unreadable',
          /certificate signing request/,
        );
    });

    it('keys other than ECDSA on P-256', async () => {
      const certify = await certifier();
      const rsa = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', modulusLength: 2048 };
      const algorithms = [
        [{ ...rsa, publicExponent: new Uint8Array([1, 0, 1]) }, /is rsa/],
        [{ name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-256' }, /is ec secp384r1/],
      ] as const;
      for (const [algorithm, message] of algorithms) {
        const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
        const csr = await peculiarRequest(idOf('web'), keys, algorithm);
        await refused(certify, test.request(idOf('web'), test.agentToken(), csr), 'request-key', message);
      }
    });

    it('a request that its own key has not signed', async () => {
      const certify = await certifier();
      const csr = createCertificateRequest(idOf('web'), {
        publicKey: test.keys.publicKey,
        privateKey: generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey,
      });
      await refused(
        certify,
        test.request(idOf('web'), test.agentToken(), csr),
        'request-signature',
        /not signed by its own key/,
      );
    });

    it('names other than the one asked for, in whatever place', async () => {
      const certify = await certifier();
      const web = idOf('web');
      const dns = (value: string) => ({ type: 'dns' as const, value });
      const requests = [
        createCertificateRequest(idOf('cart'), test.keys),
        await ecRequest([dns(web), dns(idOf('cart'))]),
        await ecRequest([dns(web), { type: 'url', value: 'spiffe://x/y' }]),
        await ecRequest([dns(web), { type: 'email', value: 'a@b.c' }]),
        await ecRequest([dns(web), { type: 'ip', value: '10.0.0.1' }]),
        await ecRequest([{ type: 'url', value: web }]),
        await ecRequest([]),
        await ecRequest([dns(web)], `CN=${idOf('cart')}`),
        await ecRequest([dns(web)], `CN=${web}, O=admin`),
      ];
      for (const csr of requests)
        await refused(certify, test.request(web, test.agentToken(), csr), 'request-names', /web\.shop/);
      const fine = await ecRequest([dns(web)], `CN=${web}`);
      await issued(certify, test.request(web, test.agentToken(), fine));
    });
  });

  describe('refuses by the token', () => {
    it('tokens that are not authentic: no JWT, another signer, another algorithm, changed claims', async () => {
      const certify = await certifier();
      const token = test.agentToken();
      const [head = '', body = '', signature = ''] = token.split('.');
      const claims = JSON.parse(Buffer.from(body, 'base64url').toString()) as Record<string, unknown>;
      const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
      const forged = encode({ ...claims, sub: 'system:serviceaccount:kube-system:admin' });
      for (const [bad, message] of [
        ['nonsense', /no JSON Web Token/],
        [test.agentToken({}, makeTokenKey()), /not signed by the key/],
        [`${encode({ alg: 'none' })}.${body}.`, /not signed with ES256/],
        [`${encode({ alg: 'HS256' })}.${body}.${signature}`, /not signed with ES256/],
        [`${head}.${forged}.${signature}`, /not signed by the key/],
        [`${head}.${body}.`, /not signed by the key/],
      ] as const)
        await refused(certify, test.request(idOf('web'), bad), 'token-invalid', message);
    });

    it('tokens that have expired, to the second', async () => {
      const certify = await certifier();
      const request = test.request(idOf('web'), test.agentToken({ lifetimeMs: 600_000 }));
      test.clock.advance(600_000);
      await issued(certify, request);
      test.clock.advance(1000 + 10_000);
      await refused(certify, request, 'token-invalid', /expired/);
    });

    it('tokens that are not valid yet', async () => {
      const certify = await certifier();
      const token = test.agentToken({ issuedAtMs: nowMs + 60_000 });
      await refused(certify, test.request(idOf('web'), token), 'token-invalid', /not valid yet/);
    });

    it('tokens of another audience; no audience is never asked for', async () => {
      const asked: (readonly string[])[] = [];
      const reviewer: TokenReviewer = {
        review: (_token, audiences) => {
          asked.push(audiences);
          // An API server that knows no audiences says yes and names none.
          const username = 'system:serviceaccount:nodemesh:nodemesh-agent';
          return Promise.resolve({
            authenticated: true,
            audiences: [],
            user: { username, uid: '', groups: [], extra: {} },
            error: undefined,
          });
        },
      };
      await refused(
        await certifier({ reviewer }),
        test.request(idOf('nodemesh-agent', 'nodemesh'), test.agentToken()),
        'token-audience',
        /not made for identity\.l5d\.io/,
      );
      assert.deepEqual(asked, [[tokenAudiences.identity, tokenAudiences.agent]]);

      const certify = await certifier();
      for (const audiences of [['https://kubernetes.default.svc'], [tokenAudiences.nodeStream], []])
        await refused(
          certify,
          test.request(idOf('web'), test.podToken('web', 'web-1', { audiences })),
          'token-invalid',
          /audiences/,
        );
      await refused(
        certify,
        test.request(idOf('web'), test.podToken('web', 'web-1', { audiences: [tokenAudiences.agent] })),
        'token-audience',
        /shop\/web is not made for/,
      );
    });

    it('tokens that are no ServiceAccount', async () => {
      const certify = await certifier({ reviewer: answering('system:node:n1') });
      await refused(certify, test.request(idOf('web'), 'token'), 'token-user', /system:node:n1/);
    });

    it('a token that asks for another account than its own', async () => {
      const certify = await certifier();
      for (const token of [
        test.podToken('web', 'web-1'),
        // An agent's without the agents' audience, and one of the same name in another namespace.
        test.agentToken({ audiences: [tokenAudiences.identity] }),
        test.podToken('nodemesh-agent', 'impostor', {
          audiences: [tokenAudiences.identity, tokenAudiences.agent],
        }),
      ])
        await refused(
          certify,
          test.request(idOf('cart'), token),
          'own-account-only',
          /does not certify cart/,
        );
    });

    it('when reviews fail, and tells that from a bad token', async () => {
      const reviewer: TokenReviewer = { review: () => Promise.reject(new Error('api server is away')) };
      await refused(
        await certifier({ reviewer }),
        test.request(idOf('web'), test.agentToken()),
        'review-failed',
        /api server is away/,
      );
    });

    it('when too many tokens are to be reviewed', async () => {
      const certify = await certifier({
        reviewer: answering('system:serviceaccount:shop:web'),
        reviewLimits: { ...defaultReviewLimits, startsPerSecondMax: 1 },
      });
      await issued(certify, test.request(idOf('web'), 'a'));
      await refused(certify, test.request(idOf('web'), 'b'), 'review-busy', /too many tokens/);
      test.clock.advance(1000);
      await issued(certify, test.request(idOf('web'), 'b'));
    });

    it('reviews a token once for many identities, and again after seconds', async () => {
      let reviews = 0;
      const inner = answering('system:serviceaccount:shop:web');
      const certify = await certifier({
        reviewer: {
          review: (...asked) => {
            reviews++;
            return inner.review(...asked);
          },
        },
      });
      const requests = Array.from({ length: 20 }, () => test.request(idOf('web'), 'token'));
      await Promise.all(requests.map((request) => certify(request)));
      await certify(test.request(idOf('web'), 'token'));
      assert.equal(reviews, 1);
      test.clock.advance(10_000);
      await certify(test.request(idOf('web'), 'token'));
      assert.equal(reviews, 2);
    });
  });

  describe('gives an agent only what its node runs', () => {
    it('and nothing if its token is not bound to a pod and a node', async () => {
      const unbound = await certifier({
        reviewer: answering('system:serviceaccount:nodemesh:nodemesh-agent'),
      });
      await refused(unbound, test.request(idOf('web'), 'token'), 'agent-not-bound', /not bound/);
    });

    it('nothing while the cluster has not been read', async () => {
      const registry = test.registry();
      const unread: Registry = {
        synced: () => new Promise(() => undefined),
        list: (kind) => registry.list(kind),
        get: (kind, key) => registry.get(kind, key),
        watch: (kind, handlers) => registry.watch(kind, handlers),
        reportStatus: (one, report) => registry.reportStatus(one, report),
        close: () => void registry.close(),
      };
      const certify = await certifier({ seenRegistry: unread });
      await refused(
        certify,
        test.request(idOf('web'), test.agentToken()),
        'registry-unread',
        /not been read yet/,
      );
      await issued(certify, test.request(idOf('web'), test.podToken('web', 'web-1')));
    });

    it('later, if its own pod has not been seen yet', async () => {
      const certify = await certifier({ seen: clusterWith({ without: 'Pod/agent-1' }) });
      await refused(
        certify,
        test.request(idOf('web'), test.agentToken()),
        'agent-unseen',
        /agent-1 on node n1/,
      );
      assert.ok(certifyRules['agent-unseen'].retry);
    });

    it('nothing once its own pod is dead, replaced or another account', async () => {
      for (const [name, changed] of [
        ['ended', pod('nodemesh', 'agent-1', 'nodemesh-agent', 'n1', { phase: 'Failed' })],
        ['replaced', pod('nodemesh', 'agent-1', 'nodemesh-agent', 'n1', { uid: 'another' })],
        ['another account', pod('nodemesh', 'agent-1', 'default', 'n1')],
      ] as const) {
        const certify = await certifier({ seen: clusterWith({ and: [changed] }) });
        await refused(
          certify,
          test.request(idOf('web'), test.agentToken()),
          'agent-not-alive',
          /agent-1 with uid pod-agent-1 is not alive/,
        );
        assert.ok(name);
      }
      const certify = await certifier();
      for (const podRef of [
        { name: 'agent-1', uid: 'another' },
        { name: 'agent-9', uid: 'pod-agent-1' },
      ])
        await refused(
          certify,
          test.request(idOf('web'), test.agentToken({ pod: podRef })),
          'token-invalid',
          /is not running/,
        );
    });

    it('nothing if its pod runs on another node than its token names', async () => {
      const certify = await certifier({
        seen: clusterWith({ and: [pod('nodemesh', 'agent-1', 'nodemesh-agent', 'n2')] }),
      });
      await refused(
        certify,
        test.request(idOf('web'), test.agentToken()),
        'agent-other-node',
        /runs on node n2, its token names node n1/,
      );
    });

    it('no identity of another mesh', async () => {
      const certify = await certifier();
      const foreign = 'web.shop.serviceaccount.identity.linkerd.example.org';
      await refused(certify, test.request(foreign, test.agentToken()), 'foreign-identity', /example\.org/);
    });

    it('later, if no pod of the account has been seen on its node, also if there is one on another', async () => {
      const certify = await certifier();
      await refused(
        certify,
        test.request(idOf('cart'), test.agentToken()),
        'account-unseen',
        /shop\/cart on node n1/,
      );
      assert.ok(certifyRules['account-unseen'].retry);
      const onTheOther = test.agentToken({
        pod: { name: 'agent-2', uid: 'pod-agent-2' },
        node: { name: 'n2', uid: 'node-n2' },
      });
      await issued(certify, test.request(idOf('cart'), onTheOther));
    });

    it('no account whose pods there have ended, are not opted in or cannot be meshed', async () => {
      const certify = await certifier();
      for (const [identity, reason] of [
        [idOf('ended'), /ended-1: the pod has ended \(Succeeded\)/],
        [idOf('out'), /out-1: the pod has linkerd\.io\/inject=disabled/],
        [idOf('host'), /host-1: .*hostNetwork/],
        [idOf('batch', 'plain'), /batch-1: neither the pod nor its namespace/],
        [idOf('coredns', 'kube-system'), /dns-1: .*kube-system/],
      ] as const) {
        const request = test.request(identity, test.agentToken());
        await refused(certify, request, 'account-not-meshed', reason);
      }
    });

    it('an account as soon as its pod is meshed, and no longer once it is gone', async () => {
      const registry = test.registry();
      const certify = await certifier({ seenRegistry: registry });
      await registry.synced();
      await issued(certify, test.request(idOf('web'), test.agentToken()));
      const gone = await certifier({ seen: clusterWith({ without: 'Pod/web-1' }) });
      await refused(gone, test.request(idOf('web'), test.agentToken()), 'account-unseen', /shop\/web/);
    });
  });

  describe('without a working issuer', () => {
    it('asks to come later', async () => {
      const request = test.request(idOf('web'), test.agentToken());
      await refused(await certifier({ issuer: () => undefined }), request, 'issuer-missing', /no issuer/);
      const certify = await certifier();
      test.clock.advance(20 * 24 * HOUR_MS);
      await refused(certify, request, 'issuer-missing', /identity\.linkerd.* has expired/);
    });

    it('says that issuing failed', async () => {
      const broken = { ...authority.issuer, issue: () => Promise.reject(new Error('no signer')) };
      await refused(
        await certifier({ issuer: () => broken }),
        test.request(idOf('web'), test.agentToken()),
        'issuing-failed',
        /no signer/,
      );
    });
  });
});

/** A reviewer that believes every token to be of one user, for all audiences asked. */
function answering(username: string): TokenReviewer {
  return {
    review: (_token, audiences) =>
      Promise.resolve({
        authenticated: true,
        audiences,
        user: { username, uid: 'uid', groups: [], extra: {} },
        error: undefined,
      }),
  };
}

type GeneralNames = ConstructorParameters<typeof SubjectAlternativeNameExtension>[0];

async function peculiarRequest(
  name: string,
  keys: webcrypto.CryptoKeyPair,
  signingAlgorithm: { name: string },
): Promise<Buffer> {
  const request = await Pkcs10CertificateRequestGenerator.create({
    keys,
    signingAlgorithm,
    extensions: [new SubjectAlternativeNameExtension([{ type: 'dns', value: name }])],
  });
  return Buffer.from(request.rawData);
}

async function ecRequest(names: Extract<GeneralNames, unknown[]>, subject = ''): Promise<Buffer> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const request = await Pkcs10CertificateRequestGenerator.create({
    name: subject,
    keys,
    signingAlgorithm: algorithm,
    extensions: names.length === 0 ? [] : [new SubjectAlternativeNameExtension(names)],
  });
  return Buffer.from(request.rawData);
}
