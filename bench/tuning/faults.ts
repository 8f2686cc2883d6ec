/** Part 5: candidates that hang, crash, are wrong, and a disk that is full, on purpose, in real runs of `moec tune`. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isObject } from '../../src/base/is-object.ts';
import { FAULTS } from '../../src/tuner/child/faults.ts';
import { type Ended, stateOf, tune, type Tuning } from './command.ts';

export interface FaultRow {
  readonly index: number;
  readonly fault: string;
  readonly code: number | null;
  /** Failures that the run tells, by class. */
  readonly told: string;
  readonly entries: number;
  readonly corrupt: number;
  readonly measurements: number;
  readonly seconds: number;
  readonly warnings: string;
}

const SPEC = 'layer small { hidden 64  moe { experts 4 of swiglu 32  active 2  router softmax top-k } }\n';
/** The attempt at which the fault comes: the first is the default's own, which everything is held against. */
const AT = 4;
/** Bytes of the disk that gets full: some lines of the log fit, not all of them, and no entry does. */
const DISK = 8192;

function failuresOf({ stdout }: Ended): string {
  try {
    const x: unknown = JSON.parse(stdout);
    const failures: unknown = isObject(x) ? x['failures'] : undefined;
    if (!Array.isArray(failures)) return 'no report';
    return failures.map((f: unknown) => (isObject(f) ? `${String(f['count'])} ${String(f['failure'])}` : '')).join(', ') || 'none';
  } catch {
    return 'no report';
  }
}

const warningsOf = ({ stderr }: Ended): string => stderr.split('\n').filter((l) => l.startsWith('warning: ')).map((l) => l.slice(9).replace(/ in \/\S+/, '')).join('; ');

/** A command that mounts a small disk of its own over a directory, runs the words behind it, and keeps what is on the disk. */
const throughSmallDisk = (store: string, kept: string): readonly string[] => [
  'unshare', '--mount', '--map-root-user', 'sh', '-c',
  'mount -t tmpfs -o size="$1" tmpfs "$2" || exit 90; to=$2; kept=$3; shift 3; "$@"; code=$?; cp -r "$to/." "$kept"; exit $code', 'sh', String(DISK), store, kept,
];

const canMount = (directory: string): boolean => {
  const [program = '', ...args] = throughSmallDisk(directory, directory);
  return spawnSync(program, [...args, 'true']).status === 0;
};

async function row(index: number, fault: string, tuning: Tuning, kept: string): Promise<FaultRow> {
  const ended = await tune(tuning);
  const state = stateOf(kept);
  return {
    index, fault, code: ended.code, told: failuresOf(ended), entries: state.entries.length, corrupt: state.corrupt.length, measurements: state.lines,
    seconds: ended.ms / 1000, warnings: warningsOf(ended),
  };
}

export const FAULT_COUNT = FAULTS.length + 1;

/** @returns undefined where this machine cannot make a small disk */
export async function faultRow(index: number, moec: string): Promise<FaultRow | undefined> {
  const directory = mkdtempSync(join(tmpdir(), 'moec-faults-'));
  try {
    const spec = join(directory, 'small.moe');
    writeFileSync(spec, SPEC);
    const store = join(directory, 'store');
    mkdirSync(store);
    const tuning: Tuning = { moec, spec, tokens: '2', store };
    const fault = FAULTS[index];
    if (fault !== undefined) return await row(index, fault, { ...tuning, env: { MOEC_TUNE_FAULTS: `${fault}@${AT}` } }, store);
    const kept = join(directory, 'kept');
    mkdirSync(kept);
    if (!canMount(store)) return undefined;
    return await row(index, 'full disk', { ...tuning, through: throughSmallDisk(store, kept) }, kept);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
