// SPDX-License-Identifier: Apache-2.0
// Methods of requests as small integers, in HTTP/1 and HTTP/2.

export const METHOD_OTHER = 0;
export const METHOD_GET = 1;
export const METHOD_HEAD = 2;
export const METHOD_POST = 3;
export const METHOD_PUT = 4;
export const METHOD_DELETE = 5;
export const METHOD_CONNECT = 6;
export const METHOD_OPTIONS = 7;
export const METHOD_PATCH = 8;

/** Names by the codes above; METHOD_OTHER is read from the message. */
export const methodNames = [
  '',
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'DELETE',
  'CONNECT',
  'OPTIONS',
  'PATCH',
] as const;
