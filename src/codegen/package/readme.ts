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

export function readme(manifest: Manifest, hasTwin: boolean): string {
  const name = packageName(manifest.model.name);
  const { limits } = manifest;
  const what = manifest.model.kind === 'model' ? 'A mixture-of-experts model' : 'One layer of a mixture-of-experts model';
  const twin = hasTwin ? ' This model is too large to carry vectors of its own: they are those of a twin, the same spec with smaller sizes.' : '';
  return `# ${markdownText(manifest.model.name)}

${what}, compiled to WebGPU by ${markdownText(manifest.generator)}. No dependencies; weights are not included.

## In Node

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
\`code\`, its numbers in \`details\`, and a next step in \`fix\`.

## Dimensions

${dimensions(manifest)}

## Memory

Bytes on the device; nothing else is allocated.

${memory(manifest)}

The device must offer ${limits.maxBindings} storage buffers per kernel, ${limits.maxThreadsPerBlock} threads per workgroup and ${showBytes(limits.maxSharedBytes)} of workgroup memory; \`load\`
compares before it allocates.

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
