/** moec as a library: text in, diagnostics and a package out. Works in Node and in a browser. */
export { readSpecs, chooseUnit, type Chosen, type Frontend } from './driver/frontend.ts';
export { analyze, type Analysis, fit, type Spec } from './driver/analysis.ts';
export { type Compiled, type CompileOptions, compileSpec, explainFusion, type FusionReport, PASS_NAMES } from './driver/compile.ts';
export { type BuiltPackage, buildPackage } from './driver/package.ts';
export { format } from './driver/text.ts';
export { initFromConfig, initTemplate, templateNames } from './driver/init/index.ts';
export { type Capabilities, LIMIT_PROFILES } from './driver/profiles.ts';
export { type Diagnostic, renderText } from './diagnostics/index.ts';
