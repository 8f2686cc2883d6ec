/** While a device works, the event loop leaves the processor to it and still serves everyone else. */
import { describe, expect, it } from 'vitest';
import { resting } from '../../src/runtime/webgpu/rest.ts';

const later = <T>(ms: number, value: T): Promise<T> => new Promise((resolve) => setTimeout(() => resolve(value), ms));

/** Turns the event loop as a binding does that asks its device for news, until told to stop; gives the turns. */
function polling(): () => number {
  let turns = 0;
  let going = true;
  const turn = (): void => {
    turns++;
    if (going) setImmediate(turn);
  };
  setImmediate(turn);
  return () => {
    going = false;
    return turns;
  };
}

describe('resting', () => {
  it('gives what the promise gives', async () => {
    expect(await resting(Promise.resolve(7))).toBe(7);
    expect(await resting(later(5, 'late'))).toBe('late');
    await expect(resting(later(5, 0).then(() => Promise.reject(new Error('lost'))))).rejects.toThrow('lost');
  });

  it('slows the turns of the event loop down while it waits, and only then', async () => {
    const stop = polling();
    await resting(later(200, 0));
    const rested = stop();
    const free = polling();
    await later(200, 0);
    expect(free()).toBeGreaterThan(4 * rested);
  });

  it('lets timers pass', async () => {
    let ticks = 0;
    const timer = setInterval(() => ticks++, 5);
    await resting(later(200, 0));
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(15);
  });

  it('rests until the last of several is there', async () => {
    const stop = polling();
    await Promise.all([resting(later(10, 0)), resting(later(200, 0))]);
    const rested = stop();
    const free = polling();
    await later(200, 0);
    expect(free()).toBeGreaterThan(4 * rested);
  });
});
