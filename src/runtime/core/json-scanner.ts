/**
 * A strict JSON scanner over bytes, for headers of files nobody vouches for: it sees duplicate keys,
 * knows the byte position of every fault, never makes an object keyed by a name, and reads integers exactly.
 * The caller drives it by the shape it expects.
 */
import { quote } from './errors.ts';

export class JsonFault extends Error {
  readonly position: number;
  readonly reason: string;

  constructor(position: number, message: string, reason = 'InvalidJson') {
    super(message);
    this.position = position;
    this.reason = reason;
  }
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
/** Texts up to this length are tried as ASCII first: a decoder's call costs more. */
const SHORT = 24;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const ESCAPES: ReadonlyMap<number, string> = new Map([
  [0x22, '"'],
  [0x5c, '\\'],
  [0x2f, '/'],
  [0x62, '\b'],
  [0x66, '\f'],
  [0x6e, '\n'],
  [0x72, '\r'],
  [0x74, '\t'],
]);

const show = (byte: number | undefined): string =>
  byte === undefined ? 'the end' : byte > 0x20 && byte < 0x7f ? `'${String.fromCharCode(byte)}'` : `byte 0x${byte.toString(16).padStart(2, '0')}`;

export class JsonScanner {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** Position of the next byte to read. */
  get position(): number {
    return this.#at;
  }

  fail(message: string, position: number = this.#at, reason?: string): never {
    throw new JsonFault(position, message, reason);
  }

  #space(): void {
    for (;;) {
      const b = this.#bytes[this.#at];
      if (b !== 0x20 && b !== 0x0a && b !== 0x0d && b !== 0x09) return;
      this.#at++;
    }
  }

  /** The next byte that is not white space, unread. */
  peek(): number | undefined {
    this.#space();
    return this.#bytes[this.#at];
  }

  #expect(char: string): void {
    const found = this.peek();
    if (found !== char.charCodeAt(0)) this.fail(`expected '${char}' but found ${show(found)}`);
    this.#at++;
  }

  /** Only spaces may follow a document. */
  end(): void {
    while (this.#at < this.#bytes.length) {
      if (this.#bytes[this.#at] !== 0x20) this.fail(`${show(this.#bytes[this.#at])} after the end of the document`);
      this.#at++;
    }
  }

  /** Calls `member` after each key; it must read the value. A key seen twice is refused. */
  object(member: (key: string, position: number) => void, maxKey: number): void {
    this.#expect('{');
    if (this.peek() === 0x7d) {
      this.#at++;
      return;
    }
    const seen = new Set<string>();
    for (;;) {
      this.#space();
      const at = this.#at;
      const key = this.string(maxKey);
      if (seen.has(key)) this.fail(`duplicate key ${quote(key)}`, at, 'DuplicateKey');
      seen.add(key);
      this.#expect(':');
      member(key, at);
      if (this.peek() === 0x2c) {
        this.#at++;
        continue;
      }
      this.#expect('}');
      return;
    }
  }

  array(item: () => void): void {
    this.#expect('[');
    if (this.peek() === 0x5d) {
      this.#at++;
      return;
    }
    for (;;) {
      item();
      if (this.peek() === 0x2c) {
        this.#at++;
        continue;
      }
      this.#expect(']');
      return;
    }
  }

  /** A string of at most `max` UTF-16 units. */
  string(max: number): string {
    this.#expect('"');
    const start = this.#at;
    const bytes = this.#bytes;
    let plain = true;
    for (;;) {
      const b = bytes[this.#at];
      if (b === undefined) this.fail('a string is not closed', start - 1);
      if (b < 0x20) this.fail(`${show(b)} inside a string must be escaped`);
      if (b === QUOTE) break;
      if (b === BACKSLASH) {
        plain = false;
        this.#at++;
      }
      this.#at++;
    }
    const end = this.#at++;
    // Four bytes a character at most, six for an escape: no need to decode what is far too long.
    if (end - start > max * 6) this.fail(`a string of ${end - start} bytes is longer than ${max} characters`, start - 1, 'NameTooLong');
    const text = plain ? this.#utf8(start, end) : this.#unescape(start, end);
    if (text.length > max) this.fail(`a string of ${text.length} characters is longer than ${max}`, start - 1, 'NameTooLong');
    return text;
  }

  #utf8(start: number, end: number): string {
    if (end - start <= SHORT) {
      let text = '';
      for (let i = start; i < end; i++) {
        const b = this.#bytes[i] ?? 0x80;
        if (b >= 0x80) break;
        text += String.fromCharCode(b);
      }
      if (text.length === end - start) return text;
    }
    try {
      return decoder.decode(this.#bytes.subarray(start, end));
    } catch {
      return this.fail('not valid UTF-8', start, 'InvalidUtf8');
    }
  }

  #unescape(start: number, end: number): string {
    const parts: string[] = [];
    let from = start;
    let at = start;
    while (at < end) {
      if (this.#bytes[at] !== BACKSLASH) {
        at++;
        continue;
      }
      if (at > from) parts.push(this.#utf8(from, at));
      const kind = this.#bytes[at + 1];
      if (kind === 0x75) {
        const hex = this.#utf8(at + 2, Math.min(at + 6, end));
        if (!/^[0-9a-fA-F]{4}$/.test(hex)) this.fail('\\u needs four hexadecimal digits', at);
        parts.push(String.fromCharCode(Number.parseInt(hex, 16)));
        at += 6;
      } else {
        const char = kind === undefined ? undefined : ESCAPES.get(kind);
        if (char === undefined) this.fail(`unknown escape ${show(kind)}`, at);
        parts.push(char);
        at += 2;
      }
      from = at;
    }
    if (end > from) parts.push(this.#utf8(from, end));
    const text = parts.join('');
    if (/\p{Cs}/u.test(text)) this.fail('half a surrogate pair', start, 'InvalidUtf8');
    return text;
  }

  /** A non-negative whole number without sign, fraction or exponent, at most 2^53 − 1. */
  integer(what: string): number {
    const first = this.peek();
    const start = this.#at;
    if (first === undefined || first < 0x30 || first > 0x39) this.fail(`${what} must be a whole number that is not negative`, start, 'NotAnInteger');
    // Exact up to 15 digits; a 16th may pass 2^53 and is judged by its text.
    let value = 0;
    for (;;) {
      const b = this.#bytes[this.#at];
      if (b === undefined || b < 0x30 || b > 0x39) break;
      value = value * 10 + (b - 0x30);
      this.#at++;
    }
    const digits = this.#at - start;
    const next = this.#bytes[this.#at];
    if (next === 0x2e || next === 0x65 || next === 0x45) this.fail(`${what} must be written as a whole number`, start, 'NotAnInteger');
    if (digits > 1 && first === 0x30) this.fail(`${what} has a leading zero`, start, 'NotAnInteger');
    if (digits > 16 || (digits === 16 && BigInt(this.#utf8(start, this.#at)) > BigInt(Number.MAX_SAFE_INTEGER))) {
      this.fail(`${what} is over 2^53 − 1`, start, 'Overflow');
    }
    return digits < 16 ? value : Number(this.#utf8(start, this.#at));
  }

  /** Reads past any value, checking it. */
  skip(maxDepth: number): void {
    if (maxDepth < 0) this.fail('nested too deeply', this.#at, 'TooDeep');
    const b = this.peek();
    if (b === 0x7b) return this.object(() => this.skip(maxDepth - 1), 1 << 16);
    if (b === 0x5b) return this.array(() => this.skip(maxDepth - 1));
    if (b === QUOTE) {
      this.string(1 << 20);
      return;
    }
    const rest = String.fromCharCode(...this.#bytes.subarray(this.#at, this.#at + 40));
    const token = /^(?:true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)/.exec(rest)?.[0];
    if (token === undefined) this.fail(`expected a value but found ${show(b)}`);
    this.#at += token.length;
  }
}
