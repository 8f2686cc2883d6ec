/** README.md of a package: what it is, how to run it, what it takes, how to check it. */
import type { Manifest } from '../../runtime/core/abi.ts';
import { showBytes } from '../../runtime/core/errors.ts';
import { estimateMemory } from '../../runtime/core/needs.ts';
import { markdownText, packageName } from './escape.ts';

const grouped = (n: number): string => String(n).replace(/\B(?=(\d{3})+(?!\d))/g, ' ');

function nodeExample({ model }: Manifest, name: string): string {
  if (model.kind === 'layer') {
    const ids = model.needsTokenIds ? ', { tokenIds: [0, 1, 2] }' : '';
    return `import { info, load } from '${name}';

// The first argument is a .safetensors file, or a directory with one.
const layer = await load({ weights: process.argv[2] ?? '.' });
const x = Float32Array.from({ length: 3 * info.hidden }, (_, i) => Math.sin(i));
const y = await layer.forward(x${ids});
console.log(y.length / info.hidden, 'tokens,', 'first value', y[0]);
await layer.dispose();`;
  }
  const last = (model.vocab ?? 1) - 1;
  const ids = [0, 1, 2].map((i) => Math.min(i, last)).join(', ');
  return `import { info, load } from '${name}';

// The first argument is a .safetensors file, or a directory with one or with an index and its shards.
const model = await load({ weights: process.argv[2] ?? '.' });
const logits = await model.forward([${ids}]);
console.log(logits.length / info.vocab, 'rows of', info.vocab, 'logits');
for await (const token of model.generate([${ids}], { maxTokens: 4 })) console.log('token', token);
await model.dispose();`;
}

function browserExample({ model }: Manifest): string {
  const call = model.kind === 'model' ? 'const logits = await model.forward([0, 1, 2]);' : `const y = await model.forward(new Float32Array(${model.hidden})${model.needsTokenIds ? ', { tokenIds: [0] }' : ''});`;
  return `<script type="module">
  import { load } from './index.js'; // or by name, with a bundler or an import map
  const model = await load({ weights: new URL('weights/', location.href) });
  ${call}
</script>`;
}

function dimensions({ model, passes, limits }: Manifest): string {
  const rows: readonly (readonly [string, string])[] = [
    ['parameters', `${grouped(model.params.total)} (${grouped(model.params.active)} run for a token)`],
    ['width', String(model.hidden)],
    ...(model.kind === 'model' ? ([['layers', String(model.layers)], ['vocabulary', grouped(model.vocab ?? 0)], ['context', grouped(model.context ?? 0)]] as const) : []),
    ...(model.experts > 0 ? ([['experts', `${model.experts}, ${model.slots} per token`]] as const) : []),
    ['fusions', passes.map((p) => `\`${p}\``).join(', ') || 'none'],
    ['limits profile', `\`${limits.profile}\``],
  ];
  return ['| | |', '|---|---|', ...rows.map(([k, v]) => `| ${k} | ${v} |`)].join('\n');
}

function memory(manifest: Manifest): string {
  const isModel = manifest.model.kind === 'model';
  const contexts = isModel ? [...new Set([Math.min(512, manifest.model.context ?? 512), manifest.model.context ?? 512])] : [1, 512];
  const rows = contexts.map((tokens) => {
    const calls = isModel ? Math.min(tokens, 512) : tokens;
    const m = estimateMemory(manifest, calls, isModel ? tokens : 0);
    return `| ${isModel ? `${grouped(tokens)} tokens of context, calls of ${calls}` : `calls of ${tokens} tokens`} | ${showBytes(m.weights)} | ${showBytes(m.caches)} | ${showBytes(m.call)} | ${showBytes(m.total)} |`;
  });
  return ['| | weights | caches | calls | together |', '|---|---|---|---|---|', ...rows].join('\n');
}

interface Chapters {
  readonly title: string;
  /** What else is needed. */
  readonly lead: string;
  readonly use: string;
  /** What the device must offer. */
  readonly needs: string;
}

function webgpuChapters(manifest: Manifest, name: string): Chapters {
  const { limits } = manifest;
  return {
    title: 'WebGPU',
    lead: 'No dependencies; weights are not included.',
    use: `## In Node

\`\`\`sh
npm install webgpu   # WebGPU for Node
\`\`\`

\`\`\`js
${nodeExample(manifest, name)}
\`\`\`

## In a browser

\`\`\`html
${browserExample(manifest)}
\`\`\`

\`weights\` is a path (Node), a URL, the bytes of a \`.safetensors\` file, a \`File\`, or tensors by name. Every error has a
\`code\`, its numbers in \`details\`, and a next step in \`fix\`.`,
    needs: `The device must offer ${limits.maxBindings} storage buffers per kernel, ${limits.maxThreadsPerBlock} threads per workgroup and ${showBytes(limits.maxSharedBytes)} of workgroup memory; \`load\`
compares before it allocates.`,
  };
}

/** What devices with kernels of their own gained by them; nothing where there are none. */
function tunedChapter({ tuned = [] }: Manifest): string {
  if (tuned.length === 0) return '';
  const adapters = [...new Set(tuned.map((t) => t.adapter))];
  const calls = (t: NonNullable<Manifest['tuned']>[number]): string => (t.above + 1 === t.tokens ? String(t.tokens) : `${t.above + 1} to ${t.tokens}`);
  const tables = adapters.map((adapter) => {
    const rows = tuned.filter((t) => t.adapter === adapter).map((t) => {
      const gain = t.defaultMs / t.tunedMs;
      return `| ${markdownText(t.kernel)} | ${calls(t)} | ${t.defaultMs.toPrecision(3)} | ${t.tunedMs.toPrecision(3)} | ${gain.toFixed(2)}x | ${(100 * t.noise).toFixed(1)} % |`;
    });
    return `On ${markdownText(adapter)}:\n\n| kernels | tokens of a call | default ms | tuned ms | gain | noise |\n|---|---|---|---|---|---|\n${rows.join('\n')}\n`;
  });
  return `
## Tuned kernels

These devices run kernels that \`moec tune\` found there; all others run the defaults. Both were measured in turns, on procedural weights.

${tables.join('\n')}`;
}

const DEVICES = {
  sm_80: 'Ampere and every later NVIDIA GPU (compute capability 8.0 and up)',
  sm_90a: 'Hopper alone (H100, H200: compute capability 9.0)',
} as const;

function cudaChapters(manifest: Manifest, name: string): Chapters {
  const { limits } = manifest;
  const arch = manifest.cuda?.arch ?? 'sm_80';
  return {
    title: `CUDA (\`${arch}\`)`,
    lead: 'No dependencies but koffi, which calls the library; weights are not included.',
    use: `## In Node

The kernels lie in \`cuda/\` as text. \`cuda/build.js\` makes one shared library of them in \`cuda/lib/\`, with nvcc (CUDA 12 or newer) from the
PATH or from \`--nvcc PATH\`. Where \`cuda/lib/\` holds the library already, nvcc is not needed; the library needs NVIDIA's driver alone.

\`\`\`sh
npm install koffi
node node_modules/${name}/cuda/build.js
\`\`\`

\`\`\`js
${nodeExample(manifest, name)}
\`\`\`

\`weights\` is a path, a URL, the bytes of a \`.safetensors\` file, or tensors by name. Every error has a \`code\`, its numbers in
\`details\`, and a next step in \`fix\`.

## Without a GPU

\`node node_modules/${name}/cuda/build.js --emulate\` builds the same text with g++, and \`load({ weights, emulate: true })\` runs it on the CPU:
right, and slow. It is for tests; nothing chooses it by itself.`,
    needs: `It runs on ${DEVICES[arch]} with ${showBytes(limits.maxSharedBytes)} of shared memory a block; \`load\` compares before it allocates.`,
  };
}

export function readme(manifest: Manifest, hasTwin: boolean): string {
  const name = packageName(manifest.model.name);
  const what = manifest.model.kind === 'model' ? 'A mixture-of-experts model' : 'One layer of a mixture-of-experts model';
  const twin = hasTwin ? ' This model is too large to carry vectors of its own: they are those of a twin, the same spec with smaller sizes.' : '';
  const { title, lead, use, needs } = manifest.target === 'webgpu' ? webgpuChapters(manifest, name) : cudaChapters(manifest, name);
  return `# ${markdownText(manifest.model.name)}

${what}, compiled to ${title} by ${markdownText(manifest.generator)}. ${lead}

${use}

## Dimensions

${dimensions(manifest)}

## Memory

Bytes on the device; nothing else is allocated.

${memory(manifest)}

${needs}
${tunedChapter(manifest)}
## Checking

\`\`\`js
import { verify } from '${name}';
const report = await verify();   // golden vectors on this device, no weights needed
console.log(report.ok, report.vectors);
\`\`\`
${twin}
\`manifest.json\` holds the SHA-256 of every file. The same spec and the same compiler give the same bytes.

The licence of this package and of the weights that you load is for you to state: \`package.json\` says UNLICENSED.
`;
}
