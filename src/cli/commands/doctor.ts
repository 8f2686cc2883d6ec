/** `moec doctor` */
import { spawnSync } from 'node:child_process';
import { shortBytes } from '../../driver/analysis.ts';
import { short } from '../table.ts';
import { type CudaFacts, describeCuda } from '../cuda-facts.ts';
import { type DeviceFacts, readFacts, writeFacts } from '../device-facts.ts';
import { EXIT, type Io, makeIo, type CommonOptions } from '../io.ts';
import { measureDevice } from '../measure-device.ts';
import { describeAdapter, setupDriver } from '../setup-driver.ts';

interface Options extends CommonOptions {
  readonly installDriver?: boolean;
  readonly optional?: boolean;
  readonly measure?: boolean;
}

interface Finding {
  readonly what: string;
  readonly value: string;
  readonly ok: boolean;
  readonly fix?: string;
}

function nodeFinding(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const ok = major > 20 || (major === 20 && minor >= 19);
  return { what: 'Node', value: process.versions.node, ok, ...(ok ? {} : { fix: 'moec needs Node 20.19 or newer' }) };
}

function toolFinding(what: string, command: string, args: readonly string[], pattern: RegExp, fix: string): Finding {
  const run = spawnSync(command, args, { encoding: 'utf8', timeout: 10_000 });
  const found = run.status === 0 ? (pattern.exec(run.stdout)?.[1] ?? 'found') : undefined;
  return found === undefined ? { what, value: 'not found', ok: true, fix } : { what, value: found, ok: true };
}

/** None of it is needed for WebGPU: what is missing is told, and is no failure. */
function cudaFindings({ koffi, driver, devices }: CudaFacts): Finding[] {
  if (koffi !== undefined) return [{ what: 'koffi', value: 'not found', ok: true, fix: 'npm install koffi: it calls libraries of the cuda target' }];
  const found: Finding = { what: 'koffi', value: 'found', ok: true };
  if (driver?.ok !== true) return [found, { what: 'NVIDIA driver', value: driver?.text ?? 'not found', ok: true, fix: 'the cuda target runs without one with --emulate only' }];
  const gpus = devices.map((d, i) => ({ what: `NVIDIA GPU ${i}`, value: `${d.name}, compute capability ${d.capability}, ${shortBytes(d.memoryBytes)}`, ok: true }));
  return [found, { what: 'NVIDIA driver', value: driver.text, ok: true }, ...(gpus.length > 0 ? gpus : [{ what: 'NVIDIA GPU', value: 'none', ok: true }])];
}

/** What the device reaches, kept in the user's cache for `moec bench`. */
async function measureFindings(say: Io['say']): Promise<{ readonly findings: readonly Finding[]; readonly facts: DeviceFacts | undefined }> {
  const { info, peaks } = await measureDevice(say);
  const path = writeFacts(info, peaks);
  const rows: readonly (readonly [what: string, value: string])[] = [
    ['copies', `${short(peaks.copyGBs)} GB/s, read and written`],
    ['multiply-adds', `${short(peaks.fmaGflops)} GFLOP/s, f32`],
    ['loads', `${short(peaks.loadG)} billion f32 a second, ${short(peaks.load4G)} billion of four, near memory`],
    ['shared memory', `${short(peaks.sharedGBs)} GB/s`],
    ['a dispatch more', `${short(peaks.dispatchUs)} us`],
    ['a submission', `${short(peaks.submitUs)} us to its result`],
  ];
  const findings = [{ what: 'Measured', value: path, ok: true }, ...rows.map(([what, value]) => ({ what: `  ${what}`, value, ok: true }))];
  return { findings, facts: readFacts(info) };
}

export async function run(_args: readonly string[], options: Options): Promise<number> {
  const io = makeIo(options);
  const adapter = options.installDriver === true ? setupDriver(io.say) : describeAdapter();
  const cuda = describeCuda();
  const measured = options.measure === true && adapter !== undefined ? await measureFindings(io.say) : undefined;
  const findings: Finding[] = [
    nodeFinding(),
    adapter === undefined
      ? { what: 'WebGPU adapter', value: 'none', ok: false, fix: 'moec doctor --install-driver fetches a software driver; `--target reference` runs without one' }
      : { what: 'WebGPU adapter', value: adapter.description, ok: true },
    ...(adapter === undefined
      ? []
      : [
          { what: '  features', value: adapter.features.join(' ') || 'none', ok: true },
          ...Object.entries(adapter.limits).map(([what, value]) => ({ what: `  ${what}`, value: String(value), ok: true })),
        ]),
    ...(measured?.findings ?? []),
    ...cudaFindings(cuda),
    toolFinding('CUDA compiler', 'nvcc', ['--version'], /release ([\d.]+)/, 'builds libraries of the cuda target'),
    toolFinding('C++ compiler', 'g++', ['--version'], /^(.+)$/m, 'builds libraries for --emulate'),
  ];
  if (io.json) io.emit({ findings, adapter: adapter ?? null, cuda, ...(measured?.facts === undefined ? {} : { measured: measured.facts }) });
  else {
    const width = Math.max(...findings.map((f) => f.what.length));
    for (const f of findings) io.out(`${f.ok ? 'ok ' : 'NO '} ${f.what.padEnd(width)}  ${f.value}${f.fix === undefined ? '' : `  (${f.fix})`}`);
  }
  return adapter === undefined && options.optional !== true ? EXIT.noDevice : EXIT.ok;
}
