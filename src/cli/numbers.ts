/** Numbers on the command line. */
import { CommandError, EXIT } from './io.ts';

/** A positive whole number of an option. */
export function positiveInteger(text: string, option: string): number {
  const n = Number(text);
  if (!/^\d+$/.test(text) || n < 1 || !Number.isSafeInteger(n)) {
    throw new CommandError(EXIT.usage, `${option} takes a positive whole number, not ${JSON.stringify(text)}`);
  }
  return n;
}

/** `1,8,512` */
export const integerList = (text: string, option: string): readonly number[] => text.split(',').map((t) => positiveInteger(t.trim(), option));
