/** `moec tune FILE`: says plainly that this version has no tuner; default schedules are used everywhere. */
import { CommandError, EXIT } from '../io.ts';

export function run(): number {
  throw new CommandError(EXIT.usage, 'this version has no tuner yet: packages use the default schedules', {
    fix: 'measure them with `moec bench FILE`',
  });
}
