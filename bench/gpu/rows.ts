/** Options and result lines of the scripts that run under plain node. */
import { appendFileSync } from 'node:fs';

/** `--name value` pairs and the words between. */
export function readOptions(args: readonly string[]): { readonly words: readonly string[]; readonly options: ReadonlyMap<string, string> } {
  const words: string[] = [];
  const options = new Map<string, string>();
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? '';
    if (arg.startsWith('--')) options.set(arg.slice(2), args[++i] ?? '');
    else words.push(arg);
  }
  return { words, options };
}

/** Appends lines to a file, or shows them where there is none. */
export function rowWriter(file: string | undefined, command: string): (row: Readonly<Record<string, unknown>>) => void {
  return (row) => {
    const line = `${JSON.stringify({ ...row, command })}\n`;
    if (file === undefined) process.stdout.write(line);
    else appendFileSync(file, line);
  };
}

export const quantile = (values: ArrayLike<number>, q: number): number => {
  const sorted = Array.from(values).sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? NaN;
};

export const firstLine = (error: unknown): string => (error instanceof Error ? `${error.name}: ${error.message}` : String(error)).split('\n')[0]?.slice(0, 400) ?? '';
