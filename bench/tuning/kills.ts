/** Parts 3 and 4: `moec tune` killed at random moments and resumed, and two of them at once on one store. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stateOf, type StoreState, tune, type Tuning, winnersOf } from './command.ts';
import { diceOf } from './specs.ts';

/** Kills of one run; then it goes on in peace to its end. */
const KILLS_A_RUN = 10;
/** Milliseconds after which a life ends: from before anything is measured to many measurements later. */
const [SHORTEST, LONGEST] = [200, 6000];

const SPECS = [
  { about: '8 experts of swiglu 32, active 2, hidden 64', text: 'layer small { hidden 64  moe { experts 8 of swiglu 32  active 2  router softmax top-k } }', tokens: '2,8' },
  { about: 'ffn swiglu 96, hidden 64', text: 'layer small { hidden 64  ffn swiglu 96 }', tokens: '16' },
  { about: '4 experts of mlp gelu 64, active 1, shared 1, hidden 64, int8', text: 'layer small { hidden 64  dtype f16 experts int8  moe { experts 4 of mlp gelu 64  active 1  shared 1  router softmax top-k } }', tokens: '4,32' },
];

export interface KillsRow {
  readonly index: number;
  readonly spec: string;
  readonly tokens: string;
  readonly kills: number;
  /** Kills after which the run had measured more than after the one before. */
  readonly useful: number;
  readonly entries: number;
  readonly measurements: number;
  /** Whether a run in peace that is given the same measurements ends with the same winners, and measures nothing. */
  readonly same: boolean;
  readonly measuredAgain: number;
  /** After any of the kills. */
  readonly corrupt: number;
  readonly torn: number;
  readonly left: number;
}

function setUp(index: number): { readonly directory: string; readonly spec: string; readonly about: string; readonly tokens: string } {
  const chosen = SPECS[index % SPECS.length];
  if (chosen === undefined) throw new RangeError('no such spec');
  const directory = mkdtempSync(join(tmpdir(), 'moec-kills-'));
  const spec = join(directory, 'small.moe');
  writeFileSync(spec, `${chosen.text}\n`);
  return { directory, spec, about: chosen.about, tokens: chosen.tokens };
}

const wantSuccess = ({ code, stderr }: { readonly code: number | null; readonly stderr: string }): void => {
  if (code !== 0) throw new Error(`moec tune ends with ${String(code)}:\n${stderr}`);
};

/** What a run in peace makes of a log. */
async function replayed(tuning: Tuning, directory: string): Promise<StoreState> {
  const store = join(directory, 'replayed');
  mkdirSync(store);
  cpSync(join(tuning.store, 'log.jsonl'), join(store, 'log.jsonl'));
  wantSuccess(await tune({ ...tuning, store, resume: true }));
  return stateOf(store);
}

/** One run, killed so many times at most. @param kills at most KILLS_A_RUN are made */
export async function killsRow(index: number, seed: number, moec: string, kills: number): Promise<KillsRow> {
  const { directory, spec, about, tokens } = setUp(index);
  const d = diceOf(seed + index);
  const tuning: Tuning = { moec, spec, tokens, store: join(directory, 'store'), resume: true };
  let [made, useful, lines, corrupt] = [0, 0, 0, 0];
  try {
    for (;;) {
      const ended = await tune(tuning, made < Math.min(kills, KILLS_A_RUN) ? d.int(SHORTEST, LONGEST) : undefined);
      const state = stateOf(tuning.store);
      corrupt += state.corrupt.length;
      if (!ended.killed) {
        wantSuccess(ended);
        const again = await replayed(tuning, directory);
        return {
          index, spec: about, tokens, kills: made, useful, entries: state.entries.length, measurements: state.lines, same: winnersOf(again) === winnersOf(state),
          measuredAgain: again.lines - state.lines, corrupt, torn: state.torn, left: state.left,
        };
      }
      made++;
      if (state.lines > lines) useful++;
      lines = state.lines;
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

export interface PairRow {
  readonly index: number;
  readonly spec: string;
  readonly tokens: string;
  readonly codes: string;
  readonly entries: number;
  readonly corrupt: number;
  readonly torn: number;
  readonly left: number;
  readonly measurements: number;
  /** A third run takes every entry as it is. */
  readonly known: boolean;
}

/** Two at once on a store that is empty at first. */
export async function pairRow(index: number, moec: string): Promise<PairRow> {
  const { directory, spec, about, tokens } = setUp(index);
  const tuning: Tuning = { moec, spec, tokens, store: join(directory, 'store') };
  try {
    const both = await Promise.all([tune(tuning), tune(tuning)]);
    const state = stateOf(tuning.store);
    const third = await tune({ ...tuning, resume: true });
    const after = stateOf(tuning.store);
    return {
      index, spec: about, tokens, codes: both.map((b) => String(b.code)).join(' and '), entries: state.entries.length, corrupt: state.corrupt.length, torn: state.torn, left: state.left,
      measurements: state.lines, known: third.code === 0 && after.lines === state.lines && winnersOf(after) === winnersOf(state),
    };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
