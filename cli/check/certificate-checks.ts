// SPDX-License-Identifier: Apache-2.0
// Trust anchors, issuer and the webhook's certificate: readable, of a kind that the mesh uses, belonging together, and
// valid long enough for somebody to act.

import { createPrivateKey, type X509Certificate } from 'node:crypto';
import { createIssuer } from '#lib/x509-authority/issuer.ts';
import { checkChain, describe, outsideValidity, parseCertificates } from '#lib/x509/verify.ts';
import { TRUST_ROOTS } from '../../install/objects/common.ts';
import { CERTIFICATE_SECRET, WEBHOOK_CONFIGURATION } from '../../install/objects/policy-validator.ts';
import { issuerIsExternal } from '../../install/credentials.ts';
import { type ClusterObject, configText, secretText } from '../install/cluster.ts';
import { type Category, type Check, listProblem, Problem, type Scene } from './check.ts';
import { installedValues } from './control-plane-checks.ts';

const SOON_MS = 60 * 86_400_000;

interface Issuer {
  readonly certificatePem: string;
  readonly keyPem: string;
  readonly anchorsPem: string;
}

async function anchorsPem({ cluster, namespace }: Scene): Promise<string> {
  const map = await cluster.get(`/api/v1/namespaces/${namespace}/configmaps/${TRUST_ROOTS}`);
  const text = map === undefined ? undefined : configText(map, 'ca-bundle.crt');
  if (text === undefined) throw new Problem(`ConfigMap ${TRUST_ROOTS} with ca-bundle.crt does not exist`);
  return text;
}

async function issuerOf(scene: Scene): Promise<Issuer> {
  const names = issuerIsExternal(await installedValues(scene))
    ? ['tls.crt', 'tls.key']
    : ['crt.pem', 'key.pem'];
  const path = `/api/v1/namespaces/${scene.namespace}/secrets/linkerd-identity-issuer`;
  const secret = await scene.cluster.get(path);
  const [certificatePem, keyPem] = names.map((name) =>
    secret === undefined ? undefined : secretText(secret, name),
  );
  if (certificatePem === undefined || keyPem === undefined)
    throw new Problem(`Secret linkerd-identity-issuer with ${names.join(' and ')} does not exist`);
  return { certificatePem, keyPem, anchorsPem: await anchorsPem(scene) };
}

const anchors = async (scene: Scene): Promise<readonly X509Certificate[]> =>
  parseCertificates(await anchorsPem(scene), 'the trust anchors');

const issuers = async (scene: Scene): Promise<readonly X509Certificate[]> =>
  parseCertificates((await issuerOf(scene)).certificatePem, "the issuer's certificate").slice(0, 1);

const line = (certificate: X509Certificate, rest: string): string =>
  `${BigInt(`0x${certificate.serialNumber}`)} ${describe(certificate)} ${rest}`;

type Read = (scene: Scene) => Promise<readonly X509Certificate[]>;

const inTime = (text: string, anchor: string, title: string, read: Read): Check => ({
  text,
  anchor,
  kind: 'fatal',
  async look(scene) {
    const invalid = (await read(scene)).filter((one) => outsideValidity(one, scene.wallMs()) !== undefined);
    if (invalid.length === 0) return;
    throw listProblem(
      title,
      invalid.map((one) =>
        one.validToDate.getTime() < scene.wallMs()
          ? line(one, `not valid anymore. Expired on ${one.validToDate.toISOString()}`)
          : line(one, `not valid before: ${one.validFromDate.toISOString()}`),
      ),
    );
  },
});

const notEndingSoon = (text: string, anchor: string, title: string, read: Read): Check => ({
  text,
  anchor,
  kind: 'warning',
  async look(scene) {
    const soon = (await read(scene)).filter((one) => one.validToDate.getTime() - scene.wallMs() < SOON_MS);
    if (soon.length === 0) return;
    throw listProblem(
      title,
      soon.map((one) => line(one, `will expire on ${one.validToDate.toISOString()}`)),
    );
  },
});

const supported = (text: string, anchor: string, read: Read, kinds: ReadonlySet<string>): Check => ({
  text,
  anchor,
  kind: 'fatal',
  async look(scene) {
    const others = (await read(scene)).filter((one) => !kinds.has(keyKind(one)));
    if (others.length === 0) return;
    throw listProblem(
      'Invalid keys:',
      others.map((one) => line(one, `uses ${keyKind(one)}, not ${[...kinds].join(' or ')}`)),
    );
  },
});

/** `ec prime256v1`, `rsa 2048` */
function keyKind({ publicKey }: X509Certificate): string {
  const { namedCurve, modulusLength } = publicKey.asymmetricKeyDetails ?? {};
  return `${publicKey.asymmetricKeyType ?? ''} ${namedCurve ?? modulusLength ?? ''}`.trim();
}

const CURVES = ['ec prime256v1', 'ec secp384r1', 'ec secp521r1'];

export const identityCertificates: Category = {
  name: 'linkerd-identity',
  checks: [
    {
      text: 'certificate config is valid',
      anchor: 'l5d-identity-cert-config-valid',
      kind: 'fatal',
      async look(scene) {
        const { keyPem } = await issuerOf(scene);
        if ((await anchors(scene)).length === 0)
          throw new Problem('there is no certificate among the trust anchors');
        const [issuer] = await issuers(scene);
        if (issuer === undefined) throw new Problem("the issuer's Secret holds no certificate");
        if (!issuer.ca) throw new Problem(`the issuer ${describe(issuer)} is no certificate authority`);
        if (!issuer.checkPrivateKey(createPrivateKey(keyPem)))
          throw new Problem("the issuer's key does not belong to its certificate");
      },
    },
    supported(
      'trust anchors are using supported crypto algorithm',
      'l5d-identity-trustAnchors-use-supported-crypto',
      anchors,
      new Set([...CURVES, 'rsa 2048', 'rsa 4096']),
    ),
    inTime(
      'trust anchors are within their validity period',
      'l5d-identity-trustAnchors-are-time-valid',
      'Invalid anchors:',
      anchors,
    ),
    notEndingSoon(
      'trust anchors are valid for at least 60 days',
      'l5d-identity-trustAnchors-not-expiring-soon',
      'Anchors expiring soon:',
      anchors,
    ),
    supported(
      'issuer cert is using supported crypto algorithm',
      'l5d-identity-issuer-cert-uses-supported-crypto',
      issuers,
      new Set(CURVES),
    ),
    inTime(
      'issuer cert is within its validity period',
      'l5d-identity-issuer-cert-is-time-valid',
      'Invalid issuer:',
      issuers,
    ),
    notEndingSoon(
      'issuer cert is valid for at least 60 days',
      'l5d-identity-issuer-cert-not-expiring-soon',
      'Issuer expiring soon:',
      issuers,
    ),
    {
      text: 'issuer cert is issued by the trust anchor',
      anchor: 'l5d-identity-issuer-cert-issued-by-trust-anchor',
      look: async (scene) => void (await createIssuer(await issuerOf(scene), scene.wallMs())),
    },
  ],
};

interface Configuration extends ClusterObject {
  readonly webhooks?: readonly {
    readonly name: string;
    readonly clientConfig: { readonly caBundle?: string };
  }[];
}

export const webhookCertificate: Category = {
  name: 'linkerd-webhooks-and-apisvc-tls',
  checks: [
    {
      text: 'policy-validator webhook has valid cert',
      anchor: 'l5d-policy-validator-webhook-cert-valid',
      kind: 'fatal',
      retry: true,
      async look({ cluster, namespace, wallMs }) {
        const secret = await cluster.get(`/api/v1/namespaces/${namespace}/secrets/${CERTIFICATE_SECRET}`);
        const pem = secret === undefined ? undefined : secretText(secret, 'tls.crt');
        if (pem === undefined) throw new Problem(`Secret ${CERTIFICATE_SECRET} holds no certificate so far`);
        const [leaf, ...intermediates] = parseCertificates(pem, "the webhook's certificate");
        if (leaf === undefined) throw new Problem(`Secret ${CERTIFICATE_SECRET} holds no certificate`);
        const name = `linkerd-policy-validator.${namespace}.svc`;
        if (leaf.checkHost(name) === undefined) throw new Problem(`the certificate is not for ${name}`);
        const configuration = (await cluster.get(
          `/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/${WEBHOOK_CONFIGURATION}`,
        )) as Configuration | undefined;
        for (const webhook of configuration?.webhooks ?? []) {
          const bundle = Buffer.from(webhook.clientConfig.caBundle ?? '', 'base64').toString();
          const roots = parseCertificates(bundle, `the caBundle of ${webhook.name}`);
          const chain = checkChain({ leaf, intermediates, anchors: roots, wallMs: wallMs() });
          if ('error' in chain) throw new Problem(`${webhook.name}: ${chain.error.message}`);
        }
      },
    },
  ],
};
