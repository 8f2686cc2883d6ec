#!/usr/bin/env node
/**
 * The command line. This file only declares commands; each loads its code when it runs, so that
 * `moec --help` stays instant.
 */
import { Command, CommanderError, Option } from 'commander';
import { type CommonOptions, EXIT, makeIo, watchStdout } from './io.ts';
import { runCommand } from './run-command.ts';

const VERSION = '0.1.0';
const program = new Command('moec');

program
  .description('The compiler for mixture-of-experts models: a spec of a few lines becomes a package that runs and verifies itself.')
  .version(VERSION, '-V, --version')
  .showHelpAfterError('(moec --help lists the commands, moec COMMAND --help one of them)')
  .exitOverride()
  .configureOutput({ writeErr: (text) => void process.stderr.write(text) });

interface Declaration<O> {
  readonly usage: string;
  readonly about: string;
  readonly example: string;
  readonly options?: readonly Option[];
  /** `passes`: takes `--no-PASS`, which commander cannot know; `any`: every option is let through. */
  readonly unknownOptions?: 'passes' | 'any';
  load(): Promise<{ run(args: readonly string[], options: O & CommonOptions): Promise<number> | number }>;
}

const option = (flags: string, about: string): Option => new Option(flags, about);
const targetOption = (): Option => option('--target <target>', 'which target').choices(['webgpu', 'cuda']);
const archOption = (): Option => option('--arch <arch>', 'cuda: sm_80 (default: Ampere and later) or sm_90a (Hopper alone)').choices(['sm_80', 'sm_90a']);
const limitsOption = (): Option => option('--limits <profile>', 'webgpu: device limits to compile for').choices(['baseline', 'desktop', 'max']).default('baseline');
const emulateOption = (about: string): Option => option('--emulate', `cuda: ${about}`);
const unitOption = option('--unit <name>', 'the unit of a file that holds several');

const optionNames = (command: Command): readonly string[] => command.options.flatMap((o) => (o.long === undefined ? [] : [o.long]));

function declare<O>(d: Declaration<O>): void {
  const command = program.command(d.usage).description(d.about);
  for (const o of d.options ?? []) command.addOption(o);
  command
    .addOption(option('--json', 'the product as one JSON document on stdout'))
    .addOption(option('--verbose', 'stack traces of internal errors'))
    .addHelpText('after', `\nExample:\n  ${d.example.split('\n').join('\n  ')}`)
    .exitOverride();
  if (d.unknownOptions !== undefined) command.allowUnknownOption().allowExcessArguments();
  command.action(async (...all: unknown[]) => {
    const options = command.opts<O & CommonOptions>();
    const given = (d.unknownOptions === undefined ? all.slice(0, -2).flat() : command.args).filter((a): a is string => typeof a === 'string');
    process.exitCode = await runCommand(options, async () => {
      const args = d.unknownOptions === 'passes' ? (await import('./passes-option.ts')).withoutPasses(given, optionNames(command)) : given;
      return (await d.load()).run(args, options);
    });
  });
}

declare({
  usage: 'init',
  about: 'write a commented .moe from a Hugging Face model directory or a template',
  example: 'moec init --from ./Qwen3-30B-A3B -o qwen3.moe\nmoec init --template deepseekmoe',
  options: [
    option('--from <path>', 'a model directory or its config.json'),
    option('--template <name>', 'start from a template; an unknown name lists them'),
    option('-o, --output <file>', 'where to write (default: stdout)'),
    option('--force', 'replace an existing output file'),
  ],
  load: () => import('./commands/init.ts'),
});
declare({
  usage: 'check <files...>',
  about: 'say what is wrong with specs, with places, reasons and fixes',
  example: 'moec check model.moe --format github',
  options: [option('--format <form>', 'text, json or github').choices(['text', 'json', 'github'])],
  load: () => import('./commands/check.ts'),
});
declare({
  usage: 'fmt <files...>',
  about: 'format specs in place; - reads stdin and writes stdout',
  example: 'moec fmt examples/*.moe\nmoec fmt --check model.moe',
  options: [option('--check', 'change nothing; exit 1 where a file is not formatted')],
  load: () => import('./commands/fmt.ts'),
});
declare({
  usage: 'compile <file>',
  about: 'compile a spec to a package; --no-PASS switches a pass off',
  example: 'moec compile model.moe --target webgpu --out pkg\nmoec compile model.moe --target cuda --arch sm_90a --out pkg',
  unknownOptions: 'passes',
  options: [
    option('--target <target>', 'what to compile for').choices(['webgpu', 'cuda', 'all']).default('webgpu'),
    option('--out <dir>', 'the package directory (new, empty, or a package of ours)'),
    option('--weights <path>', 'hold a checkpoint against the spec before anything is written'),
    limitsOption(),
    archOption(),
    option('--skip-build', 'cuda: write the sources, build no library'),
    emulateOption('build for the emulator with g++, not for a device with nvcc'),
    option('--tuned [dir]', 'webgpu: with kernels that moec tune found for some devices (default: .moec/tune)'),
    unitOption,
  ],
  load: () => import('./commands/compile.ts'),
});
declare({
  usage: 'run <path>',
  about: 'run a spec or a generated package on tensors from a file',
  example: 'moec run layer.moe --weights w.safetensors --input x.safetensors --output y.safetensors',
  unknownOptions: 'passes',
  options: [
    option('--weights <path>', 'a .safetensors file or a directory of them'),
    option('--input <file>', 'input_ids of a model; x (and token_ids) of a layer'),
    option('--output <file>', 'where logits or y go'),
    option('--target <target>', 'where to run').choices(['webgpu', 'cuda', 'reference']),
    option('--trace', 'also write topk_indices, topk_weights and expert_counts of a layer'),
    limitsOption(),
    archOption(),
    emulateOption('let the CPU play the device'),
    unitOption,
  ],
  load: () => import('./commands/run.ts'),
});
declare({
  usage: 'verify <package>',
  about: "run a package's golden vectors on this device",
  example: 'moec verify pkg',
  options: [targetOption(), emulateOption('let the CPU play the device')],
  load: () => import('./commands/verify.ts'),
});
declare({
  usage: 'analyze <file>',
  about: 'parameters, FLOPs, bytes and memory of a spec',
  example: 'moec analyze examples/deepseek-moe-16b.moe --tokens 4096 --json',
  options: [option('--tokens <n>', 'tokens to count FLOPs for (default: the context of the spec)'), unitOption],
  load: () => import('./commands/analyze.ts'),
});
declare({
  usage: 'fit <file>',
  about: 'does it fit a device, and what would',
  example: 'moec fit examples/mixtral-8x7b.moe --limits desktop\nmoec fit examples/mixtral-8x7b.moe --target cuda',
  options: [
    targetOption(),
    option('--limits <profile>', 'webgpu: only this profile').choices(['baseline', 'desktop', 'max']),
    option('--arch <arch>', 'cuda: only this architecture').choices(['sm_80', 'sm_90a']),
    option('--tokens <n>', 'tokens of one call'),
    unitOption,
  ],
  load: () => import('./commands/fit.ts'),
});
declare({
  usage: 'explain <subject>',
  about: 'what fused in a spec, what did not and why; or the page of a diagnostic code',
  example: 'moec explain model.moe\nmoec explain MOE3001',
  unknownOptions: 'passes',
  options: [option('--tokens <list>', 'token counts of the report (default: 1,8,512)'), targetOption(), archOption(), unitOption],
  load: () => import('./commands/explain.ts'),
});
declare({
  usage: 'dump <file>',
  about: 'print a stage of the compiler',
  example: 'moec dump model.moe --stage graph --after fuse-gather',
  unknownOptions: 'passes',
  options: [
    option('--stage <stage>', 'which stage').choices(['ast', 'model', 'graph', 'kernels', 'wgsl', 'cuda', 'manifest']).makeOptionMandatory(),
    option('--after <pass>', 'graph: after this pass instead of after the last'),
    option('--bucket <bucket>', 'decode (few tokens) or prefill').choices(['decode', 'prefill']).default('prefill'),
    targetOption(),
    archOption(),
    unitOption,
  ],
  load: () => import('./commands/dump.ts'),
});
declare({
  usage: 'tune <file>',
  about: 'find the fastest schedules for this device; moec compile --tuned ships them',
  example: 'moec tune model.moe --tokens 1,8,64,512 --budget 10m\nmoec tune model.moe --dry-run',
  unknownOptions: 'passes',
  options: [
    option('--tokens <list>', 'tokens of the calls to tune for; each serves the calls above the one before it').default('1,8,64,512'),
    option('--effort <effort>', 'how many schedules are tried').choices(['quick', 'full']).default('quick'),
    option('--budget <time>', 'stop searching after 90s, 10m, 1h'),
    option('--resume', 'go on: neither what the store has nor what the log has is measured again'),
    option('--dry-run', 'measure nothing; say what would be'),
    option('--routing <mix>', 'how tokens spread over experts (default: uniform:1,zipf1.2:1,onehot:0.2)'),
    option('--seed <n>', 'of the search and of the numbers that kernels are fed with').default('1'),
    option('--device <name>', 'the adapter whose name has this in it'),
    option('--store <dir>', 'where results are kept').default('.moec/tune'),
    limitsOption(),
    unitOption,
  ],
  load: () => import('./commands/tune.ts'),
});
declare({
  usage: 'bench <file>',
  about: 'time a spec on this device beside itself without passes and the dense spec of equal size',
  example: 'moec bench examples/layers/deepseekmoe.moe --tokens 1,8,64\nmoec bench layer.moe --against dense,passes --routing uniform,zipf1.2 --stages --markdown bench.md --plots pictures',
  options: [
    option('--tokens <list>', 'token counts').default('1,8,64'),
    option('--against <list>', 'what to run beside it: unfused, dense, int4, int8, full (experts not quantised), no-PASS, passes (each pass off)').default('unfused'),
    option('--routing <list>', 'layers: steer the router: random, uniform, zipfS (such as zipf1.2), onehot'),
    option('--rounds <n>', 'interleaved rounds').default('9'),
    option('--stages', 'also compile, load and first-call times'),
    option('--markdown <file>', 'write the report as Markdown'),
    option('--plots <dir>', 'draw pictures as SVG (needs the packages vega and vega-lite)'),
    option('--tuning [dir]', 'with --plots: also what moec tune searched (default: .moec/tune)'),
    targetOption(),
    limitsOption(),
    archOption(),
    emulateOption('let the CPU play the device'),
    unitOption,
  ],
  load: () => import('./commands/bench.ts'),
});
declare({
  usage: 'doctor',
  about: 'adapters, limits, drivers, CUDA, Node and known faults of this machine',
  example: 'moec doctor',
  options: [
    option('--install-driver', 'fetch a software Vulkan driver where no adapter is found'),
    option('--optional', 'exit 0 even where no adapter can be had'),
    option('--measure', 'measure what the WebGPU device reaches (seconds); kept for `moec bench`'),
  ],
  load: () => import('./commands/doctor.ts'),
});
declare({
  usage: 'demo',
  about: 'compile, run and verify a tiny DeepSeekMoE, and show what happened',
  example: 'moec demo',
  options: [option('--out <dir>', 'keep the generated package here')],
  load: () => import('./commands/demo.ts'),
});

watchStdout();
try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof CommanderError)) throw error;
  process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  if (error.exitCode !== 0 && process.argv.includes('--json')) {
    makeIo({ json: true }).emit({ error: { exitCode: EXIT.usage, message: error.message.replace(/^error: /, '') } });
  }
}
