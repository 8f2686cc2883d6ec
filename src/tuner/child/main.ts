/**
 * The process that measures: started by the supervisor, ended by it whenever a candidate hangs. A kernel that never ends blocks
 * `device.destroy()`, and takes a whole process along when a worker thread holds it, so only a process of its own will do.
 */
import type { Answer, FromChild, Numbered, Phase, Request } from '../protocol.ts';
import { isRequest } from '../protocol.ts';
import { faultsAt, NO_FAULTS } from './faults.ts';
import { CandidateError, Gpu } from './gpu.ts';
import { LoadedUnit } from './loaded-unit.ts';

const die = (): void => void process.kill(process.pid, 'SIGKILL');
// The terminal's Ctrl-C is the supervisor's to answer; without a supervisor there is nothing to do, and a hung device to leave.
process.on('SIGINT', () => undefined);
process.on('disconnect', die);

const send = (message: FromChild, then?: () => void): void => void process.send?.(message, undefined, {}, then);

let gpu: Gpu | undefined;
let unit: LoadedUnit | undefined;

const opened = (): Gpu => {
  if (gpu === undefined) throw new Error('no device was opened');
  return gpu;
};

const failed = (error: CandidateError): { readonly ok: false; readonly failure: CandidateError['failure']; readonly message: string } => ({ ok: false, failure: error.failure, message: error.message });

async function open(flags: readonly string[]): Promise<Answer> {
  gpu = await Gpu.open(flags);
  void gpu.lost.then((message) => send({ k: 'lost', message }, die));
  return { k: 'opened', device: gpu.facts };
}

async function load({ data, standard }: Extract<Request, { k: 'load' }>, phase: (p: Phase) => void): Promise<Answer> {
  unit?.dispose();
  unit = undefined;
  try {
    unit = await LoadedUnit.load(opened(), data, phase);
    return { k: 'loaded', loaded: { ms: await unit.standard({ key: 'standard', job: standard }, NO_FAULTS) } };
  } catch (error) {
    if (error instanceof CandidateError) return { k: 'loaded', loaded: failed(error) };
    throw error;
  }
}

async function attempt({ candidate, beside, rule, ordinal }: Extract<Request, { k: 'attempt' }>): Promise<Answer> {
  if (unit === undefined) throw new Error('no unit was loaded');
  try {
    return { k: 'attempted', outcome: await unit.attempt(candidate, beside, rule, faultsAt(ordinal)) };
  } catch (error) {
    if (error instanceof CandidateError) return { k: 'attempted', outcome: failed(error) };
    throw error;
  }
}

/** Phases are told to the unit's own process, under the id of the request at hand. */
let current = 0;
const phase = (p: Phase): void => send({ k: 'phase', id: current, phase: p });

function serve({ body }: Numbered<Request>): Promise<Answer> {
  switch (body.k) {
    case 'open':
      return open(body.flags);
    case 'load':
      return load(body, phase);
    case 'attempt':
      return attempt(body);
  }
}

const textOf = (error: unknown, name: string): string | undefined => (typeof error === 'object' && error !== null && name in error ? String(Reflect.get(error, name)) : undefined);

process.on('message', (message: unknown) => {
  if (!isRequest(message)) return;
  current = message.id;
  serve(message).then(
    (body) => send({ k: 'answer', id: message.id, body }),
    (error: unknown) => {
      const fix = textOf(error, 'fix');
      const said = { name: textOf(error, 'name') ?? 'Error', code: textOf(error, 'code') ?? '', message: textOf(error, 'message') ?? String(error) };
      send({ k: 'refused', id: message.id, ...said, ...(fix === undefined ? {} : { fix }) });
    },
  );
});
