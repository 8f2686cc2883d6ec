/** `moec compile --tuned`: what a store has for a spec. */
import { existsSync, statSync } from 'node:fs';
import type { Spec } from '../../driver/analysis.ts';
import type { Tuned } from '../../driver/compile.ts';
import { type TunedOptions, tunedFrom } from '../../driver/tuning/tuned.ts';
import { STORE_DIRECTORY, TuneStore } from '../../tuner/store/store.ts';
import { CommandError, EXIT, type Io } from '../io.ts';

/** @throws CommandError where the store has nothing for the spec: a build that should be tuned must not quietly be another one */
export function readTuned(io: Io, spec: Spec, given: string | true, options: TunedOptions): Tuned {
  const directory = given === true ? STORE_DIRECTORY : given;
  const tune = 'moec tune FILE measures on this device and writes there';
  if (!existsSync(directory) || !statSync(directory).isDirectory()) {
    throw new CommandError(EXIT.io, `${directory} is no directory of tuned schedules`, { fix: given !== true && given.endsWith('.moe') ? '--tuned goes behind the file, or as --tuned=DIR' : tune });
  }
  const { used, passedOver, ...tuned } = tunedFrom(spec, new TuneStore(directory, io.say).list(), options);
  const others = [...passedOver].map(([why, n]) => `${n} ${why}`).join(', ');
  if (used === 0) throw new CommandError(EXIT.io, `${directory} has nothing for this spec and compiler${others === '' ? '' : ` (${others})`}`, { fix: tune });
  const devices = new Set(tuned.evidence.map((t) => t.adapter));
  io.say(`tuned: ${tuned.evidence.length} kernels for ${devices.size === 1 ? '1 device' : `${devices.size} devices`}, ${used - tuned.evidence.length} defaults stay${others === '' ? '' : `; passed over: ${others}`}`);
  return tuned;
}
