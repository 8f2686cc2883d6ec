/** Text from outside, made harmless for each kind of file that it is written into. */
import { slug } from '../../base/names.ts';

const hex4 = (unit: number): string => `\\u${unit.toString(16).padStart(4, '0')}`;

/**
 * JSON text that is also safe inside JavaScript, HTML and template strings: everything beyond printable
 * ASCII, `<`, `>`, `&`, the backtick and `$` are written as escapes. Such characters stand only inside of JSON's strings.
 */
export function asciiJson(value: unknown, indent?: number): string {
  const json = JSON.stringify(value, undefined, indent) ?? 'null';
  return json.replace(/[^\n\x20-\x7e]|[<>&`$\x7f]/g, (c) => hex4(c.charCodeAt(0)));
}

/** JavaScript whose only characters beyond ASCII stand in string literals, with these as escapes: compilers print them plainly. */
export const asciiOnly = (text: string): string => text.replace(/[^\n\x20-\x7e]/g, (c) => hex4(c.charCodeAt(0)));

/** A JavaScript string literal. */
export const jsString = (text: string): string => asciiJson(text);

/** A base64 of bytes, without Node or a browser. */
export function base64(bytes: Uint8Array): string {
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  const parts: string[] = [];
  for (let i = 0; i < bytes.length; i += 3) {
    const a = bytes[i] ?? 0;
    const b = bytes[i + 1] ?? 0;
    const c = bytes[i + 2] ?? 0;
    const word = (a << 16) | (b << 8) | c;
    const left = bytes.length - i;
    parts.push(
      letters.charAt(word >> 18),
      letters.charAt((word >> 12) & 63),
      left > 1 ? letters.charAt((word >> 6) & 63) : '=',
      left > 2 ? letters.charAt(word & 63) : '=',
    );
  }
  return parts.join('');
}

/** One line of Markdown text: letters, digits and plain marks stay, the rest becomes character references. */
export function markdownText(text: string, max = 120): string {
  const all = [...text];
  const word = (c: string | undefined): boolean => c !== undefined && /^[A-Za-z0-9]$/.test(c);
  // An underscore inside of a word marks nothing up.
  const plain = (c: string, i: number): boolean => /^[A-Za-z0-9 .,:()/-]$/.test(c) || (c === '_' && word(all[i - 1]) && word(all[i + 1]));
  const shown = all.slice(0, max).map((c, i) => (plain(c, i) ? c : `&#${c.codePointAt(0) ?? 0x20};`));
  return shown.join('') + (all.length > max ? '&#8230;' : '');
}

/** Names that npm or a file system keeps for itself. */
const TAKEN = new Set([
  'node_modules', 'favicon.ico', 'con', 'prn', 'aux', 'nul', ...Array.from({ length: 9 }, (_, i) => `com${i + 1}`), ...Array.from({ length: 9 }, (_, i) => `lpt${i + 1}`),
  'assert', 'buffer', 'cluster', 'console', 'constants', 'crypto', 'dgram', 'dns', 'domain', 'events', 'fs', 'http', 'http2', 'https', 'inspector', 'module', 'net', 'os',
  'path', 'process', 'punycode', 'querystring', 'readline', 'repl', 'stream', 'sys', 'test', 'timers', 'tls', 'tty', 'url', 'util', 'v8', 'vm', 'wasi', 'worker-threads', 'zlib',
  'moec', 'webgpu',
]);

/** A name that npm accepts, made from any text: lower case, digits and hyphens, at most 64 characters. */
export function packageName(text: string): string {
  const name = slug(text, 64).replaceAll('_', '-').replace(/-+$/, '');
  return TAKEN.has(name) ? `${name}-model` : name;
}
