/** Codes 2xxx, names and types: clauses and numbers of a spec, the fields of a config.json, the choice of a unit. */
import { type CodeTable, withExamples } from './page.ts';

export const names: CodeTable = {
  MOE2001: withExamples(
    'something is not said',
    `Some clauses follow from nothing else in a spec: the sizes \`vocab\`, \`hidden\` and \`context\` of a model, the heads of its
attention, how many experts there are and how many run. The compiler has no opinion about them, so they must be written.
Everything else has a default that \`moec explain FILE\` shows.`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 16 } }`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 16  active 2 } }`,
  ),
  MOE2002: withExamples(
    'not a whole number',
    `Sizes and counts are whole numbers. A width that comes out of a formula such as 8/3 · hidden must be rounded, and how
authors round (up to a multiple of 64, of 128, …) differs, so the spec has to say the result.`,
    `layer tiny { hidden 32  ffn swiglu 85.3 }`,
    `layer tiny { hidden 32  ffn swiglu 86 }`,
  ),
  MOE2003: withExamples(
    'a number is too small',
    `Counts and sizes start at 1 (shared experts and layer indices at 0). Constants of the arithmetic that divide or that are
added to a denominator must be more than 0.`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 16  active 0 } }`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 16  active 1 } }`,
  ),
  MOE2004: withExamples(
    'a number is too large',
    `Sizes have upper limits far above every published model, so that a slip of the finger (\`2^31\`, an extra zero) is told at
once instead of being compiled into kernels that no device can run.`,
    `layer tiny { hidden 2147483648  ffn swiglu 64 }`,
    `layer tiny { hidden 2048  ffn swiglu 5632 }`,
  ),
  MOE2005: withExamples(
    'a constant does not fit a 32-bit float',
    `All arithmetic of the generated kernels is in 32-bit floats, whose largest value is about 3.4e38. A larger constant would be
infinite there.`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 16  active 2  router scale 1e39 } }`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 16  active 2  router scale 16 } }`,
  ),
  MOE2006: withExamples(
    'a constant becomes zero in 32-bit floats',
    `The smallest normal 32-bit float is about 1.2e-38. Smaller ones round to zero, or devices flush them to zero without
a word. An epsilon that is zero guards nothing.`,
    `layer tiny { hidden 32  norm rms 1e-46  ffn swiglu 64 }`,
    `layer tiny { hidden 32  norm rms 1e-6  ffn swiglu 64 }`,
  ),
  MOE2007: withExamples(
    'a clause without meaning here',
    `Clauses belong to certain variants: \`kv\` to grouped-query attention, \`kv-lora\` to latent attention, \`clamp\` to \`swiglu\`,
\`groups\` to \`top-k\`, and so on. A clause that would be read and then ignored is refused, because somebody expects it to act.`,
    `layer tiny { hidden 32  ffn mlp gelu 64 interleaved }`,
    `layer tiny { hidden 32  ffn swiglu 64 interleaved }`,
  ),
  MOE2008: withExamples(
    'two units of one name',
    `A file may hold several models and layers. Commands choose one by its name (\`--unit\`), so names differ.`,
    `layer a { hidden 32  ffn swiglu 64 }
layer a { hidden 64  ffn swiglu 64 }`,
    `layer a { hidden 32  ffn swiglu 64 }
layer b { hidden 64  ffn swiglu 64 }`,
  ),
  MOE2050: {
    title: 'not a config.json of a model',
    explain: `\`moec init --from\` reads the config.json that lies beside the weights of a Hugging Face model: one JSON object whose
field \`model_type\` names the family. A file of another kind, a list, or text that is not JSON cannot be read.`,
  },
  MOE2051: {
    title: 'a model family that is not known',
    explain: `\`moec init\` knows the decoder families whose layers the language can say. Other families have parts (recurrent or
convolutional layers, encoders, vision towers) that a spec cannot express; writing a spec of the rest would compile to another model.`,
  },
  MOE2052: {
    title: 'a field is missing in config.json',
    explain: `Some fields have defaults in the config class of their family, which \`moec init\` knows and writes down as comments. The
sizes of a model have none: without them there is no spec.`,
  },
  MOE2053: {
    title: 'a field of config.json has the wrong type',
    explain: `A field holds something else than its family defines, such as a text where a number is expected, a fraction where something
is counted, or a list whose length is not the number of layers.`,
  },
  MOE2054: {
    title: 'config.json says something that the language cannot express',
    explain: `The spec was written without this part, so it describes a model that differs from the checkpoint: counts may be right while
results are not. The message names the field. Do not compile such a spec to run the checkpoint.`,
  },
  MOE2055: {
    title: 'no template of that name',
    explain: `\`moec init --template NAME\` starts from one of a few small specs; the message lists them.`,
  },
  MOE2056: {
    title: 'a model without experts',
    explain: `The config.json describes a dense model. The spec is written all the same: dense models compile too, and are what
mixtures are compared with.`,
  },
  MOE2090: {
    title: 'no unit of that name',
    explain: `\`--unit NAME\` names a model or layer that the file does not declare. \`moec check FILE\` lists what it declares.`,
  },
  MOE2091: {
    title: 'a file without units',
    explain: `The file declares no model and no layer, so there is nothing to work on. Begin with \`moec init --template layer\`.`,
  },
  MOE2092: {
    title: 'several units, none chosen',
    explain: `The file declares several models or layers and the command works on one. Choose it with \`--unit NAME\`.`,
  },
};
