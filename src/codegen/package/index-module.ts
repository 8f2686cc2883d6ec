/** The package's own module: binds the manifest and the kernels to the runtime, and types them for this model. */
import { IndentationText, type JSDocStructure, type OptionalKind, Project, QuoteKind, VariableDeclarationKind } from 'ts-morph';
import type { Manifest } from '../../runtime/core/abi.ts';
import { jsString } from './escape.ts';

const TYPES: readonly (readonly [string, readonly string[]])[] = [
  ['core/model.js', ['CallOptions', 'GenerateOptions', 'Layer', 'LayerOptions', 'LayerTrace', 'Model', 'TokenIds']],
  ['core/open.js', ['WeightsInput']],
  ['core/program.js', ['OnProgress', 'Progress']],
  ['core/session.js', ['Stats']],
  ['core/verify.js', ['VectorReport', 'VerifyReport']],
];

const ERRORS = [
  'AbortError', 'DeviceLostError', 'DisposedError', 'FeatureMissingError', 'InputError', 'InternalError', 'LimitTooSmallError', 'MoecError',
  'NumericsError', 'OutOfMemoryError', 'PackageError', 'SafetensorsError', 'WeightsError',
];

interface Target {
  /** The errors that only this target has. */
  readonly errors: readonly string[];
  readonly imports: readonly { readonly moduleSpecifier: string; readonly namedImports: string[] }[];
  /** Members of `parts`: how the runtime finds the texts or the library. */
  readonly parts: string;
}

const TARGETS: Readonly<Record<Manifest['target'], Target>> = {
  webgpu: {
    errors: ['NoAdapterError', 'NoWebGPUError', 'ShaderCompileError'],
    imports: [{ moduleSpecifier: './kernels/index.js', namedImports: ['kernels'] }],
    parts: 'kernels',
  },
  cuda: {
    errors: ['CudaArchitectureError', 'CudaBuildError', 'NoCudaDeviceError', 'NoCudaDriverError', 'NoCudaLibraryError', 'NoKoffiError'],
    imports: [],
    parts: "directory: new URL('./', import.meta.url).href",
  },
};

export interface IndexModuleInput {
  readonly manifest: Manifest;
  readonly hasTwin: boolean;
}

const doc = (description: string): OptionalKind<JSDocStructure>[] => [{ description: `\n${description}` }];

function infoLiteral({ model }: Manifest): string {
  const { name, kind, hidden, vocab, context, layers, params, experts, slots } = model;
  const members: readonly (readonly [string, string])[] = [
    ['name', jsString(name)],
    ['kind', jsString(kind)],
    ['hidden', String(hidden)],
    ['vocab', String(vocab)],
    ['context', String(context)],
    ['layers', String(layers)],
    ['experts', String(experts)],
    ['slots', String(slots)],
    ['params', `{ total: ${params.total}, active: ${params.active} }`],
  ];
  return `{\n${members.map(([k, v]) => `  ${k}: ${v},`).join('\n')}\n} as const`;
}

/** TypeScript text of a module at the root of the package. Everything a user wrote stands in it as a string literal. */
export function indexModule({ manifest, hasTwin }: IndexModuleInput): string {
  const project = new Project({
    useInMemoryFileSystem: true,
    skipLoadingLibFiles: true,
    manipulationSettings: { indentationText: IndentationText.TwoSpaces, quoteKind: QuoteKind.Single },
  });
  const file = project.createSourceFile('index.ts');
  const isModel = manifest.model.kind === 'model';
  const what = isModel ? 'Model' : 'Layer';
  const loader = isModel ? 'loadModel' : 'loadLayer';
  const { target } = manifest;
  const { errors, imports, parts } = TARGETS[target];
  const load = `./runtime/${target}/load.js`;
  file.addImportDeclarations([
    ...imports,
    { moduleSpecifier: './manifest.js', namedImports: ['manifest'] },
    { moduleSpecifier: './runtime/core/model.js', namedImports: [what], isTypeOnly: true },
    { moduleSpecifier: './runtime/core/verify.js', namedImports: ['VerifyReport'], isTypeOnly: true },
    { moduleSpecifier: load, namedImports: ['DeviceOptions', 'LoadOptions', 'PackageParts'], isTypeOnly: true },
    { moduleSpecifier: load, namedImports: [loader, 'verifyPackage'] },
  ]);
  file.addExportDeclaration({ moduleSpecifier: './manifest.js', namedExports: ['manifest'] });
  file.addExportDeclaration({ moduleSpecifier: './runtime/core/errors.js', namedExports: [...ERRORS, ...errors].sort() });
  for (const [path, names] of [...TYPES, [`${target}/load.js`, ['DeviceOptions', 'LoadOptions']] as const]) file.addExportDeclaration({ moduleSpecifier: `./runtime/${path}`, namedExports: [...names], isTypeOnly: true });

  const twin = hasTwin ? `\n  twin: async () => (await import('./golden/twin.js')).twin,` : '';
  file.addVariableStatement({
    declarationKind: VariableDeclarationKind.Const,
    declarations: [{
      name: 'parts',
      type: 'PackageParts',
      initializer: `{\n  manifest,\n  ${parts},\n  golden: async () => (await import('./golden/data.js')).golden(),${twin}\n}`,
    }],
  });
  file.addVariableStatement({
    isExported: true,
    docs: doc('What was compiled.'),
    declarationKind: VariableDeclarationKind.Const,
    declarations: [{ name: 'info', initializer: infoLiteral(manifest) }],
  });
  const nature = isModel
    ? `Loads the model: ${manifest.model.params.total} parameters in ${manifest.model.layers} layers; ids from 0 to ${(manifest.model.vocab ?? 1) - 1}, logits of ${manifest.model.vocab}.`
    : `Loads the layer: hidden states of ${manifest.model.hidden} numbers a token.`;
  file.addFunction({
    isExported: true,
    name: 'load',
    docs: doc(`${nature}\n@throws any of the errors exported here, with \`code\`, \`details\` and \`fix\``),
    parameters: [{ name: 'options', type: 'LoadOptions' }],
    returnType: `Promise<${what}>`,
    statements: [`return ${loader}(parts, options);`],
  });
  file.addFunction({
    isExported: true,
    name: 'verify',
    docs: doc('Runs the golden vectors on this device, without any weights; `ok` is the verdict.'),
    parameters: [{ name: 'options', type: 'DeviceOptions', initializer: '{}' }],
    returnType: 'Promise<VerifyReport>',
    statements: ['return verifyPackage(parts, options);'],
  });
  return file.getFullText();
}

/** The same module one directory further down. */
export const moveDown = (module: string): string => module.replace(/(\bfrom |\bimport\(|\bnew URL\()'\.\//g, "$1'../");
