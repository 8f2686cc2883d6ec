/** The pictures of a result, as vega-lite specifications: plain data, drawn by `vega.ts`. */
import { PASS_NAMES } from '../../driver/compile.ts';
import { type BenchResult, passRows, ratesOf, roofline } from './result.ts';
import { deviceText } from './report.ts';
import type { SearchStep } from './tuning-log.ts';
import type { PictureSpec } from './vega.ts';

export interface Picture {
  /** File name without its ending. */
  readonly name: string;
  readonly title: string;
  readonly spec: PictureSpec;
}

/** Okabe and Ito's colours, which people with any kind of colour vision tell apart. */
const COLORS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#666666'];
const INK = '#1f2328';
const FAINT = '#57606a';

const CONFIG = {
  background: 'white',
  padding: 16,
  font: 'Helvetica, Arial, sans-serif',
  title: { anchor: 'start', color: INK, fontSize: 16, fontWeight: 600, subtitleColor: FAINT, subtitleFontSize: 11.5, subtitlePadding: 4, offset: 14 },
  axis: { labelColor: FAINT, titleColor: INK, titleFontSize: 12, titleFontWeight: 500, labelFontSize: 11, gridColor: '#e6e8eb', domainColor: '#8c959f', tickColor: '#8c959f', titlePadding: 8 },
  legend: { titleColor: INK, labelColor: INK, labelFontSize: 11.5, titleFontSize: 12, titleFontWeight: 500, symbolSize: 90 },
  header: { titleColor: INK, labelColor: INK, labelFontSize: 12, labelFontWeight: 600 },
  view: { stroke: null },
  range: { category: COLORS },
} as const;

const subtitle = (result: BenchResult): string => `${deviceText(result)}, ${result.date.slice(0, 10)}, n = ${result.rounds}`;
const picture = (name: string, title: string, result: BenchResult, body: PictureSpec, ...more: readonly string[]): Picture => ({
  name,
  title,
  spec: {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: { text: title, subtitle: [subtitle(result), ...more] },
    config: CONFIG,
    ...body,
  },
});

/** Rows of whole contestants: those without a single pass have a picture of their own. */
const whole = ({ rows }: BenchResult): BenchResult['rows'] => rows.filter((r) => r.without === undefined);
const names = (result: BenchResult): string[] => [...new Set(whole(result).map((r) => r.name))];
const routings = ({ rows }: BenchResult): string[] => [...new Set(rows.flatMap((r) => r.routing ?? []))];

/** What is shown where a picture has room for one routing. */
const inFirstRouting = (result: BenchResult): BenchResult['rows'] => whole(result).filter((r) => r.routing === routings(result)[0]);

const routingNote = (result: BenchResult): string => (routings(result).length === 0 ? '' : `; routing: ${routings(result)[0] ?? ''}`);

/** Ticks of a logarithmic axis: 1, 2 and 5 of each power of ten, or the powers alone where those are many. */
function logTicks(from: number, to: number): readonly number[] {
  const powers = Array.from({ length: Math.ceil(Math.log10(to)) - Math.floor(Math.log10(from)) + 1 }, (_, i) => 10 ** (Math.floor(Math.log10(from)) + i));
  const all = (powers.length > 4 ? [1] : [1, 2, 5]).flatMap((m) => powers.map((p) => m * p));
  return all.filter((v) => v >= from && v <= to).sort((a, b) => a - b);
}

/** A logarithmic axis around values, a little wider than they are. */
function logAxis(field: string, title: string, values: readonly number[], around = 1.4): object {
  const positive = values.filter((v) => v > 0);
  const [from, to] = [Math.min(...positive) / around, Math.max(...positive) * around];
  return { field, type: 'quantitative', title, scale: { type: 'log', domain: [from, to], nice: false }, axis: { values: logTicks(from, to), format: '~g' } };
}

/** Ticks at the token counts that were measured. */
const tokenAxis = (result: BenchResult): object => ({
  field: 'tokens', type: 'quantitative', scale: { type: 'log', base: 2, nice: false, padding: 18 }, title: 'tokens of a call',
  axis: { values: [...new Set(result.rows.map((r) => r.tokens))], format: 'd', grid: false },
});

const named = (domain: readonly string[], title: string | null): object => ({ type: 'nominal', scale: { domain, range: COLORS }, sort: null, legend: { title, orient: 'bottom', columns: 6, symbolOpacity: 1 } });

interface Sample {
  readonly tokens: number;
  readonly series: string;
  readonly ms: number;
  readonly msP90: number;
  readonly gflops: number;
}

function lines(result: BenchResult, values: readonly Sample[], color: object, y: 'ms' | 'gflops', title: string): PictureSpec {
  const x = tokenAxis(result);
  const axis = logAxis(y, title, values.flatMap((v) => (y === 'ms' ? [v.ms, v.msP90] : [v.gflops])));
  const spread = { mark: { type: 'rule', strokeWidth: 2, opacity: 0.35 }, encoding: { x, color, y: axis, y2: { field: 'msP90' } } };
  return {
    width: 330,
    height: 270,
    data: { values },
    layer: [...(y === 'ms' ? [spread] : []), { mark: { type: 'line', strokeWidth: 2, point: { filled: true, size: 46 } }, encoding: { x, color, y: axis } }],
  };
}

/** Times and rates over the tokens, one line a series. */
function sweep(name: string, title: string, result: BenchResult, rows: BenchResult['rows'], seriesOf: (row: BenchResult['rows'][number]) => string, note?: string): Picture {
  const values = rows.map((r): Sample => {
    const { ms, gflops } = ratesOf(r, result.facts);
    return { tokens: r.tokens, series: seriesOf(r), ms, msP90: (r.device ?? r.host).p90, gflops };
  });
  const color = { field: 'series', ...named([...new Set(values.map((v) => v.series))], null) };
  const clock = rows.some((r) => r.device !== undefined) ? 'device' : 'host';
  return picture(name, title, result, {
    hconcat: [lines(result, values, color, 'ms', `ms a call, ${clock} time`), lines(result, values, color, 'gflops', 'GFLOP/s, operations of the spec')],
    spacing: 36,
    resolve: { scale: { color: 'shared' } },
  }, `points: medians; bars: up to the 90th percentile${note ?? ''}`);
}

const tokensPicture = (result: BenchResult): Picture =>
  sweep('tokens', `${result.spec}: calls of more and more tokens`, result, inFirstRouting(result), (r) => r.name, routingNote(result));

/** One contestant under each routing. */
function routingSweep(result: BenchResult): Picture | undefined {
  if (routings(result).length < 2) return undefined;
  const [name = ''] = names(result);
  return sweep('routing-tokens', `${result.spec}: the same layer under other routing`, result, result.rows.filter((r) => r.name === name), (r) => r.routing ?? '');
}

function rooflinePicture(result: BenchResult): Picture | undefined {
  const { facts } = result;
  const [first] = names(result);
  const points = inFirstRouting(result).filter((r) => r.work.bytes > 0).map((r) => {
    const { gflops, intensity } = ratesOf(r, facts);
    return { intensity, gflops, name: r.name, tokens: r.tokens, label: r.name === first ? String(r.tokens) : '' };
  });
  if (points.length === 0) return undefined;
  const all = points.map((p) => p.intensity);
  const ridge = facts === undefined ? 1 : facts.peaks.fmaGflops / facts.peaks.copyGBs;
  const [from, to] = facts === undefined ? [Math.min(...all) / 2, Math.max(...all) * 2] : [Math.min(ridge / 4, ...all) / 1.6, Math.max(ridge * 4, ...all) * 1.6];
  const roof = facts === undefined ? [] : [from, ridge, to].map((intensity) => ({ intensity, gflops: roofline(facts.peaks, intensity) }));
  const x = { field: 'intensity', type: 'quantitative', scale: { type: 'log', domain: [from, to], nice: false }, title: 'useful FLOP for each byte moved', axis: { values: logTicks(from, to), format: '~g' } };
  const y = logAxis('gflops', 'GFLOP/s', [...points, ...roof].map((p) => p.gflops), 1.6);
  const note = facts === undefined
    ? 'no roof: the peaks of this device were not measured (moec doctor --measure)'
    : `roof: ${facts.peaks.copyGBs.toPrecision(3)} GB/s of copies and ${facts.peaks.fmaGflops.toPrecision(3)} GFLOP/s of multiply-adds, measured; caches lift points above it`;
  return picture('roofline', `${result.spec}: roofline`, result, {
    width: 620,
    height: 380,
    layer: [
      ...(facts === undefined ? [] : [{ data: { values: roof }, mark: { type: 'line', color: '#8c959f', strokeWidth: 2 }, encoding: { x, y } }]),
      {
        data: { values: points },
        mark: { type: 'line', strokeWidth: 1.2, point: { filled: true, size: 70, opacity: 1 } },
        encoding: { x, y, order: { field: 'tokens', type: 'quantitative' }, color: { field: 'name', ...named(names(result), null) } },
      },
      { data: { values: points }, mark: { type: 'text', dy: -12, fontSize: 11, color: INK }, encoding: { x, y, text: { field: 'label' } } },
    ],
  }, note, `numbers at points: tokens of a call${routingNote(result)}`);
}

function passesPicture(result: BenchResult): Picture | undefined {
  const [routing] = routings(result);
  const rows = passRows(result).filter((r) => r.routing === routing);
  if (rows.length === 0) return undefined;
  const values = rows.map((r) => ({ pass: r.pass, tokens: `${r.tokens}`, time: 100 * r.time, mib: r.bytes / 2 ** 20, dispatches: r.dispatches }));
  const counts = [...new Set(values.map((v) => v.tokens))];
  const passes = PASS_NAMES.filter((pass) => values.some((v) => v.pass === pass));
  const bars = (field: string, title: string, first: boolean): PictureSpec => ({
    width: 210,
    height: { step: 11 },
    data: { values },
    layer: [
      {
        mark: { type: 'bar', cornerRadiusEnd: 1.5 },
        encoding: {
          y: { field: 'pass', type: 'nominal', sort: passes, title: null, axis: first ? { labelFontSize: 12, labelColor: INK, labelLimit: 200, ticks: false, domain: false } : null, scale: { paddingInner: 0.3 } },
          yOffset: { field: 'tokens', type: 'nominal', sort: counts },
          x: { field, type: 'quantitative', title, axis: { tickCount: 4, format: '~s' } },
          color: { field: 'tokens', ...named(counts, 'tokens of a call') },
        },
      },
      { mark: { type: 'rule', color: '#8c959f' }, encoding: { x: { datum: 0 } } },
    ],
  });
  return picture('passes', `${result.spec}: what a call costs more without one pass`, result, {
    hconcat: [bars('time', 'time, %', true), bars('mib', 'bytes moved, MiB', false), bars('dispatches', 'dispatches', false)],
    spacing: 24,
    resolve: { scale: { color: 'shared' } },
  }, `differences from all passes on${routingNote(result)}; no bar: the pass changes nothing there`);
}

function routingPicture(result: BenchResult): Picture | undefined {
  const all = routings(result);
  const seen = whole(result).filter((r) => r.histogram !== undefined);
  const tokens = Math.max(...seen.map((r) => r.tokens));
  const rows = all.flatMap((routing) => seen.find((r) => r.routing === routing && r.tokens === tokens) ?? []);
  if (rows.length === 0) return undefined;
  const values = rows.flatMap(({ routing, histogram }) => [...(histogram?.counts ?? [])].sort((a, b) => b - a).map((count, rank) => ({ routing, rank: rank + 1, count })));
  return picture('routing', `${result.spec}: tokens of each expert, busiest first`, result, {
    data: { values },
    facet: { column: { field: 'routing', type: 'nominal', sort: all, title: null } },
    spec: {
      width: 190,
      height: 200,
      mark: { type: 'bar', color: COLORS[0] },
      encoding: {
        x: { field: 'rank', type: 'quantitative', title: 'expert, by rank', scale: { domain: [0.5, (rows[0]?.histogram?.counts.length ?? 1) + 0.5], nice: false }, bin: false, axis: { format: 'd', grid: false, tickMinStep: 1, tickCount: 4 } },
        x2: { field: 'end' },
        y: { field: 'count', type: 'quantitative', title: 'tokens', axis: { tickMinStep: 1, tickCount: 5 } },
        y2: { datum: 0 },
      },
      transform: [{ calculate: 'datum.rank + 0.5', as: 'end' }, { calculate: 'datum.rank - 0.5', as: 'rank' }],
    },
  }, `of a call of ${tokens} tokens, as the layer’s own router chose`);
}

/** Those that the result has something to show for. */
export const picturesOf = (result: BenchResult): readonly Picture[] =>
  [rooflinePicture(result), tokensPicture(result), passesPicture(result), routingPicture(result), routingSweep(result)].filter((p) => p !== undefined);

/** One line for each unit that was tuned. */
export function searchPicture(result: BenchResult, steps: readonly SearchStep[]): Picture {
  const units = [...new Set(steps.map((s) => s.unit))];
  return picture('tuning', `${result.spec}: what tuning found, evaluation by evaluation`, result, {
    width: 620,
    height: 300,
    data: { values: steps },
    mark: { type: 'line', interpolate: 'step-after', strokeWidth: 2 },
    encoding: {
      x: { field: 'evaluation', type: 'quantitative', title: 'evaluations', axis: { format: 'd', tickMinStep: 1, grid: false } },
      y: { field: 'best', type: 'quantitative', title: 'best time so far, of the default’s', axis: { format: '.0%' }, scale: { domain: [0, 1] } },
      color: { field: 'unit', ...named(units, null), legend: { title: null, orient: 'bottom', columns: 3, symbolOpacity: 1 } },
    },
  }, 'each candidate was measured in turns with the default');
}
