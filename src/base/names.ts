/** Identifiers for generated code: always made here, never taken from a user's text. */

/** A readable ASCII slug of any text: lower case, digits and `_`, at most `max` characters, never empty. */
export function slug(text: string, max = 16): string {
  const s = text
    .normalize('NFKD')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '_')
    .replace(/^_+|_+$/g, '')
    .slice(0, max)
    .replace(/_+$/g, '');
  return /^[a-z]/.test(s) ? s : s === '' ? 'x' : `x_${s}`.slice(0, Math.max(max, 3));
}

/** `m<n>_<slug>`: unique by its number, readable by its slug, reserved in no language. */
export const mangle = (n: number, text: string): string => `m${n}_${slug(text)}`;
