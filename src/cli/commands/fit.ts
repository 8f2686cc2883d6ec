/** `moec fit FILE` */
import { fit, fitText } from '../../driver/analysis.ts';
import { CUDA_ARCHITECTURES, LIMIT_PROFILES, type TargetName } from '../../driver/profiles.ts';
import { describeCuda } from '../cuda-facts.ts';
import { EXIT, makeIo, type CommonOptions } from '../io.ts';
import { loadSpec } from '../load-spec.ts';
import { positiveInteger } from '../numbers.ts';

interface Options extends CommonOptions {
  readonly target?: TargetName;
  readonly arch?: string;
  readonly limits?: string;
  readonly tokens?: string;
  readonly unit?: string;
}

export function run(args: readonly string[], options: Options): number {
  const io = makeIo(options);
  const { spec } = loadSpec(io, args[0] ?? '', options.unit);
  const tokens = options.tokens === undefined ? undefined : positiveInteger(options.tokens, '--tokens');
  const isCuda = options.target === 'cuda' || (options.target === undefined && options.arch !== undefined);
  const only = isCuda ? options.arch : options.limits;
  const profiles = (isCuda ? CUDA_ARCHITECTURES : LIMIT_PROFILES).filter((p) => only === undefined || p.profile === only);
  // CUDA's limits say nothing of the memory, which is what a spec has to fit: that of this machine's GPU, where there is one.
  const device = isCuda ? describeCuda().devices[0] : undefined;
  const reports = profiles.map((p) => {
    const name = device === undefined ? p.profile : `${p.profile} on ${device.name}`;
    const limits = { name, maxBindingBytes: p.maxBindingBytes, maxBufferBytes: p.maxBufferBytes, ...(device === undefined ? {} : { memoryBytes: device.memoryBytes }) };
    return tokens === undefined ? fit(spec, limits) : fit(spec, limits, tokens);
  });
  if (io.json) io.emit({ name: spec.name, profiles: reports });
  else io.out(reports.map(fitText).join('\n\n'));
  return reports.some((r) => r.verdict !== 'too-large') ? EXIT.ok : EXIT.diagnostics;
}
