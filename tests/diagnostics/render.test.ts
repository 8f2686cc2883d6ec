/** Frames, JSON and annotations. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Diagnostic,
  type Span,
  error,
  insertAt,
  label,
  note,
  renderGithub,
  renderText,
  replace,
  sortDiagnostics,
  summary,
  toJson,
  warning,
} from '../../src/diagnostics/index.ts';
import { displayLine, displayWidth, visible } from '../../src/diagnostics/display.ts';
import { source } from '../../src/diagnostics/source.ts';

const TEXT = 'layer tiny {\n  experts 6\n  active 8  shared 1\n  moe {\n    zz\n  }\n}\n';
const at = (part: string, text = TEXT, file = 'tiny.moe'): Span => {
  const start = text.indexOf(part);
  return { file, start, end: start + part.length };
};
const show = (d: Diagnostic, text = TEXT): string => renderText([d], (f) => (f === 'tiny.moe' ? text : undefined));

describe('frames', () => {
  it('show the line, the reason and the fix', () => {
    const d = error('MOE3001', '8 active experts, but only 6 exist', {
      at: at('8'),
      label: 'must be between 1 and 6',
      labels: [label(at('6'), '6 experts declared here')],
      why: 'each token picks different experts.',
      fixes: [replace(at('8'), '6', 'active 6'), replace(at('6'), '8', 'experts 8')],
    });
    expect(show(d)).toBe(
      [
        'error[MOE3001]: 8 active experts, but only 6 exist',
        '  --> tiny.moe:3:10',
        '   |',
        ' 2 |   experts 6',
        '   |           - 6 experts declared here',
        ' 3 |   active 8  shared 1',
        '   |          ^ must be between 1 and 6',
        '   |',
        ' why: each token picks different experts.',
        ' fix: active 6',
        ' fix: experts 8',
        ' more: moec explain MOE3001',
        '',
      ].join('\n'),
    );
  });

  it('hang several labels of one line below it', () => {
    const d = error('MOE3001', 'm', {
      at: at('8'),
      label: 'this',
      labels: [label(at('shared 1'), 'last'), label(at('active'), 'first')],
    });
    expect(show(d).split('\n').slice(3, 8)).toEqual([
      ' 3 |   active 8  shared 1',
      '   |   ------ ^  -------- last',
      '   |   |      |',
      '   |   |      this',
      '   |   first',
    ]);
  });

  it('bracket labels over several lines, outer ones at the left', () => {
    const block = { ...at('moe {'), end: TEXT.indexOf('  }') + 3 };
    const unit = { ...at('layer'), end: TEXT.lastIndexOf('}') + 1 };
    const d = error('MOE3001', 'm', { at: block, label: 'the block', labels: [label(unit, 'the unit'), label(at('zz'), 'inside')] });
    expect(show(d).split('\n').slice(2, -2)).toEqual([
      '   |',
      ' 1 |    layer tiny {',
      '   |  __-',
      '...',
      ' 4 | |    moe {',
      '   | | ___^',
      ' 5 | ||     zz',
      '   | ||     -- inside',
      ' 6 | ||   }',
      '   | ||___^ the block',
      ' 7 | |  }',
      '   | |__- the unit',
      '   |',
    ]);
  });

  it('keep columns under tabs, wide characters and marks without width', () => {
    const text = '\tab 日本 e\u0301 <- here\n';
    const d = error('MOE3001', 'm', { at: at('here', text) });
    const [line = '', marks = ''] = show(d, text).split('\n').slice(3, 5);
    const column = displayWidth(line.slice(0, line.indexOf('here')));
    expect(marks.indexOf('^^^^')).toBe(column);
    expect(line).toContain('    ab 日本');
  });

  it('cut long lines around the label', () => {
    const text = `${'a'.repeat(5000)} here ${'b'.repeat(5000)}`;
    const rows = show(error('MOE3001', 'm', { at: at('here', text), label: 'x' }), text).split('\n');
    expect(Math.max(...rows.map((r) => r.length))).toBeLessThan(200);
    expect(rows[4]?.indexOf('^')).toBe(rows[3]?.indexOf('here'));
    expect(rows[1]).toBe('  --> tiny.moe:1:5002');
  });

  it('stand for missing and foreign files', () => {
    const d = error('MOE3001', 'm', { at: { file: 'gone.moe', start: 3, end: 4 }, labels: [label(at('6'), 'here')] });
    expect(show(d)).toBe(
      'error[MOE3001]: m\n  --> gone.moe\n  ::: tiny.moe:2:11\n   |\n 2 |   experts 6\n   |           - here\n   |\n more: moec explain MOE3001\n',
    );
    expect(show(error('MOE9001', 'm'))).toBe('error[MOE9001]: m\n more: moec explain MOE9001\n');
    expect(show(error('MOE9001', 'm', { at: { file: 'tiny.moe', start: -5, end: 1e9 } }))).toContain('tiny.moe:1:1');
  });

  it('colour by request only', () => {
    const d = warning('MOE3001', 'm', { at: at('8') });
    expect(show(d)).not.toContain('\x1b');
    const color = renderText([d], () => TEXT, { color: true });
    expect(color).toContain('\x1b[1;33m^');
    // eslint-disable-next-line no-control-regex
    expect(color.replace(/\x1b\[[\d;]*m/g, '')).toBe(show(d));
  });

  it('never pass a control character on', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary', maxLength: 60 }),
        fc.string({ unit: 'binary', maxLength: 20 }),
        fc.nat(70),
        fc.nat(70),
        (text, words, a, b) => {
          const span = { file: `f${words}`, start: Math.min(a, b), end: Math.max(a, b) };
          const d = error('MOE3001', words, {
            at: span,
            label: words,
            labels: [label({ ...span, start: 0 }, words)],
            why: words,
            notes: [words],
            fixes: [replace(span, words, words)],
          });
          const out = renderText([d], () => text) + renderGithub([d], () => text);
          expect(out.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cs}\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/u);
        },
      ),
      { numRuns: 500, seed: 7 },
    );
  });
});

describe('other forms', () => {
  const d = error('MOE3001', 'a, b: 50%', { at: at('8'), label: 'l', why: 'w', fixes: [insertAt('tiny.moe', 0, 'x', 'f', 'machine')] });

  it('JSON has offsets, lines and columns', () => {
    expect(toJson([d], () => TEXT)).toEqual([
      {
        code: 'MOE3001',
        severity: 'error',
        message: 'a, b: 50%',
        primary: { file: 'tiny.moe', start: 34, end: 35, from: { line: 3, column: 10 }, to: { line: 3, column: 11 }, text: 'l' },
        labels: [],
        why: 'w',
        notes: [],
        fixes: [
          {
            text: 'f',
            applicability: 'machine',
            edit: { file: 'tiny.moe', start: 0, end: 0, from: { line: 1, column: 1 }, to: { line: 1, column: 1 }, replacement: 'x' },
          },
        ],
      },
    ]);
    expect(toJson([d], () => undefined)[0]?.primary).toEqual({ file: 'tiny.moe', start: 34, end: 35, text: 'l' });
  });

  it('annotations are escaped', () => {
    expect(renderGithub([d], () => TEXT)).toBe(
      '::error file=tiny.moe,line=3,endLine=3,col=10,endColumn=11,title=MOE3001::a, b: 50%25%0Al%0Awhy: w%0Afix: f\n',
    );
    expect(renderGithub([note('MOE3001', 'x')], () => TEXT)).toBe('::notice title=MOE3001::x\n');
    expect(renderGithub([error('MOE3001', 'x', { at: { file: 'a,b:c%', start: 0, end: 1 } })], () => undefined)).toContain(
      'file=a%2Cb%3Ac%25,',
    );
  });

  it('are summed up', () => {
    expect(summary([d, d, warning('MOE3001', 'm'), note('MOE3001', 'm')])).toBe('2 errors, 1 warning');
    expect(summary([])).toBe('');
  });

  it('are sorted by place', () => {
    const later = error('MOE3001', 'm', { at: at('zz') });
    const nowhere = error('MOE3001', 'm');
    expect(sortDiagnostics([later, d, nowhere])).toEqual([nowhere, d, later]);
  });
});

describe('text', () => {
  it('knows its lines whatever ends them', () => {
    const s = source('a\r\nb\rc\n\nd');
    expect([0, 1, 2, 3, 4].map(s.lineText)).toEqual(['a', 'b', 'c', '', 'd']);
    expect(s.position(3)).toEqual({ line: 2, column: 1 });
    expect(s.position(99)).toEqual({ line: 5, column: 2 });
    expect(source('😀x').position(2)).toEqual({ line: 1, column: 2 });
  });

  it('is made visible', () => {
    expect(visible('a\x1b[31m\n')).toBe('a␛[31m␊');
    expect(visible('a\nb', true)).toBe('a\nb');
    expect(visible('\u202e\u200b\ud800')).toBe('<U+202E><U+200B><U+D800>');
    expect(displayLine('\ta').columns).toEqual([0, 4, 5]);
  });
});
