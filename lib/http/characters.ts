// SPDX-License-Identifier: Apache-2.0
// Character classes of RFC 9110 and 9112 as tables, and comparing names without making strings.

const TCHAR = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const HOST = "!$%&'()*+,-._~:;=[]0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

function table(allowed: (code: number) => boolean): Uint8Array {
  return Uint8Array.from({ length: 256 }, (_, code) => (allowed(code) ? 1 : 0));
}

/** RFC 9110 5.6.2: `token`. */
export const tokenCharacter = table((code) => TCHAR.includes(String.fromCharCode(code)));
/** RFC 9110 5.5: visible, space, tab, obs-text; no other control character. */
export const valueCharacter = table((code) => code === 9 || (code >= 32 && code !== 127));
/** Anything visible, and bytes above ASCII that clients send unescaped. */
export const targetCharacter = table((code) => code > 32 && code !== 127);
/** RFC 9110 7.2: uri-host [ ":" port ]. */
export const hostCharacter = table((code) => code < 128 && HOST.includes(String.fromCharCode(code)));
/** Value of a hexadecimal digit, 255 for anything else. */
export const hexValue = Uint8Array.from({ length: 256 }, (_, code) => {
  const value = Number.parseInt(String.fromCharCode(code), 16);
  return Number.isNaN(value) ? 255 : value;
});

/** Lowercase bytes of a name, to be compared by `nameIs`. */
export function nameBytes(name: string): Uint8Array {
  return Uint8Array.from(name, (character) => character.charCodeAt(0));
}

/** Whether `buffer[start, start + name.length)`, token characters, is `name` in any case. */
export function nameIs(buffer: Uint8Array, start: number, name: Uint8Array): boolean {
  // Setting bit 5 makes letters lowercase and lets no other token character collide with a letter, digit or '-'.
  for (let index = 0; index < name.length; index++) {
    if (((buffer[start + index] as number) | 0x20) !== name[index]) return false;
  }
  return true;
}
