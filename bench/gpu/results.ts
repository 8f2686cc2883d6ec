/** The lines that the stages write, one JSON object each, and how several runs become one set of results. */

interface Line {
  /** What made it. */
  readonly command: string;
}

/** The device, and its ceilings as measured in the same run. */
export interface Machine extends Line {
  readonly kind: 'machine';
  /** YYYY-MM-DD */
  readonly date: string;
  readonly device: string;
  readonly driver: string;
  readonly torch: string;
  readonly triton: string;
  /** Of a large copy on the device, bytes read and written. */
  readonly copyGBs: number;
  /** Of a large square product of bf16 matrices. */
  readonly matmulTflops: number;
  readonly multiprocessors?: number;
  readonly l2Bytes?: number;
  readonly memoryBytes?: number;
  /** As nvidia-smi tells them. */
  readonly clocksIdle: Readonly<Record<string, string>>;
  readonly clocksAfter: Readonly<Record<string, string>>;
  readonly limits: Readonly<Record<string, string>>;
}

/** One contestant at one shape, token count and routing. */
export interface LayerRow extends Line {
  readonly kind: 'layer';
  readonly shape: string;
  readonly tokens: number;
  readonly routing: string;
  readonly what: string;
  readonly detail: string;
  readonly medianMs: number;
  readonly p10Ms: number;
  readonly p90Ms: number;
  readonly samples: number;
  readonly rounds: number;
  /** Whether the L2 was overwritten before each call. */
  readonly coldL2: boolean;
  /** Norm of the difference to the f32 reference over its norm; null where nothing is compared. */
  readonly error: number | null;
  readonly worstRow: number | null;
  /** Of the layer, whoever computes it. */
  readonly flops: number;
  readonly bytes: number;
  /** Experts that some token uses. */
  readonly touched: number;
  /** Rows of the fullest expert over the mean. */
  readonly imbalance: number;
}

/** A whole model's forward. */
export interface ModelRow extends Line {
  readonly kind: 'model';
  readonly name: string;
  readonly tokens: number;
  readonly medianMs: number;
  readonly p10Ms: number;
  readonly p90Ms: number;
  readonly samples: number;
  readonly dispatches: number;
  readonly weightBytes: number;
}

/** Something that is right or wrong: a wrapper, a package's golden vectors, a sanitizer's verdict. */
export interface CheckRow extends Line {
  readonly kind: 'check';
  readonly stage: string;
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

/** One kernel under the profiler; metrics with their units. */
export interface ProfileRow extends Line {
  readonly kind: 'profile';
  readonly kernel: string;
  readonly metrics: Readonly<Record<string, string>>;
}

/** Something that was not measured, and why. */
export interface SkipRow extends Line {
  readonly kind: 'skip';
  readonly shape: string;
  readonly what: string;
  readonly tokens: number | null;
  readonly routing: string | null;
  readonly reason: string;
}

/** The end of a stage. */
export interface StageRow extends Line {
  readonly kind: 'stage';
  readonly name: string;
  /** 124: its time was up. */
  readonly status: number;
  readonly seconds: number;
}

/** Lines that are kept in the JSON and not shown: loading times, clocks after a shape. */
export interface OtherRow extends Line {
  readonly kind: 'load' | 'clocks';
  readonly [key: string]: unknown;
}

export type Row = Machine | LayerRow | ModelRow | CheckRow | ProfileRow | SkipRow | StageRow | OtherRow;

const KINDS: ReadonlySet<string> = new Set<Row['kind']>(['machine', 'layer', 'model', 'check', 'profile', 'skip', 'load', 'clocks', 'stage']);

const isRow = (value: unknown): value is Row =>
  typeof value === 'object' && value !== null && 'kind' in value && typeof value.kind === 'string' && KINDS.has(value.kind) && 'command' in value;

/** Reads lines; one that was cut off when its stage was stopped is left out. */
export function readRows(text: string): Row[] {
  return text.split('\n').flatMap((line) => {
    if (line.trim() === '') return [];
    try {
      const value: unknown = JSON.parse(line);
      return isRow(value) ? [value] : [];
    } catch {
      return [];
    }
  });
}

/** Rows of the same key measure the same thing. */
function keyOf(row: Row): string {
  switch (row.kind) {
    case 'machine':
      return JSON.stringify([row.kind, row.device]);
    case 'layer':
      return JSON.stringify([row.kind, row.shape, row.tokens, row.routing, row.what]);
    case 'skip':
      return JSON.stringify([row.kind, row.shape, row.tokens, row.routing, row.what]);
    case 'model':
      return JSON.stringify([row.kind, row.name, row.tokens]);
    case 'check':
      return JSON.stringify([row.kind, row.stage, row.name]);
    case 'stage':
      return JSON.stringify([row.kind, row.name]);
    default:
      return JSON.stringify(row);
  }
}

/** Rows of several runs on one device: of equal keys the last counts, and what was measured in the end was not skipped. */
export function merge(rows: readonly Row[]): Row[] {
  const last = new Map<string, Row>();
  for (const row of rows) last.set(keyOf(row), row);
  const measured = new Set(rows.flatMap((r) => (r.kind === 'layer' ? [JSON.stringify([r.shape, r.tokens, r.routing, r.what])] : [])));
  return [...last.values()].filter((r) => r.kind !== 'skip' || !measured.has(JSON.stringify([r.shape, r.tokens, r.routing, r.what])));
}

export const rowsOf = <K extends Row['kind']>(rows: readonly Row[], kind: K): Extract<Row, { kind: K }>[] =>
  rows.filter((r): r is Extract<Row, { kind: K }> => r.kind === kind);

/** `2026-05-02-nvidia-h100-80gb-hbm3`; undefined where no machine was described. */
export function resultName(rows: readonly Row[]): string | undefined {
  const machine = rowsOf(rows, 'machine').at(-1);
  return machine === undefined ? undefined : `${machine.date}-${machine.device.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').replaceAll(/^-|-$/g, '')}`;
}
