/** `moec verify PACKAGE` */
import type { TargetName } from '../../driver/profiles.ts';
import type { VerifyReport } from '../../runtime/core/verify.ts';
import type { EmulateOption } from '../cuda-program.ts';
import { EXIT, makeIo, type CommonOptions } from '../io.ts';
import { emulation, importPackage } from '../open-runner.ts';

interface Options extends CommonOptions, EmulateOption {
  readonly target?: TargetName;
}

/** Lines that tell what was observed and what is allowed. */
export function verifyLines(report: VerifyReport): string[] {
  const show = (x: number): string => x.toExponential(1);
  const rows = report.vectors.map((v) => {
    const ids = v.wrongIds === 0 ? 'expert ids exact' : `${v.wrongIds} expert ids differ`;
    return `${v.ok ? 'ok    ' : 'WRONG '} ${v.name} (${v.tokens} tokens): NMSE ${show(v.observed.nmse)} of ${show(v.allowed.nmse)}, worst row ${show(v.observed.rowNmse)} of ${show(v.allowed.rowNmse)}, ${ids}`;
  });
  const twin = report.twin ? ['the spec is large: its golden vectors are those of a twin with small sizes, the same rules and kernel families'] : [];
  const { quantisation: q } = report;
  const cost = q === undefined ? [] : [`quantised experts cost NMSE ${show(q.nmse)}, worst row ${show(q.rowNmse)}, against the same weights in full precision (a figure, not a gate)`];
  return [`device: ${report.device}`, ...rows, ...cost, ...twin];
}

export async function run(args: readonly string[], options: Options): Promise<number> {
  const io = makeIo(options);
  const module = await importPackage(args[0] ?? '', options);
  const report = await module.verify(emulation(options));
  if (io.json) io.emit(report);
  else io.out(verifyLines(report).join('\n'));
  return report.ok ? EXIT.ok : EXIT.verification;
}
