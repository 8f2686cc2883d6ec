/** `moec verify PACKAGE` */
import type { VerifyReport } from '../../runtime/core/verify.ts';
import { CommandError, EXIT, makeIo, type CommonOptions } from '../io.ts';
import { importPackage } from '../open-runner.ts';

interface Options extends CommonOptions {
  readonly target?: 'webgpu' | 'cuda';
}

/** Lines that tell what was observed and what is allowed. */
export function verifyLines(report: VerifyReport): string[] {
  const show = (x: number): string => x.toExponential(1);
  const rows = report.vectors.map((v) => {
    const ids = v.wrongIds === 0 ? 'expert ids exact' : `${v.wrongIds} expert ids differ`;
    return `${v.ok ? 'ok    ' : 'WRONG '} ${v.name} (${v.tokens} tokens): NMSE ${show(v.observed.nmse)} of ${show(v.allowed.nmse)}, worst row ${show(v.observed.rowNmse)} of ${show(v.allowed.rowNmse)}, ${ids}`;
  });
  const twin = report.twin ? ['the spec is large: its golden vectors are those of a twin with small sizes, the same rules and kernel families'] : [];
  return [`device: ${report.device}`, ...rows, ...twin];
}

export async function run(args: readonly string[], options: Options): Promise<number> {
  const io = makeIo(options);
  if (options.target === 'cuda') throw new CommandError(EXIT.noDevice, 'this version verifies on webgpu only', { fix: '--target webgpu' });
  const module = await importPackage(args[0] ?? '');
  const report = await module.verify();
  if (io.json) io.emit(report);
  else io.out(verifyLines(report).join('\n'));
  return report.ok ? EXIT.ok : EXIT.verification;
}
