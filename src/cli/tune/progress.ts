/** One line per kernel: rewritten on a terminal, told now and then elsewhere. */
import type { Progress } from '../../tuner/tune-unit.ts';
import { visible } from '../../diagnostics/display.ts';
import { progressLine } from './text.ts';

const REDRAW_MS = 250;
const RETELL_MS = 20_000;

export interface ProgressLine {
  show(progress: Progress): void;
  /** A line that stays; the one in progress begins anew below. */
  say(text: string): void;
  end(): void;
}

interface Stream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

export function progressOn(stream: Stream, now: () => number = () => performance.now()): ProgressLine {
  const isTerminal = stream.isTTY === true && process.env['TERM'] !== 'dumb';
  let unit = '';
  let began = 0;
  let told = -Infinity;
  let best = Infinity;
  let drawn = false;
  const clear = (): void => {
    if (drawn) stream.write('\r\x1b[K');
    drawn = false;
  };
  return {
    show(p) {
      const name = `${p.unit.name} ${p.unit.tokens}`;
      if (name !== unit) {
        unit = name;
        began = now();
        told = -Infinity;
        best = Infinity;
      }
      const isNews = p.bestMs < 0.99 * best;
      if (now() - told < (isTerminal ? REDRAW_MS : isNews ? 1000 : RETELL_MS)) return;
      told = now();
      best = Math.min(best, p.bestMs);
      const line = visible(progressLine(p, now() - began), true);
      if (!isTerminal) return void stream.write(`${line}\n`);
      clear();
      stream.write(line.slice(0, Math.max(20, (stream.columns ?? 80) - 1)));
      drawn = true;
    },
    say(text) {
      clear();
      stream.write(`${text}\n`);
    },
    end: clear,
  };
}
