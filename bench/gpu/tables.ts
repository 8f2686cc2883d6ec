/** Results as Markdown. */
import { type CheckRow, type LayerRow, type Machine, type ModelRow, type Row, rowsOf } from './results.ts';

const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
/** `left`: how many columns hold words. */
const table = (head: readonly string[], rows: readonly (readonly string[])[], left: number): string =>
  [line(head), line(head.map((_, i) => (i < left ? '---' : '---:'))), ...rows.map(line)].join('\n');
const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ').trim();

const ms = (x: number): string => (x >= 10 ? x.toFixed(2) : x >= 1 ? x.toFixed(3) : x.toFixed(4));
const percent = (part: number, whole: number): string => (whole > 0 ? `${((100 * part) / whole).toFixed(0)} %` : '');
const tflops = (r: LayerRow): number => r.flops / r.medianMs / 1e9;
const gbs = (r: LayerRow): number => r.bytes / r.medianMs / 1e6;

/** Calls of at most so many tokens are bound by memory on every shape here. */
const DECODE_TOKENS = 64;

interface Group {
  readonly shape: string;
  readonly routing: string;
  readonly rows: readonly LayerRow[];
}

function groups(rows: readonly LayerRow[]): Group[] {
  const found = new Map<string, { readonly shape: string; readonly routing: string; readonly rows: LayerRow[] }>();
  for (const r of rows) {
    const key = JSON.stringify([r.shape, r.routing]);
    const group = found.get(key) ?? { shape: r.shape, routing: r.routing, rows: [] };
    group.rows.push(r);
    found.set(key, group);
  }
  return [...found.values()].map((g) => ({ ...g, rows: [...g.rows].sort((a, b) => a.tokens - b.tokens) }));
}

/** The compiled layer that the others are compared with: the newest architecture's. */
export function ownRow(rows: readonly LayerRow[]): LayerRow | undefined {
  const own = rows.filter((r) => r.what.startsWith('moec ') && !r.what.endsWith(' dense'));
  return own.sort((a, b) => (a.what < b.what ? 1 : -1))[0];
}

const LAYER_HEAD = ['T', 'what', 'how', 'ms', 'p10', 'p90', 'TFLOP/s', 'of matmul', 'GB/s', 'of copy', 'time / moec', 'error', 'made by'];

function layerRows(rows: readonly LayerRow[], machine: Machine | undefined): string[][] {
  return rows.map((r) => {
    const base = ownRow(rows.filter((o) => o.tokens === r.tokens));
    const decode = r.tokens <= DECODE_TOKENS;
    // A ceiling and a router alone move other bytes than the layer.
    const moves = decode && r.what !== 'torch-router' && r.what !== 'cublas-dense' && !r.what.endsWith(' dense');
    const counts = r.what !== 'torch-router';
    return [
      String(r.tokens),
      r.what,
      cell(r.detail),
      ms(r.medianMs),
      ms(r.p10Ms),
      ms(r.p90Ms),
      counts ? tflops(r).toFixed(1) : '',
      counts && !decode ? percent(tflops(r), machine?.matmulTflops ?? 0) : '',
      moves ? gbs(r).toFixed(0) : '',
      moves ? percent(gbs(r), machine?.copyGBs ?? 0) : '',
      base === undefined ? '' : (r.medianMs / base.medianMs).toFixed(2),
      r.error === null ? 'not compared' : r.error.toExponential(1),
      `\`${r.command}\``,
    ];
  });
}

function layerSection({ shape, routing, rows }: Group, machine: Machine | undefined): string {
  const loads = [...new Set(rows.map((r) => `T = ${r.tokens}: ${r.touched} experts used, the fullest has ${r.imbalance.toFixed(1)} times the mean`))].join('; ');
  return `### ${shape}, ${routing} routing\n\n${loads}.\n\n${table(LAYER_HEAD, layerRows(rows, machine), 3)}\n`;
}

/** How many times longer each takes than the compiled layer; and that layer beside the dense one. */
function ratioSection(rows: readonly LayerRow[]): string {
  const names = [...new Set(rows.map((r) => r.what))].filter((n) => !n.startsWith('moec ') && n !== 'torch-router' && n !== 'cublas-dense').sort();
  const body = groups(rows).flatMap((g) =>
    [...new Set(g.rows.map((r) => r.tokens))].flatMap((tokens) => {
      const here = g.rows.filter((r) => r.tokens === tokens);
      const own = ownRow(here);
      if (own === undefined) return [];
      const router = here.find((r) => r.what === 'torch-router');
      const times = (what: string): string => {
        const found = here.find((r) => r.what === what);
        if (found === undefined) return '';
        const whole = (found.medianMs / own.medianMs).toFixed(2);
        return router === undefined ? whole : `${whole} (${((found.medianMs - router.medianMs) / own.medianMs).toFixed(2)})`;
      };
      const dense = here.find((r) => r.what === `${own.what} dense`);
      const ceiling = here.find((r) => r.what === 'cublas-dense');
      return [[
        g.shape, g.routing, own.what, String(tokens), ...names.map(times),
        dense === undefined ? '' : (own.medianMs / dense.medianMs).toFixed(2),
        ceiling === undefined ? '' : percent(ceiling.medianMs, own.medianMs),
        `\`${own.command}\``,
      ]];
    }),
  );
  if (body.length === 0) return '';
  const head = ['shape', 'routing', 'moec', 'T', ...names.map((n) => `${n} / moec`), 'MoE / dense', 'of cuBLAS dense', 'made by'];
  return `## Ratios\n\nTime of a peer over moec's: above 1 moec is faster; in brackets, the peer's router (plain torch) given to it for free, moec's still counted. *MoE / dense*: the compiled mixture over the compiled dense layer of equal
activated size. *Of cuBLAS dense*: the two dense products alone, as a share of the whole mixture's time.\n\n${table(head, body, 3)}\n`;
}

const MOE_MODEL = 'deepseek-moe-16b';
const DENSE_MODEL = 'deepseek-7b';

function modelSection(rows: readonly ModelRow[]): string {
  if (rows.length === 0) return '';
  const body = rows.map((r) => [r.name, String(r.tokens), ms(r.medianMs), ms(r.p10Ms), ms(r.p90Ms), String(r.samples), String(r.dispatches), (r.weightBytes / 1e9).toFixed(1), `\`${r.command}\``]);
  const ratios = [...new Set(rows.map((r) => r.tokens))].flatMap((tokens) => {
    const moe = rows.find((r) => r.name.startsWith(MOE_MODEL) && r.tokens === tokens);
    const dense = rows.find((r) => r.name.startsWith(DENSE_MODEL) && r.tokens === tokens);
    return moe === undefined || dense === undefined ? [] : [`- T = ${tokens}: ${moe.name} takes ${(moe.medianMs / dense.medianMs).toFixed(3)} of ${dense.name}'s time (the paper's count of operations gives 0.405)`];
  });
  const head = ['model', 'T', 'ms', 'p10', 'p90', 'samples', 'dispatches', 'weights GB', 'made by'];
  return `## Whole models\n\nOne forward without a cache before it, logits of the last token, random weights: routing is the random router's, not a trained one's.\n\n${table(head, body, 1)}\n\n${ratios.join('\n')}\n`;
}

function checkSection(rows: readonly CheckRow[]): string {
  const stages = [...new Set(rows.map((r) => r.stage))];
  return stages.map((stage) => {
    const here = rows.filter((r) => r.stage === stage);
    const bad = here.filter((r) => !r.ok);
    const head = `## ${stage}: ${here.length - bad.length} of ${here.length} good\n\nMade by \`${here[0]?.command ?? ''}\`.\n`;
    return bad.length === 0 ? head : `${head}\n${table(['wrong', 'what it said'], bad.map((r) => [cell(r.name), cell(r.detail)]), 2)}\n`;
  }).join('\n');
}

function profileSection(rows: readonly Row[]): string {
  const found = rowsOf(rows, 'profile');
  if (found.length === 0) return '';
  const names = [...new Set(found.flatMap((r) => Object.keys(r.metrics)))];
  const body = found.map((r) => [cell(r.kernel), ...names.map((n) => cell(r.metrics[n] ?? '')), `\`${r.command}\``]);
  return `## Profile\n\n${table(['kernel', ...names, 'made by'], body, 1)}\n`;
}

function skipSection(rows: readonly Row[]): string {
  const stages = rowsOf(rows, 'stage').filter((r) => r.status !== 0);
  const body = [
    ...rowsOf(rows, 'skip').map((r) => [r.shape, r.tokens === null ? '' : String(r.tokens), r.routing ?? '', cell(r.what), cell(r.reason)]),
    ...stages.map((r) => ['', '', '', `stage ${r.name}`, `${r.status === 124 ? 'its time was up' : `it ended with ${r.status}`} after ${r.seconds} s: rows may be missing`]),
  ];
  if (body.length === 0) return '';
  return `## Not measured\n\n${table(['shape', 'T', 'routing', 'what', 'why'], body, 5)}\n`;
}

const pairs = (facts: Readonly<Record<string, string>>): string => Object.entries(facts).map(([k, v]) => `${k} ${v}`).join(', ');

function machineSection(m: Machine): string {
  return `${m.date}, ${m.device}, driver ${m.driver}, torch ${m.torch}, triton ${m.triton}. Limits: ${pairs(m.limits)}. Clocks before: ${pairs(m.clocksIdle)};
after the ceilings: ${pairs(m.clocksAfter)}. Ceilings of this run: a large copy moves ${m.copyGBs.toFixed(0)} GB/s (read and written bytes), an
8192-cube bf16 product ${m.matmulTflops.toFixed(0)} TFLOP/s. Made by \`${m.command}\`.`;
}

const HOW = `One layer is 6 · T · H · (K · I + S) FLOPs: two per multiply-add in the three matrices of the K routed experts of width I and of the shared
ones of width S together; router and combine are in the time and not in the count. Its bytes are 2 · H · (3 · (experts used · I + S) + E + 2 · T): every
weight that is needed once, bf16 rows in and out. Times are device times of single calls between events (graph replays where the call can be
captured), medians over interleaved rounds; up to 64 tokens each call begins with a cold L2. Every layer counts with its router, its shared
experts and its combine; \`vllm\` gets its rows sorted beforehand, and *cublas-dense* is two products without anything between: a ceiling. All
get the same bf16 rows and weights; outputs are held to an f32 reference with the same experts before a time counts.`;

/** The whole page. */
export function markdown(rows: readonly Row[]): string {
  const machine = rowsOf(rows, 'machine').at(-1);
  const layers = rowsOf(rows, 'layer');
  const sections = [
    `# GPU results${machine === undefined ? '' : `: ${machine.device}`}`,
    machine === undefined ? 'No device was described: the ceilings are missing.' : machineSection(machine),
    layers.length === 0 ? '' : `## Layers\n\n${HOW}\n`,
    ratioSection(layers),
    modelSection(rowsOf(rows, 'model')),
    ...groups(layers).map((g) => layerSection(g, machine)),
    checkSection(rowsOf(rows, 'check')),
    profileSection(rows),
    skipSection(rows),
  ];
  return `${sections.map((s) => s.trim()).filter((s) => s !== '').join('\n\n')}\n`;
}
