/** A model as `moec init` writes it: lines of the language with comments, layers grouped by what they have in common. */
export interface Line {
  readonly code: string;
  /** Where it comes from; a comment behind the code. */
  readonly note?: string;
}

export const line = (code: string, ...from: readonly (string | undefined)[]): Line => {
  const said = from.filter((f) => f !== undefined && f !== '');
  return said.length === 0 ? { code } : { code, note: said.join('; ') };
};

export interface Block {
  /** `ffn swiglu 40`, or the lines of a `moe` block. */
  readonly lines: readonly Line[];
}

export interface Draft {
  readonly head: readonly Line[];
  readonly variant: 'mha' | 'gqa' | 'mla';
  readonly attention: readonly Line[];
  /** Per layer: clauses that differ from the model's attention, such as `window 128`; undefined where none do. */
  readonly overrides: readonly (string | undefined)[];
  /** Per layer, one object for each distinct block. */
  readonly ffns: readonly Block[];
}

/** A comment never ends its line early, whatever a config holds. */
const comment = (text: string): string => text.replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, ' ');

/** A number as short as it can be written without loss. */
export function numeral(n: number): string {
  const plain = String(n);
  const scientific = n.toExponential().replace('e+', 'e');
  return n !== 0 && (Math.abs(n) < 1e-3 || plain.includes('e')) ? scientific : plain;
}

/** A name as the language takes it: a word where it is one, otherwise quoted. */
export function quoteName(name: string): string {
  if (/^[A-Za-z_][A-Za-z0-9_]*(?:[-.][A-Za-z0-9_]+)*$/.test(name)) return name;
  const clean = name.replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, ' ').trim();
  return `"${(clean === '' ? 'model' : clean).replace(/["\\]/g, (c) => `\\${c}`)}"`;
}

/** The shortest selector of a set of layers (ascending) among `depth`. */
export function selector(layers: readonly number[], depth: number): string {
  const [first = 0, second] = layers;
  const last = layers[layers.length - 1] ?? first;
  if (layers.length === depth) return 'layers all';
  if (layers.length === 1) return `layer ${first}`;
  const step = (second ?? first + 1) - first;
  if (step > 1 && layers.length > 2 && layers.every((l, i) => l === first + i * step)) {
    return `layers every ${step}${first === 0 ? '' : ` from ${first}`}${last + step < depth ? ` to ${last}` : ''}`;
  }
  const runs: [number, number][] = [];
  for (const l of layers) {
    const run = runs[runs.length - 1];
    if (run !== undefined && run[1] === l - 1) run[1] = l;
    else runs.push([l, l]);
  }
  return `layers ${runs.map(([a, b]) => (a === b ? a : `${a}..${b}`)).join(', ')}`;
}

function groupBy<K>(keys: readonly K[]): Map<K, number[]> {
  const groups = new Map<K, number[]>();
  keys.forEach((key, i) => groups.set(key, [...(groups.get(key) ?? []), i]));
  return groups;
}

const render = (indent: string, line: Line): string =>
  `${indent}${line.code}${line.note === undefined ? '' : `   // ${comment(line.note)}`}`;

/** The text of a draft. `preamble` lines become comments at the top. */
export function renderDraft(draft: Draft, name: string, preamble: readonly string[]): string {
  const depth = draft.ffns.length;
  const out = [...preamble.map((p) => `// ${comment(p)}`), `model ${quoteName(name)} {`];
  out.push(...draft.head.map((l) => render('  ', l)));
  const overrides = groupBy(draft.overrides);
  const [everywhere] = overrides.size === 1 ? overrides.keys() : [];
  const attention = everywhere === undefined ? draft.attention : [...draft.attention, { code: everywhere }];
  out.push(`  attention ${draft.variant} {`, ...attention.map((l) => render('    ', l)), '  }');
  for (const [override, layers] of overrides) {
    if (override !== undefined && override !== everywhere) out.push(`  ${selector(layers, depth)} { attention { ${override} } }`);
  }
  const blocks = groupBy(draft.ffns);
  for (const [block, layers] of blocks) {
    const alone = blocks.size === 1;
    if (!alone) out.push(`  ${selector(layers, depth)} {`);
    out.push(...block.lines.map((l) => render(alone ? '  ' : '    ', l)));
    if (!alone) out.push('  }');
  }
  out.push('}', '');
  return out.join('\n');
}
