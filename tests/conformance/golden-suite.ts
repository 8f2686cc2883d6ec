/** The suite that every way of running specs must pass. */
import { describe, expect, it } from 'vitest';
import { type Deviation, deviation } from '../../src/runtime/core/metrics.ts';
import { type Bench, type LayerOutcome, REFERENCE } from './benches.ts';
import { LAYER_CASES, MODEL_CASES, firstRows, openLayerCase, openModelCase } from './cases.ts';

/** A software adapter on a busy machine takes its time to compile. */
const TIMEOUT = 300_000;
/** Calls of the decode form; 1 token, some, and the most. */
const DECODE_TOKENS = [1, 3, 8];

export function expectWithin(actual: ArrayLike<number>, expected: ArrayLike<number>, rows: number, gate: Deviation): void {
  const off = deviation(actual, expected, rows);
  expect(off.nmse).toBeLessThanOrEqual(gate.nmse);
  expect(off.rowNmse).toBeLessThanOrEqual(gate.rowNmse);
}

function expectWeights(actual: ArrayLike<number>, expected: ArrayLike<number>, gate: number): void {
  expect(actual.length).toBe(expected.length);
  const errors = Array.from(actual, (w, i) => Math.abs(w - (expected[i] ?? NaN)));
  expect(Math.max(0, ...errors)).toBeLessThanOrEqual(gate);
}

/** Ids exactly, values within the gates. */
export function expectOutcome(actual: LayerOutcome, expected: LayerOutcome, rows: number, bench: Pick<Bench, 'gate' | 'weightGate'>): void {
  expect(actual.ids).toEqual(expected.ids);
  expectWithin(actual.y, expected.y, rows, bench.gate);
  const scale = Math.max(1, ...Array.from(expected.routeWeights, Math.abs));
  expectWeights(actual.routeWeights, expected.routeWeights, bench.weightGate * scale);
  expect(actual.faults).toBe(expected.faults);
}

/** Gives the device back whatever happens. */
async function closing<R extends { close(): Promise<void> }>(running: R, use: (running: R) => Promise<void>): Promise<void> {
  try {
    await use(running);
  } finally {
    await running.close();
  }
}

const argmax = (row: ArrayLike<number>): number => {
  let best = 0;
  for (let i = 1; i < row.length; i++) if ((row[i] ?? NaN) > (row[best] ?? NaN)) best = i;
  return best;
};

export function layerSuite(bench: Bench): void {
  describe(`golden layers on ${bench.name}`, () => {
    it.each(LAYER_CASES.map((c) => [c.name, c] as const))('%s', { timeout: TIMEOUT }, async (_name, c) => {
      const { spec, weights, tokens, input, y, ids, routeWeights } = await openLayerCase(c);
      const reference = await REFERENCE.layer(spec, weights);
      await closing(await bench.layer(spec, weights), async (layer) => {
        const actual = await layer.run(input);
        expect(actual.ids).toEqual(ids);
        expectWithin(actual.y, y, tokens, bench.gate);
        const largest = Math.max(1, ...Array.from(routeWeights ?? [], Math.abs));
        if (routeWeights !== undefined) expectWeights(actual.routeWeights, routeWeights, bench.weightGate * largest);
        expect(actual.faults).toBe(0);
        // Two equal calls give equal bits, whatever ran between them.
        const none = await layer.run({ x: new Float32Array(0), ...(input.tokenIds && { tokenIds: new Int32Array(0) }) });
        expect(none).toEqual({
          y: actual.y.subarray(0, 0),
          ids: new Int32Array(0),
          routeWeights: actual.routeWeights.subarray(0, 0),
          faults: 0,
        });
        // Both forms: the other one than the file's own call, too.
        const counts = [...DECODE_TOKENS, ...(tokens > 8 ? [] : [2 * tokens])];
        for (const count of bench === REFERENCE ? [] : counts) {
          const part = firstRows(input, spec.hidden, count);
          expectOutcome(await layer.run(part), await reference.run(part), count, bench);
        }
        expect(await layer.run(input)).toEqual(actual);
      });
    });
  });
}

/** @param generating models that also write some tokens of their own */
export function modelSuite(bench: Bench, generating: readonly string[]): void {
  describe(`golden models on ${bench.name}`, () => {
    it.each(MODEL_CASES)('%s', { timeout: TIMEOUT }, async (name) => {
      const { spec, weights, ids, logits } = await openModelCase(name);
      const T = ids.length;
      await closing(await bench.model(spec, weights), async (model) => {
        const whole = await model.forward(ids, [T]);
        expectWithin(whole, logits, T, bench.gate);
        // Through the cache: prefill and single tokens, two decode calls, and a prefill on top of a decode.
        for (const lengths of [
          [6, 1, 1, 1, 1],
          [3, 7],
          [1, T - 1],
        ])
          expectWithin(await model.forward(ids, lengths), logits, T, bench.gate);
        expect(await model.forward(ids, [T])).toEqual(whole);
        if (model.generate !== undefined && generating.includes(name)) {
          const sequence = [...ids];
          for (const token of await model.generate(ids, 5)) {
            const all = await model.forward(Int32Array.from(sequence), [sequence.length]);
            expect(token).toBe(argmax(all.subarray(all.length - spec.vocab)));
            sequence.push(token);
          }
          expect(sequence.length).toBe(T + 5);
        }
      });
    });
  });
}
