/** The canonical layout. */
import { readFileSync, readdirSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { format, parse } from '../../src/parser/index.ts';
import { lex } from '../../src/parser/lex.ts';
import { spec } from './generate.ts';

const laidOut = (text: string): string => {
  const { text: out, diagnostics } = format(text, 'a.moe');
  expect(diagnostics).toEqual([]);
  expect(format(out, 'a.moe').text).toBe(out);
  return out;
};

/** Everything but places. */
const bare = (value: unknown): unknown => JSON.parse(JSON.stringify(value, (key, v: unknown) => (key === 'span' ? undefined : v)));

/** Tokens and comments in order; comments without what layout may change. */
const contents = (text: string): readonly string[] => {
  const { tokens, comments } = lex(text, 'a.moe');
  const all = [...tokens, ...comments].sort((a, b) => a.startOffset - b.startOffset);
  return all.map((t) => t.image.replace(/\r\n?/g, '\n').trimEnd());
};

describe('layout', () => {
  it('normalises space, keeps the line breaks between clauses and single blank lines', () => {
    expect(laidOut('layer   a{hidden 3\tvocab 4\n\n\n\nffn swiglu 5}')).toBe('layer a {\n  hidden 3  vocab 4\n\n  ffn swiglu 5\n}\n');
    expect(laidOut('layer a {\r\nhidden\r\n3 }')).toBe('layer a {\n  hidden 3\n}\n');
    expect(laidOut('\ufefflayer a { hidden 3 }')).toBe('layer a { hidden 3 }\n');
    expect(laidOut('model m{layers 1 .. 3 , 5{}}')).toBe('model m { layers 1..3, 5 {} }\n');
  });

  it('puts a blank line between units', () => {
    expect(laidOut('layer a { hidden 3 } layer b { hidden 3 } // b\n// c\nlayer c {}')).toBe(
      'layer a { hidden 3 }\n\nlayer b { hidden 3 }  // b\n\n// c\nlayer c {}\n',
    );
  });

  it('keeps comments where they are', () => {
    const text = `// head

/* two
   lines */
layer a {  // of the block
  // alone
  hidden 3  // behind
  moe {
    experts 4 of swiglu 8 /* inside */ bias
    router softmax  // score
      top-k  // select
    // last
  }
}

// tail
`;
    expect(laidOut(text)).toBe(text);
  });

  it('breaks long lines between clauses, and long clauses between their parts', () => {
    const long = `layer a { hidden 3 moe { experts 64 of swiglu 1408 bias clamp 7 alpha 1.702 offset 1 active 6 shared 2 router softmax logit-bias top-k renormalize add 1e-20 scale 16 weights softmax precision model } }`;
    expect(laidOut(long)).toBe(`layer a {
  hidden 3
  moe {
    experts 64 of swiglu 1408 bias clamp 7 alpha 1.702 offset 1  active 6  shared 2
    router softmax logit-bias top-k renormalize add 1e-20 scale 16 weights softmax precision model
  }
}
`);
    const longer = `layer a { moe { router sqrt-softplus selection-bias groups 8 keep 4 by top2-sum top-k renormalize add 1e-20 scale 2.5 precision f32 } }`;
    expect(laidOut(longer)).toBe(`layer a {
  moe {
    router sqrt-softplus selection-bias groups 8 keep 4 by top2-sum top-k renormalize add 1e-20
      scale 2.5 precision f32
  }
}
`);
  });

  it('lays out files of comments, and nothing', () => {
    expect(format('  // x', 'a.moe').text).toBe('// x\n');
    expect(format(' \n ', 'a.moe').text).toBe('');
  });

  it('leaves alone what it cannot read, and lays out what merely contradicts itself', () => {
    const broken = 'layer a {hidden  3';
    expect(format(broken, 'a.moe')).toMatchObject({ text: broken, diagnostics: [{ code: 'MOE1010' }] });
    expect(format('layer a {hidden  3 hidden 4}', 'a.moe')).toMatchObject({
      text: 'layer a { hidden 3  hidden 4 }\n',
      diagnostics: [{ code: 'MOE1012' }],
    });
    // A syntax error behind so many contradictions that it is not shown.
    const hidden = `layer a {${'hidden  3 '.repeat(30)} zz }`;
    expect(format(hidden, 'a.moe').text).toBe(hidden);
  });
});

describe('properties', () => {
  it.each([true, false])('formatting is idempotent and changes neither tokens nor comments (tame %s)', (tame) => {
    let clean = 0;
    fc.assert(
      fc.property(spec(tame), (text) => {
        const before = parse(text, 'a.moe');
        const once = format(text, 'a.moe').text;
        expect(contents(once)).toEqual(contents(text));
        expect(format(once, 'a.moe').text).toBe(once);
        expect(once).not.toMatch(/ $|[\t\r]|\n\n\n/m);
        const after = parse(once, 'a.moe');
        expect(bare(after.ast)).toEqual(bare(before.ast));
        expect(after.diagnostics.map((d) => d.code)).toEqual(before.diagnostics.map((d) => d.code));
        for (const d of before.diagnostics) expect(['MOE1012', 'MOE1013', 'MOE1015', 'MOE1018']).toContain(d.code);
        if (before.diagnostics.length === 0) clean++;
      }),
      { numRuns: 600, seed: 42 },
    );
    // The tame generator must exercise trees, not only complaints.
    if (tame) expect(clean).toBeGreaterThan(300);
  });

  it('holds for the specs of the project', () => {
    const folders = ['../golden-specs/', '../../examples/'].map((f) => new URL(f, import.meta.url));
    const files = folders.flatMap((folder) =>
      readdirSync(folder)
        .filter((f) => f.endsWith('.moe'))
        .map((f) => new URL(f, folder)),
    );
    expect(files.length).toBeGreaterThan(10);
    for (const file of files) {
      const text = readFileSync(file, 'utf8');
      const { text: once, diagnostics } = format(text, file.pathname);
      expect(diagnostics, file.pathname).toEqual([]);
      expect(bare(parse(once, 'a').ast)).toEqual(bare(parse(text, 'a').ast));
      expect(format(once, 'a').text).toBe(once);
    }
  });
});
