/** Codes 9xxx, faults of the compiler itself. */
import type { CodeTable } from './page.ts';

export const internal: CodeTable = {
  MOE9001: {
    title: 'a fault of the compiler',
    explain: `Something happened that the compiler takes to be impossible: a verifier refused what a pass made, or an assumption did not hold.
The spec may be at fault too, but then it should have been told so, with a place. Nothing was written.

Run the command again with \`--verbose\`, and report the trace together with the spec and the command line:

\`\`\`sh
moec compile model.moe --out pkg --verbose 2> trace.txt
\`\`\`
`,
  },
  MOE9002: {
    title: 'a fault of the runtime (InternalError)',
    explain: `The runtime inside a package met a state that cannot be: a buffer of another device, a command that the device refused, a section
without a form for this number of tokens. The results of the call are lost; the message and \`details\` tell what it was. Report
it together with the spec, the name of the device and the number of tokens.

\`\`\`ts
model.stats().device.name
\`\`\`
`,
  },
};
