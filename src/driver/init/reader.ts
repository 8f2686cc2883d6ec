/** Reading the fields of a config.json: types checked, every field that is read remembered, every default noted. */
import { error, warning } from '../../diagnostics/make.ts';
import { suggest } from '../../diagnostics/suggest.ts';
import type { Diagnostic } from '../../diagnostics/types.ts';

export type Json = Readonly<Record<string, unknown>>;

export const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value);

/** A value that was found or defaulted, with the words for the comment beside it. */
export interface Found<T> {
  readonly value: T;
  /** `hidden_size`, or `rope_theta, by default` */
  readonly from: string;
}

export interface Reader {
  /** A whole number of at least `min` (1 unless said); without `fallback` it must be there. Null counts as absent. */
  int(names: Names, options?: { readonly fallback?: number; readonly min?: number }): Found<number>;
  /** As `int`; a list with one number per layer is taken by its first number, with a warning where they differ. */
  intOrList(names: Names): Found<number>;
  /** As `int`, but may be absent. */
  optionalInt(names: Names): Found<number> | undefined;
  real(names: Names, fallback?: number): Found<number>;
  flag(names: Names, fallback: boolean): Found<boolean>;
  text(names: Names, fallback: string): Found<string>;
  object(name: string): Json | undefined;
  list(name: string): readonly unknown[] | undefined;
  /** Whether a field is there and not null; does not count as reading it. */
  has(name: string): boolean;
  /** Whether a field is written as null, which for some means "none" where absence means a default. */
  isNull(name: string): boolean;
  /** Marks fields as read that need no further look. */
  ignore(...names: readonly string[]): void;
  /** Something that a spec cannot say; `effect` ends the sentence "so …". */
  cannot(field: string, effect: string): void;
  wrong(field: string, message: string): void;
  note(text: string): void;
  unread(): readonly string[];
  readonly diagnostics: readonly Diagnostic[];
  readonly notes: readonly string[];
}

/** A field, or several spellings of it in order of preference. */
export type Names = string | readonly [string, ...string[]];

const show = (value: unknown): string => {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 40 ? `${text.slice(0, 37)}...` : text;
};

/** What a number may be replaced by after an error, so that reading goes on. */
const AFTER_ERROR = 1;

export function createReader(config: Json): Reader {
  const read = new Set<string>();
  const diagnostics: Diagnostic[] = [];
  /** A field that is read twice is told about once. */
  const tell = (d: Diagnostic): void => {
    if (!diagnostics.some((other) => other.message === d.message)) diagnostics.push(d);
  };
  const notes: string[] = [];
  const spellings = (names: Names): readonly string[] => (typeof names === 'string' ? [names] : names);
  const find = (names: Names): { readonly name: string; readonly value: unknown } | undefined => {
    let found: { name: string; value: unknown } | undefined;
    for (const name of spellings(names)) {
      read.add(name);
      const value = Object.hasOwn(config, name) ? config[name] : undefined;
      if (found === undefined && value !== undefined && value !== null) found = { name, value };
    }
    return found;
  };
  const wrong: Reader['wrong'] = (field, message) => {
    tell(error('MOE2053', `\`${field}\` in config.json ${message}`));
  };
  const absent = (names: Names): void => {
    const all = spellings(names);
    const near = suggest(
      all[0] ?? '',
      Object.keys(config).filter((k) => !read.has(k)),
      1,
    );
    tell(
      error('MOE2052', `config.json has no \`${all.join('` or `')}\``, {
        why: 'this size has no default.',
        notes: near.map((n) => `did you mean \`${all[0]}\` where it says \`${n}\`?`),
      }),
    );
  };
  const defaulted = <T>(names: Names, value: T): Found<T> => ({ value, from: `${spellings(names)[0]}, by default` });
  const number = (names: Names, check: (n: number) => string | undefined, fallback: number | undefined): Found<number> | undefined => {
    const found = find(names);
    if (found === undefined) return fallback === undefined ? undefined : defaulted(names, fallback);
    const { value } = found;
    const problem = typeof value === 'number' && Number.isFinite(value) ? check(value) : 'must be a number';
    if (problem === undefined && typeof value === 'number') return { value, from: found.name };
    wrong(found.name, `${problem}, not ${show(value)}`);
    return { value: fallback ?? AFTER_ERROR, from: found.name };
  };
  const whole =
    (min: number) =>
    (n: number): string | undefined =>
      Number.isSafeInteger(n) && n >= min ? undefined : `must be a whole number of at least ${min}`;
  const typed = <T>(names: Names, kind: string, is: (v: unknown) => v is T, fallback: T): Found<T> => {
    const found = find(names);
    if (found === undefined) return defaulted(names, fallback);
    if (is(found.value)) return { value: found.value, from: found.name };
    wrong(found.name, `must be ${kind}, not ${show(found.value)}`);
    return { value: fallback, from: found.name };
  };
  const int: Reader['int'] = (names, options = {}) => {
    const found = number(names, whole(options.min ?? 1), options.fallback);
    if (found !== undefined) return found;
    absent(names);
    return { value: AFTER_ERROR, from: spellings(names)[0] ?? '' };
  };
  const cannot: Reader['cannot'] = (field, effect) => {
    read.add(field);
    const said = Object.hasOwn(config, field) ? ` (${show(config[field])})` : '';
    tell(warning('MOE2054', `a spec cannot express \`${field}\`${said}, so ${effect}`));
  };
  return {
    int,
    intOrList: (names) => {
      const found = find(names);
      if (found === undefined || !Array.isArray(found.value)) return int(names);
      const [first, ...others] = found.value as readonly unknown[];
      if (typeof first !== 'number' || whole(1)(first) !== undefined) {
        wrong(found.name, `must be a list of whole numbers, not ${show(found.value)}`);
        return { value: AFTER_ERROR, from: found.name };
      }
      if (others.some((v) => v !== first)) cannot(found.name, 'every layer is written with the first value of the list');
      return { value: first, from: found.name };
    },
    optionalInt: (names) => number(names, whole(0), undefined),
    real: (names, fallback) => {
      const found = number(names, () => undefined, fallback);
      if (found !== undefined) return found;
      absent(names);
      return { value: AFTER_ERROR, from: spellings(names)[0] ?? '' };
    },
    flag: (names, fallback) => typed(names, 'true or false', (v): v is boolean => typeof v === 'boolean', fallback),
    text: (names, fallback) => typed(names, 'a text', (v): v is string => typeof v === 'string', fallback),
    object: (name) => {
      const found = find(name);
      if (found === undefined) return undefined;
      if (isObject(found.value)) return found.value;
      wrong(name, `must be an object, not ${show(found.value)}`);
      return undefined;
    },
    list: (name) => {
      const found = find(name);
      if (found === undefined) return undefined;
      if (Array.isArray(found.value)) return found.value as readonly unknown[];
      wrong(name, `must be a list, not ${show(found.value)}`);
      return undefined;
    },
    has: (name) => Object.hasOwn(config, name) && config[name] !== null,
    isNull: (name) => Object.hasOwn(config, name) && config[name] === null,
    ignore: (...names) => names.forEach((n) => read.add(n)),
    cannot,
    wrong,
    note: (text) => {
      notes.push(text);
    },
    unread: () => Object.keys(config).filter((k) => !read.has(k)),
    diagnostics,
    notes,
  };
}
