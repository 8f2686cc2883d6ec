/** Codes 1xxx, syntax. */
import { type CodeTable, withExamples } from './page.ts';

export const syntax: CodeTable = {
  MOE1001: withExamples(
    'unexpected character',
    `A spec is made of words, numbers, names in double quotes, braces, \`,\` and \`..\`. White space separates them and
means nothing else. There are no \`=\`, \`:\` or \`;\`, and lists have no brackets. Comments begin with \`//\`, or stand
between \`/*\` and \`*/\`. Text that was pasted from a web page may hold invisible characters; they are reported too.`,
    `layer tiny { hidden = 32  ffn swiglu 64 }`,
    `layer tiny { hidden 32  ffn swiglu 64 }`,
  ),
  MOE1002: withExamples(
    'unclosed name',
    `A name in double quotes ends on the line on which it begins. Write \`\\"\` for a quote inside it.`,
    `layer "my layer { hidden 32  ffn swiglu 64 }`,
    `layer "my layer" { hidden 32  ffn swiglu 64 }`,
  ),
  MOE1003: withExamples(
    'unclosed comment',
    `A comment that begins with \`/*\` ends at the next \`*/\`. Without one, the rest of the file is taken for a comment.`,
    `layer tiny { hidden 32  ffn swiglu 64 }  /* a small one`,
    `layer tiny { hidden 32  ffn swiglu 64 }  /* a small one */`,
  ),
  MOE1004: withExamples(
    'bad character in a name',
    `In a quoted name a backslash begins an escape: \`\\"\`, \`\\\\\`, or \`\\u\` with four hexadecimal digits. Control
characters (tabs, line feeds, NUL) cannot be part of a name, written out or escaped.`,
    `layer "tiny\\nlayer" { hidden 32  ffn swiglu 64 }`,
    `layer "tiny \\"layer\\"" { hidden 32  ffn swiglu 64 }`,
  ),
  MOE1005: withExamples(
    'a word touches a number',
    `A number ends where a space, a brace, \`,\` or \`..\` follows. Numbers have no units or suffixes: \`4k\` could mean 4000
or 4096. Digits may be grouped with \`_\`, as in \`102_400\`.`,
    `model m { vocab 102k  hidden 2048 }`,
    `model m { vocab 102_400  hidden 2048 }`,
  ),
  MOE1006: withExamples(
    'a number that cannot be kept',
    `Numbers are double precision: whole numbers are exact up to 2^53, and nothing is larger than about 1.8e308. A number
that would silently become another one is refused.`,
    `layer tiny { hidden 9007199254740993  ffn swiglu 64 }`,
    `layer tiny { hidden 32  ffn swiglu 64 }`,
  ),
  MOE1007: withExamples(
    'unknown word',
    `No clause begins with this word, and no option is called so. The message lists what may stand there, or the word that
was probably meant. Words are case-sensitive: the paper's \`m\`, \`N\`, \`K\` and \`Ks\` are written as there.`,
    `layer tiny { hiden 32  ffn swiglu 64 }`,
    `layer tiny { hidden 32  ffn swiglu 64 }`,
  ),
  MOE1008: withExamples(
    'a word in the wrong place',
    `The word is part of the language, but belongs into another block, or behind another clause. If it belongs to a block
further out, a closing brace may be missing above.`,
    `layer tiny { moe { hidden 32  experts 8 of swiglu 64  active 2 } }`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 64  active 2 } }`,
  ),
  MOE1009: withExamples(
    'something else was expected',
    `A clause lacks a part, or the part is of another kind: a number is missing, or a word stands where only certain other
words may.`,
    `layer tiny { hidden 32  moe { experts 8 of 64  active 2 } }`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 64  active 2 } }`,
  ),
  MOE1010: withExamples(
    'unclosed block',
    `Every \`{\` needs its \`}\`. The message shows the innermost block that is still open where the file ends; the brace may
be missing further up.`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 64  active 2 }`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 64  active 2 } }`,
  ),
  MOE1011: withExamples(
    'a brace that closes nothing',
    `There are more closing than opening braces. Often a block above ends earlier than its indentation says.`,
    `layer tiny { hidden 32  ffn swiglu 64 } }`,
    `layer tiny { hidden 32  ffn swiglu 64 }`,
  ),
  MOE1012: withExamples(
    'said twice',
    `A clause stands at most once in a block, and an option at most once in a clause: nobody should have to know which of
two would count. Layers that differ have blocks of their own.`,
    `layer tiny { hidden 32  hidden 64  ffn swiglu 64 }`,
    `layer tiny { hidden 32  ffn swiglu 64 }`,
  ),
  MOE1013: withExamples(
    'two ways of counting experts',
    `Published models are counted in two ways, and a \`moe\` block must use one of them throughout.

Released counting: \`experts 64 … active 6  shared 2\` has 64 routed experts of which 6 run for a token; 2 shared ones come
on top. The paper's counting: \`segment m 4 of N 16 … active K 2  shared Ks 1\` has mN = 64 experts of which mK = 8 run, the
shared one included: 63 routed experts of which 7 run. The letters \`K\` and \`Ks\` mark the numbers as the paper's.`,
    `layer tiny { hidden 32  moe { segment m 4 of N 16 into swiglu 8  active 8  shared 1 } }`,
    `layer tiny { hidden 32  moe { segment m 4 of N 16 into swiglu 8  active K 2  shared Ks 1 } }`,
  ),
  MOE1014: {
    title: 'the file is too long',
    explain: `A spec has at most 65536 characters. Nothing that describes a model is so long; the file is probably another kind of
file, such as weights. Several models may stand in several files.
`,
  },
  MOE1015: {
    title: 'more problems',
    explain: `At most 20 problems are shown in one run; the others are counted. Correct the first ones and check again: some of the
rest are often consequences of them.
`,
  },
  MOE1016: withExamples(
    'not a name',
    `A name appears in messages, files and packages: it must have something to show and be valid Unicode.`,
    `layer "" { hidden 32  ffn swiglu 64 }`,
    `layer "tiny" { hidden 32  ffn swiglu 64 }`,
  ),
  MOE1017: withExamples(
    'nothing declared',
    `A file holds one or more units: \`model NAME { … }\` or \`layer NAME { … }\`. This one is empty, or has comments only.`,
    `// to be done`,
    `layer tiny { hidden 32  ffn swiglu 64 }`,
  ),
  MOE1018: withExamples(
    'two answers to one question',
    `Some clauses and options are alternatives: a router has one score and one way to select, a layer has \`ffn\` or \`moe\`,
rotary pairs are \`half\` or \`interleaved\`. Only one of them can hold.`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 64  active 2  router softmax sigmoid top-k } }`,
    `layer tiny { hidden 32  moe { experts 8 of swiglu 64  active 2  router softmax top-k } }`,
  ),
};
