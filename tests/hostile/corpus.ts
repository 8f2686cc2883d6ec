/** Names that somebody could write, to break out of whatever they are put into. */

const WGSL = 'fn var let const struct override switch while loop return discard enable requires diagnostic alias vec4f array f32 main workgroupBarrier global_invocation_id asm'.split(' ');
const CUDA = '__global__ __shared__ threadIdx asm template typename operator namespace union register __syncthreads volatile'.split(' ');
const SCRIPT = 'class default await yield import export function eval arguments undefined NaN enum interface implements any never'.split(' ');
/** The language's own words, and those of its templates. */
const LANGUAGE = 'model layer layers moe experts router top-k hash table active'.split(' ');
const OBJECT = '__proto__ constructor prototype toString hasOwnProperty valueOf __defineGetter__'.split(' ');

const BREAKS = ['\n', '\r', '\r\n', '\t', '\v', '\f', '\0', '\u0085', '\u2028', '\u2029', 'a\nb', 'a\u2028b', 'a\u2029b', 'a\u0085b', 'a\vb', '\b', '\x07', '\x1b[31mred', '\x9b31m', '\x7f'];
const COMMENTS = ['*/', '/*', '//', '*/ var<private> x = 1; /*', '// \u2028 let x = 1;', '<!--', '-->', '#include <x>', '#pragma', 'a\\', '??/', '*\u200b/'];
const QUOTES = ['"', "'", '`', '\\', '\\"', '"""', "'); process.exit(1); ('", '"; process.exit(1); //', '" + process.exit(1) + "', '\\u0041', '\\x41', '\\u{1f98a}', '%00', '\\0'];
const TEMPLATES = ['${}', '${x}', '${process.exit(1)}', '`${1}`', '#{x}', '{{x}}', '{% x %}', '<%= x %>', '%s%n', '@{x}', '$x', '$&', "$'", '$1'];
const MARKUP = ['</script>', '<script>alert(1)</script>', '<img src=x onerror=alert(1)>', '[x](javascript:alert(1))', '![x](http://x)', '# heading', '| a | b |', '```js', '&lt;', ']]>', '<b>', '---', '* x', '1. x'];
const PATHS = ['../', '../../etc/passwd', '/etc/passwd', 'C:\\con', 'con', 'nul', 'node_modules', '.hidden', '..', '.', 'a/b', 'a\\b', '~', '-', '--help', 'index.js', 'manifest.json', 'x'.repeat(256), 'file:///a', '@scope/name'];
const SHELL = ['$(id)', '`id`', '; rm -rf /', '| cat', '&& ls', '> x', '< x', '*', '?', '!x', '%PATH%', "'; DROP TABLE x; --"];
const UNICODE = [
  'é', 'e\u0301', 'Å', 'Å', 'ﬁ', 'ſ', 'İ', 'ı', '\u200b', 'a\u200bb', '\ufeff', '\u202e', 'a\u202eb', '\u2066x\u2069', '\u00ad', '模型', 'модель', '🦊', '👩‍👩‍👧', '\u{10ffff}', '\uffff', '\ud800', '\udc00', '\udc00\ud800',
  'а', 'ｍ', '𝐟𝐧', '\u0301',
];
const SIZES = ['', ' ', '  ', 'x'.repeat(60_000), 'x'.repeat(65_536), '"'.repeat(300), '🦊'.repeat(300), '0', '-1', '1e9', 'Infinity', 'null', 'true', 'false'];

export const HOSTILE: readonly string[] = [
  ...new Set([...WGSL, ...CUDA, ...SCRIPT, ...LANGUAGE, ...OBJECT, ...BREAKS, ...COMMENTS, ...QUOTES, ...TEMPLATES, ...MARKUP, ...PATHS, ...SHELL, ...UNICODE, ...SIZES]),
];

/** For test titles. */
export const shown = (name: string): string => {
  const text = JSON.stringify(name).replace(/[^\x20-\x7e]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
  return text.length > 40 ? `${text.slice(0, 40)}… (${name.length})` : text;
};
