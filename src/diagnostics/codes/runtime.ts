/** Codes 5xxx, weights, tuning and run time. The runtime throws most of them as typed errors; its own table is `runtime/core/errors.ts`. */
import type { CodePage, CodeTable } from './page.ts';

/** A page of text and, where there is one, an example in the named language. */
const page = (title: string, text: string, example?: { readonly language: 'ts' | 'sh' | 'text'; readonly code: string }): CodePage => ({
  title,
  explain: example === undefined ? `${text.trim()}\n` : `${text.trim()}\n\n\`\`\`${example.language}\n${example.code.trim()}\n\`\`\`\n`,
});

export const runtime: CodeTable = {
  MOE5001: page(
    'no WebGPU in this JavaScript engine (NoWebGPUError)',
    `Browsers offer WebGPU as \`navigator.gpu\`, and only to pages that come over https or from localhost. Node has none of its own:
the npm package \`webgpu\` brings Dawn, the implementation of Chromium. A device made elsewhere can be lent, and is not destroyed
by \`dispose()\`.

Nothing falls back to other arithmetic in silence. On the command line, \`moec run --target reference\` needs no device.`,
    { language: 'ts', code: `const model = await load({ weights, device }); // a GPUDevice of your own` },
  ),
  MOE5002: page(
    'WebGPU without an adapter (NoAdapterError)',
    `WebGPU is there, but it found nothing to run on: no driver, a driver on the browser's block list, or a container that sees no
GPU. On Linux without a GPU a software driver does (Mesa's lavapipe, in the package mesa-vulkan-drivers); it is right, but slow.`,
    { language: 'sh', code: `moec doctor                   # what is there\nmoec doctor --install-driver  # fetches a software driver` },
  ),
  MOE5003: page(
    'a device feature is missing (FeatureMissingError)',
    `Each kernel lists the features that its variants need, and the first variant that the device can run is taken. Packages carry
a variant without any feature, so this comes up only where a package was changed, or where a lent device was created without a
feature that its adapter has. \`details.missing\` names them.`,
    { language: 'ts', code: `const device = await adapter.requestDevice({ requiredFeatures: ['subgroups'] });` },
  ),
  MOE5004: page(
    'a limit of the device is too small (LimitTooSmallError)',
    `Devices limit the bytes of a buffer and of a binding, the number of bindings, threads and shared memory of a workgroup. The
needs of a package are known before anything is allocated, so this is told at once, with the limit's name, what is needed and what
there is (\`details\`). Memory that grows with the tokens of a call is judged per call: \`details.fit\` is how many tokens fit.

\`moec fit FILE\` tells for the usual profiles what fits; \`moec compile --limits\` chooses the profile.`,
    { language: 'sh', code: `moec fit model.moe --limits baseline\nmoec compile model.moe --limits baseline --out pkg` },
  ),
  MOE5005: page(
    'out of memory (OutOfMemoryError)',
    `The device could not allocate, or the plan is over the \`memoryLimit\` that the caller gave. The message tells what was needed
and what is in use. Weights take the same room whatever the call; scratch memory grows with the tokens of a call, and the cache
of keys and values with the length of a sequence. Half storage (\`dtype bf16\`) halves the weights.`,
    { language: 'ts', code: `const model = await load({ weights, memoryLimit: 8 * 2 ** 30 });` },
  ),
  MOE5006: page(
    'the device was lost (DeviceLostError)',
    `Drivers end a device that hangs, that was unplugged, or whose machine slept; browsers end one when the page uses too much. Every
pending and later call rejects with this error, and nothing of the model can be used again: \`load()\` it anew. Where it happens
again, a single dispatch probably runs longer than the driver's watchdog allows: call with fewer tokens.`,
  ),
  MOE5007: page(
    'a kernel does not compile (ShaderCompileError)',
    `The device's own compiler refused the text of a kernel. \`details\` holds the kernel's name, its file in the package and the
compiler's messages with their lines. Kernels are tested on Dawn, so this points at an older browser, at a driver, or at a fault of
moec that deserves a report.`,
    { language: 'sh', code: `moec dump model.moe --stage wgsl   # the text of every kernel` },
  ),
  MOE5008: page(
    'the weights are not those of this spec (WeightsError)',
    `All problems are told in one message: tensors that are missing (with the unused names that look like them), of another
shape (a transposed matrix is named as such), or of a dtype that cannot be stored. Names are those of the released checkpoints, or
for a layer alone \`gate.weight\`, \`experts.gate_proj\` [E, m, d], \`shared.gate_proj\` and so on.

Most often the spec counts something else than the checkpoint: experts, layers, or the width of an expert.`,
    { language: 'sh', code: `moec init --from ./Qwen3-30B-A3B -o qwen3.moe   # a spec from the checkpoint's own config.json` },
  ),
  MOE5009: page(
    'not a sound safetensors file (SafetensorsError)',
    `Weight files come from strangers, so they are read strictly: the header must be JSON of known fields in which no name occurs
twice, every tensor must lie inside the file and take exactly the bytes of its shape, and no two may share bytes. A sharded index
may name only files beside it. \`details\` tells the file, the tensor, the position in bytes and the reason.

A file that is too short was usually not fetched to its end; one of a few hundred bytes is often the pointer that Git LFS leaves.`,
    { language: 'sh', code: `ls -l model.safetensors && head -c 120 model.safetensors` },
  ),
  MOE5010: page(
    'the results are wrong (NumericsError)',
    `A package carries golden vectors: inputs with the results that the compiler's f64 reference has for them, under weights made
from a seed. \`verify()\` and \`moec verify\` run them on this device. A vector fails where the error, relative to the size of the
results (NMSE), is over the gate, or where any expert id differs. Then the device or its driver computes these kernels
wrongly: do not trust its results; update the driver or take another device, and please report it.`,
    { language: 'ts', code: `const report = await verify(); // { ok, device, vectors: [{ name, observed, allowed, wrongIds }] }` },
  ),
  MOE5011: page(
    'aborted (AbortError)',
    `The \`signal\` that was given to the call fired. Work that was submitted to the device already still ends there, but its results
are thrown away. The model stays usable.`,
    { language: 'ts', code: `await model.forward(ids, { signal: AbortSignal.timeout(5000) });` },
  ),
  MOE5012: page(
    'the model has been disposed (DisposedError)',
    `After \`dispose()\` the buffers of a model are gone, and every call rejects. Calls that were running when it was called end
first.`,
    { language: 'ts', code: `const y = await model.forward(ids);\nawait model.dispose(); // last` },
  ),
  MOE5013: page(
    'arguments that make no sense for this model (InputError)',
    `A token id beyond the vocabulary or a negative one, more tokens than the context, rows that are not of the model's width, a
number of ids other than the number of rows, a tensor of fractions where ids belong. Indices are checked before the device sees
them, because there they would read memory of something else. The message tells the value and its place.`,
    { language: 'ts', code: `await model.forward(Int32Array.of(1, 15, 7));            // ids from 0 to vocab − 1\nawait layer.forward(new Float32Array(tokens * hidden));  // whole rows` },
  ),
  MOE5014: page(
    'the parts of a package do not belong together (PackageError)',
    `manifest.json, the kernels, golden.bin and the runtime of a package are made together, and each is checked when it is read. This
is said where a file is missing, was edited, or comes from another version of moec. Compile the package again.`,
    { language: 'sh', code: `moec compile model.moe --out pkg` },
  ),
  MOE5015: page(
    'koffi cannot be loaded (NoKoffiError)',
    `Kernels for CUDA are built into a shared library, and Node calls it through the npm package \`koffi\`. It is looked for beside the
package, in the directory that the process runs in, and beside the \`moec\` command. Its binaries come as optional packages: an install
with \`--omit=optional\` leaves them out. It must be loaded before any other library of the process with small stacks for asynchronous
calls: these are set when the first library is loaded, and the defaults are too small.`,
    { language: 'sh', code: `npm install koffi` },
  ),
  MOE5016: page(
    'the CUDA library has not been built (NoCudaLibraryError)',
    `A package for CUDA carries its kernels as sources. They are built once on the machine, by nvcc, into \`cuda/lib/\`; the name of the
library holds the digest of its sources, so a package that was compiled again is built again. Without a GPU the same sources can be
built by g++ for an emulator, which is right but slow, and is used only where it is asked for.`,
    {
      language: 'sh',
      code: `node pkg/cuda/build.js             # needs nvcc, of the CUDA toolkit\nnode pkg/cuda/build.js --emulate   # needs g++ only; then load({ emulate: true })`,
    },
  ),
  MOE5017: page(
    'no NVIDIA driver (NoCudaDriverError)',
    `The CUDA runtime found no driver, or one that is older than the toolkit that built the library. \`nvidia-smi\` tells the driver's
version and the CUDA version it serves. In a container the driver must be passed through from the host.`,
    { language: 'sh', code: `nvidia-smi\ndocker run --gpus all ...` },
  ),
  MOE5018: page(
    'no CUDA device (NoCudaDeviceError)',
    `The driver is there, but it shows no GPU, or not the one that was asked for by number. \`CUDA_VISIBLE_DEVICES\` hides devices, and
renumbers those it leaves.`,
    { language: 'ts', code: `const model = await load({ weights, device: 1 }); // the second GPU` },
  ),
  MOE5019: page(
    'the kernels are for another architecture (CudaArchitectureError)',
    `Kernels for \`sm_80\` run on every NVIDIA GPU from Ampere on. Those for \`sm_90a\` use instructions that only Hopper has (H100, H200,
GH200): neither older nor newer GPUs run them. Compile the spec for the architecture of the device.`,
    { language: 'sh', code: `nvidia-smi --query-gpu=name,compute_cap --format=csv\nmoec compile model.moe --target cuda --arch sm_80 --out pkg` },
  ),
  MOE5020: page(
    'the CUDA library cannot be built (CudaBuildError)',
    `No compiler was found, or it refused the sources: then the message holds its command line and what it said. nvcc is looked for
in the option \`--nvcc\`, the environment variables NVCC and CUDA_HOME, on PATH, and in /usr/local/cuda/bin; it must be of CUDA 12 or
newer, and it needs a C++ compiler of the system. Nothing half-built is left behind.`,
    { language: 'sh', code: `node pkg/cuda/build.js --nvcc /usr/local/cuda/bin/nvcc` },
  ),
  MOE5030: page(
    'the input file of a run does not fit the spec',
    `\`moec run --input\` takes a safetensors file. For a model it holds \`input_ids\`, I32 [T]. For a layer it holds \`x\`, F32 [T, d]
or [B, S, d] with the d of the spec, and where the router is a hash also \`token_ids\` with one id per token. The message names what
the file holds instead.`,
    { language: 'sh', code: `moec run layer.moe --weights w.safetensors --input x.safetensors --output y.safetensors` },
  ),
  MOE5031: page(
    'a package cannot be written there',
    `\`moec compile --out DIR\` writes a package whole or not at all: into a new directory, an empty one, or one that holds an earlier
package of moec and nothing else. It refuses the directory you are in or one above it, a link, and a directory with files that it
did not write, because replacing them would lose them. Two commands never write one package at the same time.`,
    { language: 'sh', code: `moec compile model.moe --out ./pkg` },
  ),
};
