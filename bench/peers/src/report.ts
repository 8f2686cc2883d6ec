/** The result as Markdown. */
import { type Column, markdownTable, short } from '../../../src/cli/table.ts';
import { OLMOE } from './olmoe.ts';
import { SHAPE } from './numbers.ts';
import type { LayerBench, LayerRow } from './layer-bench.ts';
import type { ModelBench, ModelRow } from './model-bench.ts';
import type { Absent } from './peer.ts';

export interface Result {
  readonly date: string;
  readonly command: string;
  readonly device: { readonly name: string; readonly software: boolean; readonly processor: string; readonly cores: number };
  readonly versions: Readonly<Record<string, string>>;
  readonly mixture?: LayerBench;
  readonly dense?: LayerBench;
  readonly model?: ModelBench;
}

const layerColumns = (first: string): readonly Column<LayerRow>[] => [
  { title: 'tokens', cell: (r) => String(r.tokens) },
  { title: 'what', left: true, cell: (r) => r.name },
  { title: 'experts', left: true, cell: (r) => r.storage },
  { title: 'median ms', cell: (r) => short(r.medianMs) },
  { title: 'p90 ms', cell: (r) => short(r.p90Ms) },
  { title: 'n', cell: (r) => String(r.n) },
  { title: 'useful GFLOP/s', cell: (r) => short(r.gflops) },
  { title: `x ${first}`, cell: (r) => short(r.timesFirst) },
  { title: 'NMSE', cell: (r) => r.nmse.toExponential(1) },
  { title: 'first call ms', cell: (r) => short(r.firstMs) },
];

const MODEL_COLUMNS: readonly Column<ModelRow>[] = [
  { title: 'what', left: true, cell: (r) => r.name },
  { title: 'prompt, tokens/s', cell: (r) => short(r.prefill) },
  { title: 'x', cell: (r) => short(r.timesLlama?.prefill ?? NaN) },
  { title: 'after it, tokens/s', cell: (r) => short(r.decode) },
  { title: 'x', cell: (r) => short(r.timesLlama?.decode ?? NaN) },
  { title: 'n', cell: (r) => String(r.n) },
  { title: 'NMSE of logits', cell: (r) => r.nmse.toExponential(1) },
  { title: 'load s', cell: (r) => short(r.openMs / 1000) },
  { title: 'first calls s', cell: (r) => short(r.firstMs / 1000) },
];

/** Those that did not run stand in the table, with the reason. */
function absentRows(absent: readonly Absent[], width: number): string {
  return absent.map(({ name, why }) => `\n| ${name}: not measured: ${why.replaceAll('|', '\\|')} |${' |'.repeat(width - 1)}`).join('');
}

const withAbsent = <T>(columns: readonly Column<T>[], rows: readonly T[], absent: readonly Absent[]): string => markdownTable(columns, rows) + absentRows(absent, columns.length);

export function markdown({ date, command, device, versions, mixture, dense, model }: Result): string {
  const { experts, active, hidden, width } = SHAPE;
  const parts = [
    '# moec beside what else runs here',
    `${date.slice(0, 10)}, ${device.name}${device.software ? ' (a CPU plays the device: only ratios mean something, and they do not tell how GPUs rank)' : ''}; ${device.cores} x ${device.processor}; ${Object.entries(versions).map(([n, v]) => `${n} ${v}`).join(', ')}.`,
    `    ${command}`,
    `The same numbers in, results held against f64 before anything is timed; n interleaved rounds, begun by another each round, all in one process but
llama.cpp, which has one of its own and takes turns. Host clock around a whole call, upload and read-back included. *x*: how many times as fast as the
first row, median of the rounds’ ratios. *NMSE*: against f64 over the weights as they are stored, so that a quantised peer is charged with its own
arithmetic only. *First call*: compilers included, with whatever drivers keep from earlier runs.`,
  ];
  if (mixture !== undefined) {
    parts.push(`## A mixture: ${experts} experts, ${active} active, hidden ${hidden}, SwiGLU ${width}, router included`);
    parts.push(withAbsent(layerColumns('naive'), mixture.rows, mixture.absent));
    parts.push('QMoE quantises activations to 8 bits too, which its NMSE shows; float MoE is not on ONNX Runtime’s WebGPU provider. jax-js multiplies every token by every expert.');
  }
  if (dense !== undefined) {
    parts.push(`## The dense layer of equal activated size: hidden ${hidden}, SwiGLU ${active * width}`);
    parts.push(withAbsent(layerColumns('tiled'), dense.rows, dense.absent));
  }
  if (model !== undefined) {
    const [row] = model.rows;
    parts.push(`## A whole model: OLMoE of 30 M parameters (hidden ${OLMOE.hidden}, ${OLMOE.layers} layers, ${OLMOE.experts} experts, ${OLMOE.active} active), random weights`);
    parts.push(`${row === undefined ? '' : `A prompt of ${row.promptTokens} tokens, then ${row.decodeTokens} tokens one after another. `}*x*: how many times as fast as llama.cpp’s
Vulkan backend with the same weights. llama.cpp keeps keys and values in f16, as it does by default.`);
    parts.push(withAbsent(MODEL_COLUMNS, model.rows, model.absent));
  }
  return `${parts.join('\n\n')}\n`;
}
