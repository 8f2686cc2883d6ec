/** How far a long command is, on stderr: one line that changes on a terminal, a line now and then elsewhere. */
import { performance } from 'node:perf_hooks';

const LINES_MS = 10_000;
const TERMINAL_MS = 200;

export interface Progress {
  /** Done so much of the whole, and what is under way. */
  at(done: number, whole: number, what: string): void;
  /** Clears the line that changes. */
  end(): void;
}

const seconds = (ms: number): string => (ms < 90_000 ? `${Math.max(1, Math.round(ms / 1000))} s` : `${Math.round(ms / 60_000)} min`);

export function startProgress(stream: NodeJS.WriteStream = process.stderr): Progress {
  const terminal = stream.isTTY === true && process.env['TERM'] !== 'dumb';
  const begun = performance.now();
  let told = begun;
  let shown = false;
  return {
    at(done, whole, what) {
      const now = performance.now();
      if (now - told < (terminal ? TERMINAL_MS : LINES_MS)) return;
      told = now;
      const left = done === 0 ? '' : `, about ${seconds(((now - begun) / done) * (whole - done))} left`;
      const line = `${Math.floor((100 * done) / Math.max(1, whole))} %: ${what}${left}`;
      stream.write(terminal ? `\r\u001b[2K${line}` : `${line}\n`);
      shown = terminal;
    },
    end() {
      if (shown) stream.write('\r\u001b[2K');
      shown = false;
    },
  };
}
